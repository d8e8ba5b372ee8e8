"""A database's content can be replaced under open connections, as LiteFS does it on a replica."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litefs_watch.testing.sqlite_file import DatabaseFile, page_count, same_content

Connect = Callable[..., sqlite3.Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Autocommit connections, closed at the end."""
    connections = []

    def open_one(path: Path | str) -> sqlite3.Connection:
        connections.append(sqlite3.connect(path, isolation_level=None, timeout=1))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()


@pytest.fixture(params=["delete", "wal"])
def source(request: pytest.FixtureRequest, tmp_path: Path, connect: Connect) -> sqlite3.Connection:
    """A primary's database in either journal mode, with one row."""
    connection = connect(tmp_path / "source")
    connection.execute(f"PRAGMA journal_mode={request.param}")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (0)")
    return connection


@pytest.fixture
def replica(source: sqlite3.Connection, tmp_path: Path) -> Path:
    path = tmp_path / "replica"
    path.write_bytes(source.serialize())
    return path


@pytest.fixture
def file(replica: Path) -> Iterator[DatabaseFile]:
    with closing(DatabaseFile(replica)) as file:
        yield file


def test_open_connections_see_each_new_content(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile, connect: Connect
) -> None:
    """Those that were open before, and those that come and go, in growing and shrinking databases."""
    first, second = connect(replica), connect(replica)
    for number in range(1, 60):
        source.execute("INSERT INTO t VALUES (zeroblob(?))", (number * 200,))
        if number % 10 == 0:
            source.execute("DELETE FROM t WHERE rowid % 3 = 0")
            source.execute("VACUUM")
        assert file.replace(source.serialize(), read_only=True)
        expected = source.execute("SELECT count(*), total(length(x)) FROM t").fetchone()
        for connection in (first, second, connect(replica)):
            assert connection.execute("SELECT count(*), total(length(x)) FROM t").fetchone() == expected
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_reader_keeps_the_new_content_away(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile, connect: Connect
) -> None:
    """An open read transaction sees one state, other readers go on meanwhile, and its end lets the new state in."""
    reader, other = connect(replica), connect(replica)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
    source.execute("INSERT INTO t VALUES (1)")
    assert not file.replace(source.serialize(), read_only=True)
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
    reader.execute("COMMIT")
    assert file.replace(source.serialize(), read_only=True)
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_a_reader_in_another_process_keeps_it_away_too(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile
) -> None:
    """The locks are SQLite's, so they hold between processes."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN')\n"
    script += "print(c.execute('SELECT count(*) FROM t').fetchone(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(replica)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"(1,)\n"
        assert not file.replace(source.serialize(), read_only=True)
        process.communicate()
    assert file.replace(source.serialize(), read_only=True)


def test_a_read_only_database_refuses_writes_with_litefs_own_words(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile, connect: Connect
) -> None:
    """In every connection, also one that was open before; setting the journal mode it has already is no write."""
    before = connect(replica)
    before.execute("SELECT * FROM t").fetchall()
    assert file.replace(source.serialize(), read_only=True)
    (mode,) = source.execute("PRAGMA journal_mode").fetchone()
    for connection in (before, connect(replica)):
        assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        for statement in ("INSERT INTO t VALUES (1)", "CREATE TABLE u (x)", "PRAGMA user_version = 5"):
            with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
                connection.execute(statement)


def test_writing_can_be_forbidden_and_allowed_without_touching_the_content(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile, connect: Connect
) -> None:
    """`mark` waits for open transactions and for a checkpoint, and keeps what was committed."""
    writer = connect(replica)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO t VALUES (1)")
    assert not file.mark(read_only=True)
    writer.execute("COMMIT")
    if writer.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        assert not file.mark(read_only=True)
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert file.mark(read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        writer.execute("INSERT INTO t VALUES (2)")
    assert file.mark(read_only=False)
    again = connect(replica)
    again.execute("INSERT INTO t VALUES (3)")
    assert again.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_what_a_dead_process_left_does_not_come_back(
    source: sqlite3.Connection, replica: Path, file: DatabaseFile, connect: Connect
) -> None:
    """A WAL or a journal beside the file belongs to the old content."""
    script = "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    script += "c.execute('BEGIN'); c.execute('UPDATE t SET x = 99'); c.execute('COMMIT')\n"
    script += "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN'); c.execute('DELETE FROM t'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(replica)], check=True)
    assert file.replace(source.serialize(), read_only=True)
    assert connect(replica).execute("SELECT x FROM t").fetchall() == [(0,)]


def test_marks_are_no_content(source: sqlite3.Connection, replica: Path, file: DatabaseFile) -> None:
    """Two databases that differ only in what `DatabaseFile` writes into the header have the same content."""
    image = source.serialize()
    assert file.replace(image, read_only=True)
    assert replica.read_bytes() != image
    assert same_content(replica.read_bytes(), image)
    source.execute("INSERT INTO t VALUES (1)")
    assert not same_content(source.serialize(), image)
    assert page_count(image) == source.execute("PRAGMA page_count").fetchone()[0]
