"""LiteFS's data directory: what stays on the disk of a node that is stopped or killed."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from litefs_watch.position import Position
from litefs_watch.testing.files import Staging, empty_database
from litefs_watch.testing.ltx import ltx_file, ltx_name

LTX_KEPT = 100
"""LTX files that stay for each database; LiteFS itself keeps ten minutes of them (``data.retention``)."""


class DataDirectory:
    """LiteFS's ``data.dir``: for each database its SQLite file, and a folder of LTX files.

    A database's file is ``dbs/DB/database``; the mount only links to it. So it outlives a stopped node, as with LiteFS.
    """

    def __init__(self, directory: Path, staging: Staging) -> None:
        self.path = directory
        self._staging = staging
        self._kept: dict[str, deque[str]] = {}

    def database_path(self, database: str) -> Path:
        return self.path / "dbs" / database / "database"

    def create(self, database: str) -> Path:
        """The path of the database's file; an empty database is made where there is none."""
        path = self.database_path(database)
        (path.parent / "ltx").mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(empty_database())
        return path

    def add_ltx(self, database: str, position: Position, previous: Position | None, pages: int) -> None:
        """Rename an LTX file into place. A snapshot, which has nothing previous, replaces all others, as on LiteFS."""
        folder = f"{self.path}/dbs/{database}/ltx"
        if database not in self._kept:
            self._kept[database] = deque()
            os.makedirs(folder, exist_ok=True)
        kept = self._kept[database]
        path = f"{folder}/{ltx_name(position, previous)}"
        self._staging.place(path, ltx_file(position, previous, pages))
        if path in kept:
            kept.remove(path)
        while kept and (previous is None or len(kept) >= LTX_KEPT):
            os.unlink(kept.popleft())
        kept.append(path)

    def drop(self, database: str) -> None:
        """Remove the database's SQLite files; its LTX files stay."""
        for path in (self.path / "dbs" / database).glob("database*"):
            path.unlink(missing_ok=True)
