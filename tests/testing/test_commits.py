"""However a connection commits, the cluster knows it before the call returns."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing.commits import CommitWatch, publishing_connection


def by_commit(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()


def by_context(connection: sqlite3.Connection) -> None:
    with connection:
        connection.cursor().execute("INSERT INTO t VALUES (1)")


def by_statement(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.cursor().execute("COMMIT")


def by_script(connection: sqlite3.Connection) -> None:
    connection.executescript("BEGIN; INSERT INTO t VALUES (1); COMMIT;")


def by_definition(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE u (x)")


def by_pragma(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version = 7")


def in_autocommit(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None
    connection.execute("INSERT INTO t VALUES (1)")


def many_in_autocommit(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None
    connection.executemany("INSERT INTO t VALUES (?)", [(1,)])


def returning(fetch: Callable[[sqlite3.Cursor], object]) -> Callable[[sqlite3.Connection], None]:
    def commit(connection: sqlite3.Connection) -> None:
        connection.isolation_level = None
        fetch(connection.execute("INSERT INTO t VALUES (1) RETURNING x"))

    return commit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
    return path


@pytest.fixture
def watch(path: Path) -> Iterator[CommitWatch]:
    with closing(CommitWatch(path)) as watch:
        watch.image()
        yield watch


@pytest.mark.parametrize(
    "commit",
    [
        by_commit,
        by_context,
        by_statement,
        by_script,
        by_definition,
        by_pragma,
        in_autocommit,
        many_in_autocommit,
        returning(lambda cursor: cursor.fetchone()),
        returning(lambda cursor: cursor.fetchmany(5)),
        returning(lambda cursor: cursor.fetchall()),
        returning(list),
    ],
)
def test_a_commit_is_published_before_it_returns(
    path: Path, watch: CommitWatch, commit: Callable[[sqlite3.Connection], None]
) -> None:
    """Once published, the commit is there to be seen; and there are no other states in between."""
    images: list[bytes | None] = []
    with closing(sqlite3.connect(path, factory=publishing_connection(lambda: images.append(watch.image())))) as connection:
        commit(connection)
        seen = [image for image in images if image is not None]
        assert len(seen) == 1
        with closing(sqlite3.connect(":memory:")) as copy:
            copy.deserialize(seen[0])
            expected = connection.execute("SELECT count(*) FROM t").fetchone()
            assert copy.execute("SELECT count(*) FROM t").fetchone() == expected
            assert copy.execute("PRAGMA user_version").fetchone() == connection.execute("PRAGMA user_version").fetchone()
    assert watch.image() is None


def test_nothing_is_published_inside_a_transaction_or_for_a_query(path: Path) -> None:
    """Nor for one that is rolled back."""
    published: list[bool] = []
    with closing(sqlite3.connect(path, factory=publishing_connection(lambda: published.append(True)))) as connection:
        connection.execute("SELECT * FROM t").fetchall()
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("SELECT * FROM t").fetchone()
        assert published == []
        connection.rollback()
        assert published == []


def test_a_frameworks_own_cursor_publishes_too(path: Path) -> None:
    """Django gives its own class to ``cursor(factory=...)``."""
    published: list[bool] = []

    class FrameworkCursor(sqlite3.Cursor):
        def execute(self, query: str, parameters: Any = ()) -> Any:
            return super().execute(query.replace("%s", "?"), parameters)

    with closing(sqlite3.connect(path, factory=publishing_connection(lambda: published.append(True)))) as connection:
        connection.isolation_level = None
        cursor = connection.cursor(factory=FrameworkCursor)
        assert isinstance(cursor, FrameworkCursor)
        cursor.execute("INSERT INTO t VALUES (%s)", (1,))
        assert published == [True]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_commit_of_another_process_is_seen(path: Path, mode: str) -> None:
    """Once, with its rows, whether or not one asks for the files' times first; nothing new is nothing."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (1)'); c.commit()"
    with closing(CommitWatch(path)) as watch:
        assert watch.image() is not None
        for look in (watch.image, watch.image_if_touched):
            assert look() is None
            subprocess.run([sys.executable, "-c", script, str(path)], check=True)
            assert look() is not None
            assert look() is None


def test_a_quick_second_commit_is_not_missed(path: Path, watch: CommitWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file's times are those of the commit before, since its clock ticks slowly."""
    tick = 20_000_000  # nanoseconds; the slowest kernels tick at 100 Hz
    monkeypatch.setattr(CommitWatch, "_stat", lambda _, path: os.path.exists(path) and os.stat(path).st_mtime_ns // tick)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for number in range(200):
            connection.execute("INSERT INTO t VALUES (?)", (number,))
            assert watch.image_if_touched() is not None


def test_a_database_that_is_being_written_is_left_for_the_next_look(path: Path, watch: CommitWatch) -> None:
    """The quick look finds nothing, the sure one says that it is locked, and afterwards both see the commit."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO t VALUES (1)")
        assert watch.image_if_touched() is None
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            watch.image()
        connection.execute("COMMIT")
        assert watch.image_if_touched() is not None


def test_what_a_checkpoint_does_is_no_commit(path: Path) -> None:
    """Neither itself, nor with what the next write does before it is committed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, closing(CommitWatch(path)) as watch:
        connection.execute("PRAGMA journal_mode=WAL")
        for pragma in ("PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"):
            connection.execute("INSERT INTO t VALUES (1)")
            assert watch.image() is not None
            connection.execute(pragma)
            assert watch.image() is None
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO t VALUES (2)")
            assert watch.image() is None
            connection.execute("COMMIT")
            assert watch.image() is not None


def test_each_wal_index_counts_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is seen also where the last connection has just taken the index with its count away."""
    with closing(CommitWatch(path)) as watch:
        watch.image()
        first = sqlite3.connect(path, isolation_level=None)
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("INSERT INTO t VALUES (1)")
        count = watch._transactions

        def then_close() -> object:
            counted = count()
            first.close()
            return counted

        monkeypatch.setattr(watch, "_transactions", then_close)
        assert watch.image() is not None
        monkeypatch.undo()
        with closing(sqlite3.connect(path, isolation_level=None)) as second:
            second.execute("INSERT INTO t VALUES (2)")
            assert watch.image() is not None


def test_an_index_that_is_left_over_hides_no_commit(tmp_path: Path) -> None:
    """Of a database in WAL mode that was here before this one, which has no WAL."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, closing(CommitWatch(path)) as watch:
        connection.execute("CREATE TABLE t (x)")
        (tmp_path / "app.db-shm").write_bytes(bytes(32768))
        watch.image()
        by_commit(connection)
        assert watch.image() is not None
        assert watch.image() is None
