"""``/events``: as server-sent events, or as one JSON object a line, by ``accept``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
from starlette.requests import Request

from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.errors import WatcherClosed
from litefs_watch.serve.endpoints import FRESH
from litefs_watch.serve.events import Events, Follower, now
from litefs_watch.serve.memory import Event
from litefs_watch.serve.places import Places
from litefs_watch.serve.questions import NoQuestion, in_query

ALIVE = 15.0
"""Seconds after which a stream says something, if only that it lives: proxies cut off what is silent for a minute."""
LAST_WORDS = 0.25
"""Seconds that a client has to take the last event: one that doesn't read would keep the sidecar from ending."""
COME_BACK = 1000  # milliseconds, that a browser's EventSource waits before it does
LINES = "application/x-ndjson"

Encode = Callable[[Event], bytes]


def as_server_sent(event: Event) -> bytes:
    name = f"id: {event.id}\n" if event.id is not None else ""
    return f"{name}event: {event.record['type']}\ndata: {_json(event.record)}\n\n".encode()


def as_line(event: Event) -> bytes:
    named = {"id": event.id, **event.record} if event.id is not None else event.record
    return _json(named).encode() + b"\n"


def _json(record: Any) -> str:
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"))


def events_handler(events: Events, places: Places) -> Callable[[Request], Any]:
    """Of GET."""

    async def follow(request: Request) -> App:
        in_query(NoQuestion, request)
        if events.ended.is_set():
            raise WatcherClosed("the sidecar is ending")
        lines = LINES in request.headers.get("accept", "").lower()
        return Stream(events, places, request.headers.get("last-event-id"), lines=lines)

    return follow


class Stream:
    """The answer: an ASGI application."""

    def __init__(self, events: Events, places: Places, last_seen: str | None, *, lines: bool) -> None:
        self._events = events
        self._places = places
        self._last_seen = last_seen
        self._encode: Encode = as_line if lines else as_server_sent
        self._kind = LINES if lines else "text/event-stream"
        self._alive = b'{"type":"alive"}\n' if lines else b": still here\n\n"
        self._opening = b"" if lines else f"retry: {COME_BACK}\n\n".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._places.one())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_when_it_leaves, receive, tasks.cancel_scope.cancel)
                tasks.start_soon(self._when_all_ends, tasks.cancel_scope.cancel)
                await self._say(send)
                tasks.cancel_scope.cancel()

    async def _say(self, send: Send) -> None:
        headers = {**FRESH, "content-type": self._kind, "x-accel-buffering": "no"}  # nginx would gather it
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        follower, opening = Follower(self._events, self._last_seen), self._opening
        while (events := await follower.next(ALIVE)) is not None:
            body = b"".join(map(self._encode, events)) or self._alive
            await send({"type": "http.response.body", "body": opening + body, "more_body": True})
            opening = b""
        last = Event({"type": "closing", "reason": "the sidecar is ending", "time": now()})
        await send({"type": "http.response.body", "body": self._encode(last)})

    async def _when_all_ends(self, cancel: Callable[[], object]) -> None:
        await self._events.ended.wait()
        await anyio.sleep(LAST_WORDS)
        cancel()


async def _when_it_leaves(receive: Receive, cancel: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel()
