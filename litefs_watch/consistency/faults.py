"""What an application's exception says about where its request should have run. Without importing any driver.

What SQLite says on LiteFS 0.5.14, as measured:

==========================================================================  =========================================
a write on a replica, with a rollback journal                               'attempt to write a readonly database'
the same with a WAL; within a transaction not before its COMMIT             'disk I/O error', ``SQLITE_IOERR_WRITE``
anything over a connection from before LiteFS was started anew; or it died  'disk I/O error', ``SQLITE_IOERR_LOCK``, or
                                                                            ``SQLITE_IOERR_FSTAT``
==========================================================================  =========================================

The last one says nothing of where a request belongs: the next connection works.
"""

from __future__ import annotations

from collections.abc import Iterator

from litefs_watch.errors import NoPrimary, NotPrimary, TransactionLost, WaitTimeout

# SQLite's messages for SQLITE_READONLY and SQLITE_IOERR: LiteFS refuses a replica's write with one or the other.
MESSAGES = ("attempt to write a readonly database", "disk I/O error")

_DEAD = frozenset(
    f"SQLITE_IOERR_{step}"
    for step in (
        *("LOCK", "RDLOCK", "UNLOCK", "CHECKRESERVEDLOCK", "FSTAT", "ACCESS"),
        *("READ", "SHORT_READ", "SEEK", "SHMOPEN", "SHMSIZE", "SHMMAP", "MMAP"),
    )
)
"""What SQLite does before it writes anything: LiteFS refuses none of it."""

_DEPTH = 50
"""Exceptions that are looked at: a chain can be circular."""


def is_refused_write(error: BaseException) -> bool:
    """Whether a write that SQLite refused is behind ``error``: an ``OperationalError`` with one of the two messages, but for
    an `is_dead_connection`.

    Behind it: what it was raised from or while handling (Django's wrapper), its ``orig`` (SQLAlchemy's), a group's members.
    By the class's name, so that drivers that imitate `sqlite3` count too.
    """
    chain = list(_chain(error))
    return any(_says(behind, MESSAGES[0]) for behind in chain) or (
        any(_says(behind, MESSAGES[1]) for behind in chain) and not _is_dead(chain)
    )


def is_dead_connection(error: BaseException) -> bool:
    """Whether a connection is behind ``error`` that is of no more use: LiteFS was started anew since then, or is down.

    SQLite's extended code tells (`sqlite3` has it since Python 3.11). Of a driver that gives none, 'disk I/O error' counts
    for a statement that only reads, where SQLAlchemy names it; else for a refused write, which has the same message.
    """
    chain = list(_chain(error))
    return (
        any(_says(behind, MESSAGES[1]) for behind in chain)
        and not any(_says(behind, MESSAGES[0]) for behind in chain)
        and _is_dead(chain)
    )


def _says(error: BaseException, message: str) -> bool:
    return error.args[:1] == (message,) and any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def _is_dead(chain: list[BaseException]) -> bool:
    codes = {code for behind in chain if (code := getattr(behind, "sqlite_errorname", None)) is not None}
    if codes - {"SQLITE_IOERR"}:
        return not _DEAD.isdisjoint(codes)
    statements = [told for behind in chain if isinstance(told := getattr(behind, "statement", None), str)]
    return any(statement.lstrip()[:6].upper() == "SELECT" for statement in statements)


def may_belong_elsewhere(error: BaseException) -> bool:
    """Whether it is `NotPrimary`, `WrongInstance`, `NoPrimary`, a refused write, or what was waited for in vain."""
    return asks_for_primary(error) is not None or is_refused_write(error) or waited_in_vain(error) is not None


def sqlite_says(error: BaseException) -> str:
    """What SQLite says in a refused write or of a dead connection, for the log: one line, and neither statement nor values,
    which SQLAlchemy's text has."""
    for behind in _chain(error):
        if any(_says(behind, message) for message in MESSAGES):
            code = getattr(behind, "sqlite_errorname", None)
            return f"{behind.args[0]}, {code}" if isinstance(code, str) else str(behind.args[0])
    return type(error).__name__


def is_of_database(error: BaseException) -> bool:
    """Whether an error of a database driver is behind ``error``. By the class's name, which DB-API 2.0 (PEP 249) gives."""
    return any(kind.__name__ == "DatabaseError" for behind in _chain(error) for kind in type(behind).__mro__)


def asks_for_primary(error: BaseException) -> NotPrimary | NoPrimary | None:
    """The `NotPrimary` or `NoPrimary` that ``error`` is, alone in however many groups."""
    alone = _alone(error)
    return alone if isinstance(alone, NotPrimary | NoPrimary) else None


def waited_in_vain(error: BaseException) -> WaitTimeout | TransactionLost | None:
    """The `WaitTimeout` or `TransactionLost` that ``error`` is, likewise."""
    alone = _alone(error)
    return alone if isinstance(alone, WaitTimeout | TransactionLost) else None


def _alone(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    queue: list[object] = [error]
    for _ in range(_DEPTH):
        if not queue:
            return
        found = queue.pop(0)
        if isinstance(found, BaseException):
            yield found
            queue.append(found.__cause__ if found.__suppress_context__ else found.__context__)
            queue.append(getattr(found, "orig", None))
            if isinstance(found, BaseExceptionGroup):
                queue.extend(found.exceptions)
