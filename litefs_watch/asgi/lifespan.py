"""Starts and stops the watcher where the framework or the server knows no lifespan."""

from __future__ import annotations

from typing import Any

import anyio

from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.checks import check_async


class LifespanMiddleware:
    """Runs ``watcher`` for as long as the application runs. For frameworks without a lifespan, such as Django.

    - The server sends the lifespan scope (uvicorn, Hypercorn, Granian): the watcher is started before the application, and
      stopped after it. An application that refuses the scope, as Django does, is not asked again.
    - It does not (Daphne): the watcher is started with the first request, which waits for it.

    A watcher that runs already is left to who started it.
    """

    def __init__(self, app: App, watcher: Watcher) -> None:
        check_async(watcher, "LifespanMiddleware")
        self.app = app
        self._watcher = watcher
        self._starting: anyio.Lock | None = None
        self._ended = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if not self._watcher.running and not self._ended:
            await self._start()
        await self.app(scope, receive, send)

    async def _start(self) -> bool:
        """Start it, once for all requests that come meanwhile. False where it runs already."""
        if self._starting is None:
            self._starting = anyio.Lock()
        async with self._starting:
            if self._watcher.running:
                return False
            await self._watcher.start()
            return True

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup: Message | None = await receive()
        self._ended = False
        try:
            ours = await self._start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"the watcher did not start: {error}"})
            raise
        answered = False

        async def receive_again() -> Message:
            nonlocal startup
            if startup is not None:
                first, startup = startup, None
                return first
            return await receive()

        async def send_and_stop(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"] != "lifespan.startup.complete":
                await self._stop(ours)
            await send(message)

        try:
            try:
                await self.app(scope, receive_again, send_and_stop)
            except Exception:
                if answered:
                    raise
            if not answered:  # no lifespan of its own
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await self._stop(ours)
                await send({"type": "lifespan.shutdown.complete"})
        finally:
            await self._stop(ours)

    async def _stop(self, ours: bool) -> None:
        self._ended = True
        if ours:
            await self._watcher.stop()
