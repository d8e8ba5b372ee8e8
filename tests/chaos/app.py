"""The application under chaos: one table of ids. A write adds its own, a read answers with the newest of this node's."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import anyio.to_thread

from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.consistency import mark_written

TOUCH = "/touch"
"""A GET that writes."""
SWAP = "/swap"
"""Writes, and reads after it."""
SHOWN = 10


class Connect(Protocol):
    """Opens a node's database, in autocommit mode. Raises what SQLite raises."""

    def __call__(self, *, writing: bool) -> sqlite3.Connection: ...


class Maintenance:
    """Keeps the application's writes away while its database is dropped and restored, as whoever restores one has to."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._writing = 0
        self._closed = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a write. Raises `sqlite3.OperationalError` during maintenance."""
        with self._changed:
            if self._closed:
                raise sqlite3.OperationalError("closed for maintenance")
            self._writing += 1
        try:
            yield
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    @contextmanager
    def without_writes(self) -> Iterator[None]:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._writing)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False


class Store:
    """What one node's application does with its database."""

    def __init__(
        self, hostname: str, connect: Connect, maintenance: Maintenance, after_read: Callable[[], object] = bool
    ) -> None:
        self.hostname = hostname
        self._connect = connect
        self._after_read = after_read
        self._maintenance = maintenance

    def handle(self, method: str, path: str, identity: str) -> bytes:
        """The response's body. Raises what SQLite raises."""
        answer: dict[str, Any] = {}
        if method == "POST" or path == TOUCH:
            with self._maintenance.writing(), closing(self._connect(writing=True)) as connection:
                connection.execute("INSERT INTO writes (id) VALUES (?)", (identity,))
        if path == SWAP or (method == "GET" and path != TOUCH):
            with closing(self._connect(writing=False)) as connection:
                answer["read"] = newest(connection)
            self._after_read()
        return json.dumps(answer).encode()


def newest(connection: sqlite3.Connection, limit: int = SHOWN) -> list[str]:
    """The newest ids, the newest first."""
    return [row for (row,) in connection.execute("SELECT id FROM writes ORDER BY number DESC LIMIT ?", (limit,))]


def create(connection: sqlite3.Connection, ids: list[str]) -> None:
    """Make the table with these ids in it, in one transaction."""
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE writes (number INTEGER PRIMARY KEY, id TEXT)")
    connection.executemany("INSERT INTO writes (id) VALUES (?)", [(identity,) for identity in ids])
    connection.execute("COMMIT")


def asgi_app(store: Store) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path, identity = scope["path"], scope["query_string"].decode()
        body = await anyio.to_thread.run_sync(store.handle, scope["method"], path, identity)
        if path == TOUCH:
            mark_written(scope)
        headers = [(b"content-type", b"application/json"), (b"x-node", store.hostname.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def wsgi_app(store: Store) -> Callable[..., list[bytes]]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        path, identity = environ["PATH_INFO"], environ["QUERY_STRING"]
        body = store.handle(environ["REQUEST_METHOD"], path, identity)
        if path == TOUCH:
            mark_written(environ)
        start_response("200 OK", [("content-type", "application/json"), ("x-node", store.hostname)])
        return [body]

    return app
