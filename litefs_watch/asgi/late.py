"""Holds a response whose commit may still come. Since FastAPI 0.118 a dependency's exit runs after the response was sent.

The rules.

1. **Only where nothing was committed yet, or nobody knows whose commit that was**: a write that was let in on the primary,
   and the position is what it was then; or it has moved, and another write has run beside this one. A response is not held
   where this write, alone, has moved it, or its route was seen to commit before its responses.
2. **Only what is whole**: the start and one body, which tells its end or has the length that was announced. A stream goes
   at once; so does everything else.
3. **Until the application returns**, for at most ``late_commits`` seconds.
4. **What goes before that is pinned**: the application may commit later.
5. **Where the application raises, what was held is still its answer**, but for two errors, both of which say that a commit
   has not come about: one that sends the request elsewhere is answered so, and behind one of the database's own the server
   answers 500, instead of the 200 that the client would believe.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from litefs_watch.asgi.types import Message, Scope, Send
from litefs_watch.consistency import Exchange
from litefs_watch.web.late import LateRoutes, route_named
from litefs_watch.web.several import AsyncGates
from litefs_watch.web.waiting import AsyncGate


class LateResponse:
    """The response to one write on the primary: `start` it, `send` the rest, `finish` when the application has returned."""

    def __init__(
        self,
        gate: AsyncGate | AsyncGates,
        exchange: Exchange,
        scope: Scope,
        send: Send,
        routes: LateRoutes,
        replace: Callable[[], Awaitable[None]],
    ) -> None:
        self._gate = gate
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._routes = routes
        self._replace = replace  # answers instead of the application: what it has written is lost
        self._number = routes.begin()
        self._position: Any = None
        self._unmoved = self._contested = self._marked = False
        self._held: list[Message] = []
        self._in_turn: anyio.Lock | None = None
        self._cancel_timer: Callable[[], object] | None = None
        self._error: Exception | None = None

    async def start(self, message: Message) -> None:
        """Send the start of the response, marked, or hold it."""
        exchange = self._exchange
        self._position = position = await self._gate.position(exchange)
        self._unmoved = position is not None and position == exchange.before and not exchange.written
        exchange.scheme = self._scope.get("scheme", "http")
        if not self._unmoved and not exchange.written:
            routes = self._routes
            exchange.late = bool(routes) and routes.knows(self._route)  # another one has moved it, or it commits again
            self._contested = not routes.was_alone(self._number) and not routes.trusts(self._route)
        seconds = self._gate.policy.options.late_commits
        if (self._unmoved or self._contested) and seconds:
            self._in_turn = anyio.Lock()
            self._held.append(message)
            self._cancel_timer = _call_later(seconds, self._time_is_up)
            return
        self._marked = not exchange.written
        await self._send_marked(message)

    def send(self, message: Message) -> Awaitable[None]:
        """Send what follows, in its turn."""
        return self._send(message) if self._in_turn is None else self._send_in_turn(message, self._in_turn)

    async def finish(self) -> None:
        """The application has returned: what is held goes, with the position as it is now. Raises what sending it raised
        before that."""
        if self._in_turn is not None:
            async with self._in_turn:
                self._stop_timer()
                if self._held:
                    then, self._position = self._position, await self._gate.position(self._exchange)
                    self._contested = self._exchange.late = False  # all that it has committed is in that position
                    await self._release()
                    self._say(then, self._position)
        if self._marked:
            await self._look()
        if self._error is not None:
            raise self._error

    async def take_back(self) -> bool:
        """The application has raised: whether its response is still held. It then is to be answered, or finished."""
        if self._in_turn is None:
            return False
        async with self._in_turn:
            self._stop_timer()
            return bool(self._held)

    def close(self) -> None:
        """It is over, however it ended: nothing is sent any more."""
        self._stop_timer()
        self._routes.end()

    def _stop_timer(self) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
            self._cancel_timer = None

    async def _send_in_turn(self, message: Message, in_turn: anyio.Lock) -> None:
        async with in_turn:
            if self._held:
                if self._is_whole(message):
                    self._held.append(message)
                    return
                self._marked = True
                await self._release()
        if self._exchange.answered is None:
            await self._send(message)

    def _is_whole(self, message: Message) -> bool:
        """Whether it is the whole body, or the empty end of one (Starlette's `BaseHTTPMiddleware` sends one by itself)."""
        if message["type"] != "http.response.body":
            return False
        body = message.get("body", b"")
        if len(self._held) > 1:
            return not body and self._held[-1].get("more_body", False)
        if not message.get("more_body", False):
            return True
        length = next((value for name, value in self._held[0].get("headers", ()) if name.lower() == b"content-length"), None)
        return length == b"%d" % len(body)

    async def _time_is_up(self) -> None:
        if self._in_turn is None:
            return
        async with self._in_turn:
            try:
                if self._held:
                    self._marked = True
                    await self._release()
            except Exception as error:  # noqa: BLE001 - the application's task is to see it
                self._error = error

    async def _release(self) -> None:
        (start, *rest), self._held = self._held, []
        await self._send_marked(start)
        for message in rest if self._exchange.answered is None else ():
            await self._send(message)

    async def _send_marked(self, message: Message) -> None:
        sent = list(message.get("headers", ()))
        await self._gate.replicate(self._exchange, self._position, message["status"])
        self._exchange.late = self._exchange.late or self._contested
        added = self._gate.headers_at(self._exchange, self._position, sent)
        if self._exchange.reset is not None:
            await self._replace()
            return
        await self._send({**message, "headers": sent + added} if added else message)

    async def _look(self) -> None:
        """Whether it has committed since its response was sent."""
        alone = self._position is not None and self._routes.was_alone(self._number)
        if alone and self._routes.wants(self._route, self._number, moved=not self._unmoved):
            self._say(self._position, await self._gate.position(self._exchange))

    def _say(self, then: Any, now: Any) -> None:
        if now is not None and now != then and self._routes.wants(self._route, self._number, moved=False):
            self._routes.say(self._route, then, now)

    @property
    def _route(self) -> str:
        return route_in(self._scope)


def route_in(scope: Scope) -> str:
    """What the route is called that has handled a request."""
    path = getattr(scope.get("route"), "path", None) or scope.get("path_template")  # Starlette and FastAPI; Litestar
    return route_named(scope["method"], path, scope["path"])


def _call_later(seconds: float, function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], object]:
    """Call ``function`` after so many seconds, in a task of its own. Returns what cancels it, however far it is.

    A task group would have to be around the application, whether its response is held or not, and costs more than all else
    that is done for a write in process.
    """
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
        scope = anyio.CancelScope()

        async def later() -> None:
            with scope:
                await anyio.sleep(seconds)
                await function()

        trio.lowlevel.spawn_system_task(later, context=contextvars.copy_context())
        return scope.cancel
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []  # the loop itself keeps only a weak reference to a task
    timer = loop.call_later(seconds, lambda: tasks.append(loop.create_task(function())))

    def cancel() -> None:
        timer.cancel()
        for task in tasks:
            task.cancel()

    return cancel
