"""Where one task waits to be woken, in its event loop's own terms.

anyio's `Event` and cancel scopes cost a crowd that is woken at once as much again as the waking itself (``python -m
benchmarks waiters``); a bare future doesn't. Nor do timers of their own: who waits until the same moment shares one.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint_if_cancelled

if TYPE_CHECKING:
    import asyncio

    from litefs_watch.core.waiters import Waiter
    from litefs_watch.watchers.run import Run

GRAIN = 0.001
"""Seconds: deadlines are rounded up to it."""
_FOR_EVER = 1e8  # seconds, three years: who waits longer needs no timer


class Spot(Protocol):
    """One task's place to wait, for one time. All but `wake` happens in its event loop's thread."""

    def wake(self, result: object) -> None:
        """End the wait. After the first time nothing. From any thread: another one may stop the watcher, or read a position
        that is waited for."""

    def wait(self, timeout: float | None) -> Awaitable[object]:
        """Until the wake, or for ``timeout`` seconds. A cancellation point; where it raises, `leave`."""

    def leave(self) -> None:
        """Neither has happened, and nobody waits any more."""


def spot_in(token: EventLoopToken) -> Spot:
    """A place to wait in the running event loop, whose token this is."""
    loop: Any = token.native_token
    return AsyncioSpot(loop) if hasattr(loop, "create_future") else TrioSpot(loop)


async def park(run: Run, waiter: Waiter[Any], spot: Spot, timeout: float | None) -> Any:
    """What ``waiter``, whose wake ends the wait at ``spot``, waited for. Raises `WaitTimeout` and `WatcherClosed`."""
    if run.begin_wait(waiter, timeout):
        try:
            await spot.wait(timeout)
        except BaseException:
            spot.leave()
            run.board.leave(waiter)
            raise
        if waiter.result is not None:  # woken, and so out of all queues: a crowd goes no longer way than this
            return waiter.result
        run.board.leave(waiter)
    return run.result_of(waiter, timeout)


async def cancellation_point(token: EventLoopToken | None) -> None:
    """Raise the cancellation that this task has got, if any; other tasks don't run. ``token`` is the likely event loop's.

    `checkpoint_if_cancelled` alone finds out anew where it runs, which costs as much again, and does not see
    `asyncio.Task.cancel`.
    """
    if token is None:
        await checkpoint_if_cancelled()
        return
    try:
        if hasattr(token.native_token, "create_future"):
            asyncio = sys.modules["asyncio"]
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                await asyncio.sleep(0)
        await token.backend_class.checkpoint_if_cancelled()
    except RuntimeError:  # another kind of event loop
        await checkpoint_if_cancelled()


class AsyncioSpot:
    __slots__ = ("_deadline", "_future", "_loop", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[object] = loop.create_future()
        self._deadline: _Deadline | None = None
        self._thread = get_ident()

    def wake(self, result: object) -> None:
        if get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake, result)
            return
        self._wake(result)

    def _wake(self, result: object) -> None:
        if (deadline := self._deadline) is not None:  # as `leave`, without its frame: a crowd goes through this
            self._deadline = None
            deadline.spots.discard(self)
            if not deadline.spots:
                deadline.cancel()
        if not self._future.done():  # it may have been cancelled, in this very turn of the loop
            self._future.set_result(result)

    def wait(self, timeout: float | None) -> Awaitable[object]:
        if timeout is not None and timeout < _FOR_EVER:
            self._deadline = _deadline_of(self._loop, timeout)
            self._deadline.spots.add(self)
        return self._future

    def leave(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.spots.discard(self)
            if not deadline.spots:
                deadline.cancel()


class _Deadline:
    """A moment until which some wait. ``number`` counts grains of the loop's clock."""

    __slots__ = ("_deadlines", "_number", "_timer", "spots")

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: dict[int, _Deadline], number: int) -> None:
        self.spots: set[AsyncioSpot] = set()
        self._deadlines = deadlines
        self._number = number
        self._timer = loop.call_at(number * GRAIN, self._over)
        deadlines[number] = self

    def _over(self) -> None:
        for spot in list(self.spots):
            spot.wake(None)

    def cancel(self) -> None:
        """Nobody waits until then any more."""
        self._timer.cancel()
        self._deadlines.pop(self._number, None)


_deadlines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Deadline]] = WeakKeyDictionary()


def _deadline_of(loop: asyncio.AbstractEventLoop, timeout: float) -> _Deadline:
    of_loop = _deadlines.get(loop)
    if of_loop is None:
        of_loop = _deadlines[loop] = {}
    number = int((loop.time() + timeout) / GRAIN) + 1
    return of_loop.get(number) or _Deadline(loop, of_loop, number)


class TrioSpot:
    __slots__ = ("_event", "_thread", "_token")

    def __init__(self, token: Any) -> None:
        self._event: Any = sys.modules["trio"].Event()
        self._token = token
        self._thread = get_ident()

    def wake(self, result: object) -> None:
        if get_ident() == self._thread:
            self._event.set()
            return
        with suppress(RuntimeError):  # trio has ended
            self._token.run_sync_soon(self._event.set)

    async def wait(self, timeout: float | None) -> None:
        if timeout is None:
            await self._event.wait()
        else:
            with anyio.move_on_after(timeout):
                await self._event.wait()

    def leave(self) -> None:
        """Nothing stays behind."""
