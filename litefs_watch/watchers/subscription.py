"""A subscriber's end of `litefs_watch.core.subscriptions`: changes as they come, for a task and for a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self

import anyio
import anyio.lowlevel
from anyio.lowlevel import EventLoopToken, current_token

from litefs_watch.core.subscriptions import ChangeQueue, ChangeT
from litefs_watch.errors import WaitTimeout, WatcherClosed
from litefs_watch.settings import check_timeout
from litefs_watch.sources.thread import call_soon
from litefs_watch.watchers.run import Run

MakeQueue = Callable[[tuple[type, ...], Callable[[], object]], ChangeQueue[Any]]


class _Subscription(Generic[ChangeT]):
    """What both have in common."""

    def __init__(self, run: Run, queue: ChangeQueue[ChangeT]) -> None:
        self._run = run
        self._queue = queue
        if not run.board.subscribe(queue):
            raise WatcherClosed("the watcher was stopped")

    def __len__(self) -> int:
        """How many changes wait to be taken."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether it takes no more changes; those that wait can still be taken."""
        return self._queue.closed or self._run.board.closed

    def close(self) -> None:
        """End the subscription: what iterates it stops."""
        self._run.board.unsubscribe(self._queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Subscription(_Subscription[ChangeT]):
    """Changes as they come: an async iterator, and a context manager that ends the subscription.

    It is registered by the call that made it, so nothing between that call and the first ``async for`` is missed. It ends
    when the watcher stops, after what was still queued. Dropping it unclosed is safe too: the watcher holds it weakly.
    """

    def __init__(self, run: Run, accepts: tuple[type, ...], queue: MakeQueue = ChangeQueue) -> None:
        run.check_loop()
        news = self._news = _News(current_token())
        super().__init__(run, queue(accepts, news.set))

    async def take(self, timeout: float | None = None) -> ChangeT | None:
        """The next change; None where the subscription has ended.

        Raises `WaitTimeout` where there is none within ``timeout`` seconds (None and infinity: for ever; zero or less: what
        is there now), `ValueError` for NaN, and `RuntimeError` in another event loop than the watcher's.
        """
        check_timeout(timeout)
        await anyio.lowlevel.checkpoint()
        change: ChangeT | None = None
        with anyio.move_on_after(None if timeout is None else max(timeout, 0)):
            while (change := self._run.board.take(self._queue)) is None and not self.closed:
                if not self._run.board.closed:
                    self._run.check_loop()
                await self._news.wait()
        if change is None and (change := self._run.board.take(self._queue)) is None and not self.closed:
            raise WaitTimeout(f"no change within {timeout:g} s")
        return change

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChangeT:
        if (change := await self.take()) is None:
            raise StopAsyncIteration
        return change

    async def aclose(self) -> None:
        """`close`, for who closes asynchronously."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _News:
    """An event that wakes whoever waits now, and nobody later. The queue holds it, and must not hold the subscription."""

    def __init__(self, token: EventLoopToken) -> None:
        self._event = anyio.Event()
        self._token = token
        self._thread = threading.get_ident()

    def set(self) -> None:
        """From any thread: another one may stop the watcher, or read a position."""
        if threading.get_ident() == self._thread:
            self._set()
        else:
            call_soon(self._token, self._set)

    def _set(self) -> None:
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        await self._event.wait()


class BlockingSubscription(_Subscription[ChangeT]):
    """Changes as they come: an iterator that blocks, and a context manager that ends the subscription.

    It ends when the watcher stops, after what was still queued, and in a forked child. The watcher holds it weakly.
    """

    def __init__(self, run: Run, accepts: tuple[type, ...], queue: MakeQueue = ChangeQueue) -> None:
        news = self._news = threading.Condition(run.board.lock)
        super().__init__(run, queue(accepts, news.notify_all))

    def take(self, timeout: float | None = None) -> ChangeT | None:
        """The next change; None where the subscription has ended.

        Raises `WaitTimeout` where there is none within ``timeout`` seconds (None and infinity: for ever; zero or less: what
        is there now), and `ValueError` for NaN.
        """
        check_timeout(timeout)
        if self._run.board.closed:  # perhaps in a forked child, where the lock may be held for ever
            return self._queue.take()
        with self._news:
            self._news.wait_for(lambda: len(self._queue) or self.closed, _bounded(timeout))
            change = self._queue.take()
        if change is None and not self.closed:
            raise WaitTimeout(f"no change within {timeout:g} s")
        return change

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChangeT:
        if (change := self.take()) is None:
            raise StopIteration
        return change


def _bounded(timeout: float | None) -> float | None:
    return None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
