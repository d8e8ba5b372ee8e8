"""Refused writes are noted where they happen, whatever the application makes of the error. One line for each driver::

    from litefs_watch.refusals import Connection, watch_aiosqlite, watch_engine

    watch_engine(engine)                                                # SQLAlchemy, sync and async
    connection = sqlite3.connect(path, factory=Connection)              # sqlite3
    async with watch_aiosqlite(aiosqlite.connect(path)) as connection:  # aiosqlite

Django needs none, with `litefs_watch.django`. Another driver's errors may be told of by `note`.

A ``try/except`` in a handler, an error handler for all of SQLAlchemy's exceptions, the exception handler of a REST
framework: each may answer 500 or 400 for a write that a replica can't do, and that belongs on the primary. Once it is noted,
the replay takes the place of such a response, by the rules that hold for an exception which nobody catches: what may have
committed is not sent on. Where the answer is a success all the same, the log says once for each route that nothing was
written.

A request is known by its context (`contextvars`): in tasks, in the threads of Starlette, asyncio and asgiref, not in one
that the application starts itself. Outside of a request nothing is noted.

Connections that are dead, since LiteFS was started anew, are said in the log, once in ten minutes; SQLAlchemy's pool and
Django replace them, so that the next request works. The errors themselves stay: see `Policy.failed`.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Self, TypeVar

from litefs_watch.web.notes import note

if TYPE_CHECKING:
    from types import TracebackType

    import aiosqlite
    from sqlalchemy.engine import Engine, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Connection", "Cursor", "note", "watch_aiosqlite", "watch_engine"]

AnyEngine = TypeVar("AnyEngine", bound="Engine | AsyncEngine | type[Engine]")


def watch_engine(engine: AnyEngine) -> AnyEngine:
    """Note what SQLAlchemy's ``engine`` raises, and let its pool make new connections once one is dead. Returns it.

    An ``AsyncEngine`` too; or the class ``Engine``, for all that there are. Twice is once. Needs SQLAlchemy.
    """
    from sqlalchemy import event

    target = getattr(engine, "sync_engine", engine)
    if not event.contains(target, "handle_error", _on_engine_error):
        event.listen(target, "handle_error", _on_engine_error)
    return engine


def _on_engine_error(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception or context.original_exception
    if note(error, remedy="SQLAlchemy's pool makes new ones"):
        context.is_disconnect = True  # all that the pool has are as old


class _Noting:
    """A context in which what a driver raises is noted."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            note(error)


_noting = _Noting()


class Cursor(sqlite3.Cursor):
    """As `sqlite3.Cursor`; what it raises is noted."""

    def execute(self, *arguments: Any) -> Self:
        with _noting:
            super().execute(*arguments)
        return self

    def executemany(self, *arguments: Any) -> Self:
        with _noting:
            super().executemany(*arguments)
        return self

    def executescript(self, *arguments: Any) -> Self:
        with _noting:
            super().executescript(*arguments)
        return self


class Connection(sqlite3.Connection):
    """As `sqlite3.Connection`; what it raises is noted: ``sqlite3.connect(path, factory=Connection)``.

    What a cursor raises is where it comes from `cursor` without a factory, or from ``execute``.
    """

    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def executescript(self, *arguments: Any) -> Any:
        return self.cursor().executescript(*arguments)

    def commit(self) -> None:
        with _noting:
            super().commit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        with _noting:  # it commits, and not by way of `commit`
            return super().__exit__(kind, error, traceback)


def watch_aiosqlite(connection: aiosqlite.Connection) -> aiosqlite.Connection:
    """Note what a connection of aiosqlite raises, and its cursors: ``watch_aiosqlite(aiosqlite.connect(path))``. Returns it.

    A factory would not do: aiosqlite runs it in a thread of its own, which knows no request.
    """
    inner: Any = connection._execute  # through which everything goes, on its way to that thread

    async def execute(*arguments: Any, **keywords: Any) -> Any:
        with _noting:
            return await inner(*arguments, **keywords)

    connection._execute = execute  # type: ignore[method-assign]
    return connection
