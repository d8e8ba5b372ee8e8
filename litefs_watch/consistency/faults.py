"""What an application's exception says about where its request should have run. Without importing any driver."""

from __future__ import annotations

from collections.abc import Iterator

from litefs_watch.errors import NoPrimary, NotPrimary, TransactionLost, WaitTimeout

# SQLite's messages for SQLITE_READONLY and SQLITE_IOERR: LiteFS refuses a replica's write with one or the other.
MESSAGES = ("attempt to write a readonly database", "disk I/O error")

_DEPTH = 50
"""Exceptions that are looked at: a chain can be circular."""


def is_refused_write(error: BaseException) -> bool:
    """Whether a write that SQLite refused is behind ``error``: an ``OperationalError`` with one of the two messages.

    Behind it: what it was raised from or while handling (Django's wrapper), its ``orig`` (SQLAlchemy's), a group's members.
    By the class's name, so that drivers that imitate `sqlite3` count too.
    """
    return any(
        any(behind.args[:1] == (message,) for message in MESSAGES)
        and any(kind.__name__ == "OperationalError" for kind in type(behind).__mro__)
        for behind in _chain(error)
    )


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
