"""A client of an ASGI application that takes its answer piece by piece, and may leave at any moment."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream

from litefs_watch.asgi.types import App, Message

SOON = 20.0
"""Seconds after which a test fails instead of waiting on."""


@dataclass
class Connection:
    """A request that is being answered. The application waits in its ``send`` until each message is taken."""

    messages: MemoryObjectReceiveStream[Message]
    left: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)
    """Set when the application has returned."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        with anyio.fail_after(SOON):
            message = await self.messages.receive()
        self.status = message["status"]
        self.headers = {name.decode(): value.decode() for name, value in message["headers"]}

    async def take(self) -> bytes:
        """The next piece of the body."""
        with anyio.fail_after(SOON):
            body: bytes = (await self.messages.receive())["body"]
            return body

    async def json(self) -> Any:
        await self.start()
        return json.loads(await self.take())

    async def events(self) -> list[dict[str, Any]]:
        """The next piece, as server-sent events, with their ids among their data."""
        return [event for event in map(_event, (await self.take()).decode().split("\n\n")) if event]

    async def ended(self) -> None:
        """Until the application has returned."""
        with anyio.fail_after(SOON):
            await self.over.wait()

    def leave(self) -> None:
        """As a client that closes its connection: whatever is sent to it goes nowhere, and waits for nobody."""
        self.left.set()
        self.messages.close()


def _event(text: str) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in text.splitlines() if not line.startswith((":", "retry")))
    if not fields:
        return {}
    record: dict[str, Any] = json.loads(fields["data"])
    assert record["type"] == fields["event"]
    return record | ({"id": fields["id"]} if "id" in fields else {})


@asynccontextmanager
async def asked(
    app: App, path: str, headers: dict[str, str] | None = None, *, method: str = "GET", body: list[bytes] | None = None
) -> AsyncIterator[Connection]:
    """Ask, and leave at the end."""
    path, _, query = path.partition("?")
    named = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    pieces = list(body or [b""])
    send, receive = anyio.create_memory_object_stream[Message](0)
    connection = Connection(receive)

    async def give() -> Message:
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await connection.left.wait()
        return {"type": "http.disconnect"}

    async def tell(message: Message) -> None:
        with suppress(anyio.BrokenResourceError):
            await send.send(message)

    async def run() -> None:
        with send:
            await app(scope, give, tell)
        connection.over.set()

    with receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield connection
            connection.leave()
            await connection.ended()  # it doesn't go on without its client


async def until(condition: Any) -> None:
    """Other tasks run until it is so."""
    with anyio.fail_after(SOON):
        while not condition():
            await anyio.lowlevel.checkpoint()
