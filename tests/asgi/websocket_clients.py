"""One side of an ASGI server in a few lines, for WebSockets that stay open, and a handler for them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, scope_of

SOON = 10.0
LONG = 3600.0
LIVE = ["/live"]


class Client:
    """One side of an ASGI server, whose client stays until it leaves. ``sending`` is called before a message is taken."""

    def __init__(self, app: App, path: str = "/live") -> None:
        self._app = app
        self._scope = scope_of(path=path, type="websocket", scheme="ws", subprotocols=[])
        del self._scope["method"]
        self._to, self._said = anyio.create_memory_object_stream[Message](math.inf)
        self._from, self._heard = anyio.create_memory_object_stream[Message](math.inf)
        self.sending: Callable[[Message], Awaitable[None]] = lambda message: anyio.lowlevel.checkpoint()
        self.error: Exception | None = None
        self.done = anyio.Event()

    async def run(self) -> None:
        await self._to.send({"type": "websocket.connect"})
        try:
            await self._app(self._scope, self._said.receive, self._send)
        except Exception as error:  # noqa: BLE001 - the server's log
            self.error = error
        self._from.close()
        self.done.set()

    async def _send(self, message: Message) -> None:
        await self.sending(message)
        self._from.send_nowait(message)

    def say(self, text: str) -> None:
        self._to.send_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._to.send_nowait({"type": "websocket.disconnect", "code": 1001, "reason": ""})

    async def hear(self) -> str:
        """What comes next: its text, its code, or its type."""
        with anyio.fail_after(SOON):
            message = await self._heard.receive()
        return str(message.get("text") or message.get("code") or message["type"])

    @property
    def unheard(self) -> int:
        return self._heard.statistics().current_buffer_used

    def end(self) -> None:
        for stream in (self._to, self._said, self._from, self._heard):
            stream.close()


class Echo:
    """A handler that says what it hears, until it is told of a disconnect."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        self.told.append(message["code"])


def around(app: App, watcher: FakeWatcher, **options: Any) -> LiteFSMiddleware:
    given: dict[str, Any] = {"primary_paths": LIVE, "websocket_grace": LONG} | options
    return LiteFSMiddleware(app, watcher.watcher, **given)


@asynccontextmanager
async def client(app: App, path: str = "/live", *, opened: bool = True) -> AsyncIterator[Client]:
    one = Client(app, path)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            if opened:
                assert await one.hear() == "websocket.accept"
                await echoes(one)
            yield one
            tasks.cancel_scope.cancel()
    finally:
        one.end()


async def echoes(one: Client, text: str = "still there?") -> None:
    one.say(text)
    assert await one.hear() == text


async def ends(one: Client) -> None:
    with anyio.fail_after(SOON):
        await one.done.wait()
