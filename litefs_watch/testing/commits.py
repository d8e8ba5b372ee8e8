"""Notices commits to an ordinary SQLite file, which LiteFS sees as they happen, since it is the file system.

- `CommitWatch` finds out that any connection, of any process, has committed. A cluster looks every millisecond.
- `publishing_connection` makes connections that have the cluster look before their COMMIT returns.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

_RACY = 0.05
"""Seconds after a change of a file in which another one may leave its times the same: the clock of a file system ticks with
the kernel, at 100 Hz or more."""
_TRANSACTIONS = 8  # offset in the WAL index (https://sqlite.org/walformat.html, 2.1): a counter of 4 bytes
_RECHECK = 0.25
"""Seconds between two looks at a file whose times and sizes stay the same: the net below `_RACY`."""


class CommitWatch:
    """Sees that a database has changed since the last look. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._paths = (str(path), f"{path}-wal")
        # It waits no longer than this for a writer that is just writing; the next look is a millisecond away.
        self._connection = sqlite3.connect(path, timeout=0.02, isolation_level=None, check_same_thread=False)
        self._version: int | None = None
        self._counter: tuple[int, bytes] | None = None
        # Closing it drops the locks that SQLite has on the file in this process: it stays open as long as the file is there.
        self._index = -1
        self._signature: object = None
        self._look_until = 0.0
        self._look_at = 0.0

    def image(self) -> bytes | None:
        """The database's content if there was a commit since the last look (or if this is the first one), else None.

        Raises `sqlite3.OperationalError` while another connection is writing it.
        """
        counter = self._transactions()
        self._connection.execute("BEGIN")
        try:
            # Within one transaction: the version of just this content.
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return None
            (mode,) = self._connection.execute("PRAGMA journal_mode").fetchone()
            image = self._connection.serialize()
        finally:
            self._connection.execute("ROLLBACK")
        # A checkpoint, and who writes after it before it is done, change the version like a commit; not this counter, which
        # is the image's where it is the same before and after.
        # A database that was dropped and made again may have its predecessor's index beside it.
        committed = mode != "wal" or counter is None or not counter == self._counter == self._transactions()
        self._version, self._counter = version, counter
        return image if committed else None

    def image_if_touched(self) -> bytes | None:
        """As `image`, for a look every millisecond: most times it only asks for the files' times, and locks nothing."""
        now = time.monotonic()
        signature = [self._stat(path) for path in self._paths]
        if signature != self._signature:
            self._signature = signature
            self._look_until = now + _RACY
        if now > self._look_until and now < self._look_at:
            return None
        try:
            image = self.image()
        except sqlite3.OperationalError:
            self._look_until = now + _RACY
            return None
        self._look_at = now + _RECHECK
        return image

    def checkpoint(self) -> bool:
        """Bring what is in the WAL into the database's file, and empty it. False while a transaction is in the way."""
        try:
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        return not busy

    def close(self) -> None:
        self._connection.close()
        if self._index >= 0:
            os.close(self._index)

    def _transactions(self) -> tuple[int, bytes] | None:
        """The WAL index, by its inode, and its count of transactions, which each index begins anew; None without a WAL."""
        path = f"{self._paths[0]}-shm"
        try:
            if self._index < 0 or not os.path.samestat(os.fstat(self._index), os.stat(path)):
                if self._index >= 0:
                    os.close(self._index)
                self._index = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return os.fstat(self._index).st_ino, os.pread(self._index, 4, _TRANSACTIONS)

    @staticmethod
    def _stat(path: str) -> tuple[int, int, int] | None:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def publishing_connection(publish: Callable[[], None]) -> type[sqlite3.Connection]:
    """A class for ``sqlite3.connect(..., factory=)`` which calls ``publish`` before a commit returns.

    However it commits: by ``commit()``, ``with connection``, a ``COMMIT``, or a statement in autocommit mode. What ends
    without one of sqlite3's calls (a ``RETURNING`` whose rows are dropped unread) is left to the look every millisecond.
    """

    class PublishingConnection(sqlite3.Connection):
        _changes_published = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            # A replica's file is read-only by its header. Once SQLite has read that, BEGIN IMMEDIATE begins a read there, as
            # it does on LiteFS; before, it would fail.
            with contextlib.suppress(sqlite3.OperationalError):
                super().execute("PRAGMA schema_version").close()

        def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
            return super().cursor(_publishing_cursor(factory))

        # sqlite3's own make a plain cursor, whatever `cursor` answers.

        def execute(self, *arguments: Any) -> Any:
            return self.cursor().execute(*arguments)

        def executemany(self, *arguments: Any) -> Any:
            return self.cursor().executemany(*arguments)

        def executescript(self, *arguments: Any) -> Any:
            return self.cursor().executescript(*arguments)

        def commit(self) -> None:
            super().commit()
            self.publish_commit()

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> Literal[False]:
            super().__exit__(kind, error, traceback)
            self.publish_commit()
            return False

        def publish_commit(self, *, only_changes: bool = False) -> None:
            """Publish, unless a transaction is open; with ``only_changes`` only if rows have changed since the last time."""
            changes = self.total_changes
            if not self.in_transaction and not (only_changes and changes == self._changes_published):
                self._changes_published = changes
                publish()

    @cache
    def _publishing_cursor(base: type[sqlite3.Cursor]) -> type[sqlite3.Cursor]:
        """The same for a cursor class, which may be a framework's own."""

        class PublishingCursor(base):  # type: ignore[valid-type,misc]
            def execute(self, *arguments: Any) -> Any:
                return self._published(super().execute(*arguments))

            def executemany(self, *arguments: Any) -> Any:
                return self._published(super().executemany(*arguments))

            def executescript(self, *arguments: Any) -> Any:
                return self._published(super().executescript(*arguments))

            def _published(self, result: Any) -> Any:
                # Statements that answer with rows seldom change anything without counting it.
                self.connection.publish_commit(only_changes=self.description is not None)
                return result

            # A RETURNING in autocommit mode commits when its last row has been fetched.

            def fetchone(self) -> Any:
                row = super().fetchone()
                self.connection.publish_commit(only_changes=True)
                return row

            def fetchmany(self, *arguments: Any, **keywords: Any) -> list[Any]:
                rows: list[Any] = super().fetchmany(*arguments, **keywords)
                self.connection.publish_commit(only_changes=True)
                return rows

            def fetchall(self) -> list[Any]:
                rows: list[Any] = super().fetchall()
                self.connection.publish_commit(only_changes=True)
                return rows

            def __next__(self) -> Any:
                try:
                    return super().__next__()
                finally:
                    self.connection.publish_commit(only_changes=True)

        return PublishingCursor

    return PublishingConnection
