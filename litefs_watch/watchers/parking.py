"""Where one task waits to be woken, in its event loop's own terms.

anyio's `Event` and cancel scopes cost a crowd that is woken at once as much again as the waking itself (``python -m
benchmarks waiters``); a future and a timer don't.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.lowlevel import EventLoopToken

if TYPE_CHECKING:
    import asyncio


class Spot(Protocol):
    """One task's place to wait, for one time."""

    def wake(self, result: object) -> None:
        """End the wait. In the event loop's thread; after the first time nothing."""

    async def wait(self, timeout: float | None) -> None:
        """Until the wake, or for ``timeout`` seconds. A cancellation point."""


def spot_in(token: EventLoopToken) -> Spot:
    """A place to wait in the running event loop, whose token this is."""
    loop: Any = token.native_token
    return AsyncioSpot(loop) if hasattr(loop, "create_future") else TrioSpot()


class AsyncioSpot:
    __slots__ = ("_future", "_loop", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[object] = loop.create_future()
        self.wake = partial(_settle, self._future)

    async def wait(self, timeout: float | None) -> None:
        if timeout is None:
            await self._future
            return
        timer = self._loop.call_later(timeout, _settle, self._future, None)
        try:
            await self._future
        finally:
            timer.cancel()


def _settle(future: asyncio.Future[object], result: object) -> None:
    if not future.done():  # cancelled, or late, in this very turn of the loop
        future.set_result(result)


class TrioSpot:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: Any = sys.modules["trio"].Event()

    def wake(self, result: object) -> None:
        self._event.set()

    async def wait(self, timeout: float | None) -> None:
        if timeout is None:
            await self._event.wait()
        else:
            with anyio.move_on_after(timeout):
                await self._event.wait()
