"""The client of a request that waits here: it may leave meanwhile, and what nobody waits for is not run."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio

from litefs_watch.asgi.types import Message, Receive

AHEAD = 64 * 1024
"""Bytes of a request's body that are read while it waits: a server tells of a client that has left behind what it has sent.
Whose body is larger is seen to have left by who reads on."""


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Client:
    """Of a request that may have to wait before it runs."""

    __slots__ = ("_ahead", "_left", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ahead: deque[Message] | None = None
        self._left = False

    @property
    def receive(self) -> Receive:
        """What the application is to get: nothing that came meanwhile is missing in it."""
        return self._receive if self._ahead is None else self._replay

    async def _replay(self) -> Message:
        return self._ahead.popleft() if self._ahead else await self._receive()

    async def watched(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Do the waiting. Raises `ClientLeft` as soon as the client has left."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope)
            await wait()
            tasks.cancel_scope.cancel()
        if self._left:
            raise ClientLeft

    async def _watch(self, scope: anyio.CancelScope) -> None:
        self._ahead = ahead = self._ahead or deque()
        while sum(len(message.get("body", b"")) for message in ahead) < AHEAD:
            message = await self._receive()
            ahead.append(message)
            if message["type"] in ("http.disconnect", "websocket.disconnect"):
                self._left = True
                scope.cancel()
                return
