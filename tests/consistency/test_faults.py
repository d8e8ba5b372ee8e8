"""What an exception says: a write that was refused, or a connection that is dead, by SQLite's own errors."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from django.db.utils import OperationalError as DjangoOperationalError

from litefs_watch.consistency.faults import is_dead_connection, is_refused_write, may_belong_elsewhere, sqlite_says
from tests.refusing import database, kill_connections, refuse_writes

INSERT = "BEGIN; INSERT INTO t VALUES (2); COMMIT"
SELECT = "SELECT * FROM t"


def wrapped(error: sqlite3.Error) -> list[BaseException]:
    """As it is, and as Django and SQLAlchemy raise it."""
    try:
        raise DjangoOperationalError(*error.args) from error
    except DjangoOperationalError as django:
        return [error, django, sqlalchemy.exc.OperationalError("INSERT INTO t VALUES (2)", {}, error)]


@pytest.mark.parametrize(
    ("mode", "refused", "script", "code"),
    [
        ("DELETE", True, INSERT, "SQLITE_READONLY"),
        ("WAL", True, INSERT, "SQLITE_IOERR_WRITE"),
        ("DELETE", False, INSERT, "SQLITE_IOERR_LOCK"),
        ("DELETE", False, SELECT, "SQLITE_IOERR_LOCK"),
    ],
)
def test_what_sqlite_says(tmp_path: Path, mode: str, refused: bool, script: str, code: str) -> None:
    """Of a write that is refused, and of anything over a connection that is dead: the code tells, whoever has wrapped it."""
    path = database(tmp_path, mode)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("SELECT * FROM t").fetchall()
        (refuse_writes if refused else kill_connections)(path)
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.executescript(script)
    error = caught.value
    assert error.sqlite_errorname == code
    for each in wrapped(error):
        assert (is_refused_write(each), is_dead_connection(each), may_belong_elsewhere(each)) == (
            refused,
            not refused,
            refused,
        )


@pytest.mark.parametrize(
    ("name", "is_dead"),
    [
        ("SQLITE_IOERR_FSTAT", True),  # where LiteFS was killed
        ("SQLITE_IOERR_READ", True),
        ("SQLITE_IOERR_FSYNC", False),
        ("SQLITE_IOERR", False),
        (None, False),
    ],
)
def test_an_error_of_the_disk(name: str | None, is_dead: bool) -> None:
    """Before anything is written, or when it is; where nothing tells, it may be a refused write."""
    error = sqlite3.OperationalError("disk I/O error")
    if name is not None:
        error.sqlite_errorname = name
    assert (is_dead_connection(error), is_refused_write(error)) == (is_dead, not is_dead)


@pytest.mark.parametrize(("statement", "is_dead"), [(" select 1", True), ("INSERT INTO t VALUES (2)", False), (None, False)])
def test_a_driver_without_codes(statement: str | None, is_dead: bool) -> None:
    """Its statement tells, where SQLAlchemy names it; also with a code that is not SQLite's extended one."""
    for names in ({}, {"sqlite_errorname": "SQLITE_IOERR"}):
        driver = type("OperationalError", (Exception,), names)
        error = sqlalchemy.exc.OperationalError(statement, {}, driver("disk I/O error"))
        assert (is_dead_connection(error), is_refused_write(error)) == (is_dead, not is_dead)


def test_what_the_log_gets() -> None:
    """Neither statement nor values; and some text, whatever the error is."""
    error = sqlite3.OperationalError("attempt to write a readonly database")
    for each in wrapped(error):
        assert sqlite_says(each) == "attempt to write a readonly database"
    assert sqlite_says(KeyError("secret")) == "KeyError"


def test_a_refused_write_counts_among_other_errors() -> None:
    """Raised while an error of a dead connection is handled; and nothing else is a dead connection."""
    dead: Any = sqlite3.OperationalError("disk I/O error")
    dead.sqlite_errorname = "SQLITE_IOERR_LOCK"
    both = ExceptionGroup("tasks", [dead, sqlite3.OperationalError("attempt to write a readonly database")])
    assert (is_dead_connection(both), is_refused_write(both)) == (False, True)
    for other in (ValueError("disk I/O error"), sqlite3.OperationalError("database is locked"), KeyError()):
        assert (is_dead_connection(other), is_refused_write(other)) == (False, False)
