"""SQLite databases that refuse as LiteFS does, and connections that are dead: SQLite's own errors, with its own codes.

What is done to a file is done to the descriptors that this process has of it: only connections that are open see it.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def database(directory: Path, mode: str = "DELETE") -> Path:
    """One with a table ``t``, of one row."""
    path = directory / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    return path


def refuse_writes(path: Path) -> None:
    """As on a replica. With a rollback journal, for every connection, and for as long as it lasts: 'attempt to write a
    readonly database' at the statement (https://sqlite.org/fileformat2.html, 1.3.3). With a WAL, for those that are open:
    'disk I/O error' at the COMMIT."""
    if not _replace(Path(f"{path}-wal"), os.O_RDONLY):
        _set_write_version(path, 3)


def allow_writes(path: Path) -> None:
    """As on a node that has become the primary, with a rollback journal, for new connections."""
    _set_write_version(path, 1)


def _set_write_version(path: Path, version: int) -> None:
    with path.open("r+b", buffering=0) as file:
        head = bytearray(file.read(28))
        head[18] = version
        head[27] = (head[27] + 1) % 256  # the last byte of the change counter: who has read the head reads it anew
        file.seek(0)
        file.write(head)


def kill_connections(path: Path) -> None:
    """As where LiteFS was started anew: whoever is connected can't even lock it."""
    assert _replace(path, os.O_PATH)


def _replace(path: Path, flags: int) -> bool:
    """Give each open descriptor of a file another way to it. Whether there was any."""
    found = False
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if target == str(path):
            other = os.open(path, flags | os.O_CLOEXEC)
            os.dup2(other, int(name), inheritable=False)
            os.close(other)
            found = True
    return found
