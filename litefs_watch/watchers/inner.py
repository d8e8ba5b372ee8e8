"""The watcher in a thread of its own, for those who wait outside of its event loop.

Who must wait is put into a queue under a lock, and the watcher's thread wakes it: 'is it there? else wake me' and 'it is
there now: wake them' are each done with that lock held, so no wake-up is lost.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Generic, Self

from anyio.lowlevel import EventLoopToken

from litefs_watch.changes import PrimaryChange, TxChange
from litefs_watch.core.conditions import ChangeQueue, ChangeT, RoleWaiter, RoleWaiters, TxWaiter, TxWaiters
from litefs_watch.errors import WaitTimeout, WatcherClosed
from litefs_watch.position import Position
from litefs_watch.settings import Settings
from litefs_watch.sources.thread import call_soon
from litefs_watch.status import Statistics
from litefs_watch.watchers.watcher import Watcher

logger = logging.getLogger("litefs_watch")


class InnerWatcher(Watcher):
    """The watcher in the thread, which also wakes those who wait outside of it."""

    def __init__(self, settings: Settings | None) -> None:
        self.lock = threading.Lock()
        self.blocked_on_tx = TxWaiters()
        self.blocked_on_role = RoleWaiters()
        self.blocking_subscriptions: weakref.WeakSet[BlockingSubscription[TxChange | PrimaryChange]] = weakref.WeakSet()
        self.callbacks: list[Callable[[PrimaryChange], object]] = []
        self.token: EventLoopToken | None = None
        super().__init__(settings)

    def _announce(self, change: TxChange | PrimaryChange) -> None:
        super()._announce(change)
        with self.lock:
            if isinstance(change, TxChange):
                self._wakes += self.blocked_on_tx.publish(change.database, change.position)
            else:
                self._wakes += self.blocked_on_role.publish(change)
            for subscription in list(self.blocking_subscriptions):
                subscription._put(change)
        if isinstance(change, PrimaryChange):
            for callback in list(self.callbacks):
                try:
                    callback(change)
                except Exception:
                    logger.exception("a callback for changes of the primary failed: %r", callback)

    def _awaited_databases(self) -> frozenset[str]:
        return super()._awaited_databases() | self.blocked_on_tx.databases

    def _close(self) -> None:
        super()._close()
        with self.lock:
            self.blocked_on_tx.close()
            self.blocked_on_role.close()
            for subscription in list(self.blocking_subscriptions):
                subscription._queue.close()

    def after_fork(self) -> None:
        """In a child, which has none of the parent's threads: nobody feeds the subscriptions, nor gives the lock back."""
        for subscription in list(self.blocking_subscriptions):
            subscription._after_fork()

    def leave(self, function: Callable[[], object]) -> None:
        """Run ``function`` under the lock: now, or soon in the watcher's thread. It never waits for the lock.

        For all that ends a wait or a subscription. The garbage collector ends them, too, where a generator or a coroutine
        was dropped, and it may be at work in the very thread that holds the lock.
        """
        if self.lock.acquire(blocking=False):
            try:
                function()
            finally:
                self.lock.release()
        elif self.token is not None:
            call_soon(self.token, partial(self._locked, function))

    def _locked(self, function: Callable[[], object]) -> None:
        with self.lock:
            function()

    @contextmanager
    def awaited_tx(self, waiter: TxWaiter, timeout: float | None) -> Iterator[bool]:
        """For as long as it lasts, ``waiter`` is woken when its transaction is here. Gives whether there is anything to wait
        for: not where it is here, the watcher is stopped, or there is no time."""
        with self.lock:
            known = self._state.positions.get(waiter.database)
            if known is not None and known.txid >= waiter.txid:
                waiter.position = known
            elif not self.running:
                waiter.closed = True
            waits = waiter.position is None and not waiter.closed and (timeout is None or timeout > 0)
            if waits:
                self.blocked_on_tx.add(waiter)
        try:
            if waits and self.token is not None and not self.streaming:  # else it looks more often by itself
                call_soon(self.token, lambda: self.hurry(waiter.database))
            yield waits
        finally:
            if waits and waiter.position is None:  # who was woken is out already
                self.leave(partial(self.blocked_on_tx.discard, waiter))

    def outcome_of_tx(self, waiter: TxWaiter, timeout: float | None) -> Position:
        """The position that ended the wait. Raises `WatcherClosed` and `WaitTimeout`."""
        if waiter.position is not None:
            return waiter.position
        if waiter.closed:
            raise WatcherClosed(
                f"the watcher was stopped while transaction {waiter.txid} of {waiter.database} was waited for"
            )
        raise self._late(waiter.database, waiter.txid, timeout)

    @contextmanager
    def awaited_role(self, waiter: RoleWaiter, timeout: float | None) -> Iterator[bool]:
        """The same for a role."""
        with self.lock:
            if self.role in waiter.wanted:
                waiter.reached = PrimaryChange(self.role, self.primary, self.role, self.primary)
            elif not self.running:
                waiter.closed = True
            waits = waiter.reached is None and not waiter.closed and (timeout is None or timeout > 0)
            if waits:
                self.blocked_on_role.add(waiter)
        try:
            yield waits
        finally:
            if waits and waiter.reached is None:
                self.leave(partial(self.blocked_on_role.discard, waiter))

    def outcome_of_role(self, waiter: RoleWaiter, timeout: float | None, what: str) -> str | None:
        """The primary's hostname at the end of the wait. Raises `WatcherClosed` and `WaitTimeout`."""
        if waiter.reached is not None:
            return waiter.reached.primary
        if waiter.closed:
            raise WatcherClosed("the watcher was stopped while a role was waited for")
        raise WaitTimeout(f"{what} within {timeout:g} s; it is {self._who()}")

    def statistics(self) -> Statistics:
        inner = super().statistics()
        waiters = inner.waiters + len(self.blocked_on_tx) + len(self.blocked_on_role)
        with self.lock:
            subscriptions = inner.subscriptions + sum(not each.closed for each in self.blocking_subscriptions)
        return Statistics(waiters, subscriptions, inner.events, inner.reconnects, inner.rereads, inner.wakes)

    @property
    def streaming(self) -> bool:
        return self._supervisor is not None and self._supervisor.streaming

    def hurry(self, database: str) -> None:
        if self._supervisor is not None:
            self._supervisor.hurry(database)


class BlockingSubscription(Generic[ChangeT]):
    """Changes as they come: an iterator that blocks, and a context manager that ends the subscription.

    It ends when the watcher stops, after what was still queued, and in a forked child. The watcher holds it weakly.
    """

    def __init__(self, inner: InnerWatcher, accepts: tuple[type, ...]) -> None:
        self._inner = inner
        self._news = threading.Condition(inner.lock)
        self._accepts = accepts
        self._queue: ChangeQueue[ChangeT] = ChangeQueue(self._news.notify_all)

    def _put(self, change: ChangeT) -> None:
        if isinstance(change, self._accepts):
            self._queue.put(change)

    @property
    def closed(self) -> bool:
        """Whether it takes no more changes; those that wait can still be taken."""
        return self._queue.closed

    def __len__(self) -> int:
        """How many changes wait to be taken."""
        return len(self._queue)

    def take(self, timeout: float | None = None) -> ChangeT | None:
        """The next change; None after ``timeout`` seconds, or where the subscription has ended."""
        with self._news:
            self._news.wait_for(lambda: len(self._queue) or self._queue.closed, timeout)
            return self._queue.take()

    def close(self) -> None:
        """End the subscription: who iterates it stops."""
        if not self._queue.closed:
            self._queue.closed = True
            self._inner.leave(self._queue.close)

    def _after_fork(self) -> None:
        self._queue.closed = True
        self._news = threading.Condition()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChangeT:
        if (change := self.take()) is None:
            raise StopIteration
        return change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
