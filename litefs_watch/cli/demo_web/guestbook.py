"""The application on each node: notes in one table. It knows nothing of replication."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TABLE = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL, node TEXT NOT NULL)"
INSERT = "INSERT INTO notes (text, node) VALUES (?, ?)"
SHOWN = 4
LONGEST = 80
"""Characters of a note."""


def guestbook(hostname: str, connect: Callable[[], sqlite3.Connection]) -> Starlette:
    """``POST`` and ``GET /notes`` on one node. Raises what SQLite raises, as an application does that expects no replica."""

    def insert(text: str) -> int | None:
        with closing(connect()) as connection, connection:
            return connection.execute(INSERT, (text, hostname)).lastrowid

    def newest() -> list[dict[str, object]]:
        with closing(connect()) as connection:
            rows = connection.execute("SELECT id, text, node FROM notes ORDER BY id DESC LIMIT ?", (SHOWN,)).fetchall()
        return [{"id": number, "text": text, "node": node} for number, text, node in rows]

    async def add(request: Request) -> Response:
        text = note(await request.body())
        if text is None:
            return JSONResponse({"error": f'wanted is {{"text": …}} of 1 to {LONGEST} characters'}, 422)
        return JSONResponse({"id": await anyio.to_thread.run_sync(insert, text), "node": hostname}, 201)

    async def show(request: Request) -> Response:
        return JSONResponse({"notes": await anyio.to_thread.run_sync(newest), "node": hostname})

    return Starlette(routes=[Route("/notes", add, methods=["POST"]), Route("/notes", show)])


def note(body: bytes) -> str | None:
    """The note's text; None where the body is none."""
    try:
        text = json.loads(body)["text"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST or not text.isprintable():
        return None
    return text
