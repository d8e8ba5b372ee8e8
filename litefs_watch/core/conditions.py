"""Who waits for what, and how they are woken.

The queues here are plain data: adding, publishing and taking out are synchronous and never yield, so between 'is it there
already?' and 'then wake me' nothing can happen (the lost wake-up of 'check, then register'). One thread uses them at a
time: the event loop's, or whoever holds the lock of a `BlockingWatcher`.

Prior art: trio's ParkingLot for the shape, PostgreSQL's WAIT FOR LSN for the order by position.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakSet

import anyio
import anyio.lowlevel

from litefs_watch.changes import Change, PrimaryChange, Role, TxChange
from litefs_watch.position import Position

ChangeT = TypeVar("ChangeT", bound=TxChange | PrimaryChange)


class TxWaiter:
    """One who waits for ``database`` to reach ``txid``. ``wake`` is called when ``position`` is set, or ``closed``."""

    __slots__ = ("closed", "database", "position", "serial", "txid", "wake")

    def __init__(self, database: str, txid: int, wake: Callable[[], object]) -> None:
        self.database = database
        self.txid = txid
        self.wake = wake
        self.position: Position | None = None
        """The position that ended the wait."""
        self.closed = False
        self.serial = 0

    def _order(self) -> tuple[int, int]:
        return (-self.txid, -self.serial)  # the next to be due stands last, where a list is cheap to shorten


class TxWaiters:
    """The waiters of each database, sorted by TXID: who is due stands together, and nobody else is looked at.

    A sorted list rather than a heap: leaving early takes exactly one entry out (bisect, then one memory move), so who
    times out leaves nothing behind.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[TxWaiter]] = {}
        self._serial = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def databases(self) -> frozenset[str]:
        """The databases that somebody waits for."""
        return frozenset(self._queues)

    def add(self, waiter: TxWaiter) -> None:
        self._serial += 1
        waiter.serial = self._serial
        insort(self._queues.setdefault(waiter.database, []), waiter, key=TxWaiter._order)
        self._count += 1

    def discard(self, waiter: TxWaiter) -> None:
        """Take a waiter out, if it is still here."""
        queue = self._queues.get(waiter.database, [])
        index = bisect_left(queue, waiter._order(), key=TxWaiter._order)
        if index < len(queue) and queue[index] is waiter:
            del queue[index]
            self._count -= 1
            if not queue:
                del self._queues[waiter.database]

    def publish(self, database: str, position: Position) -> int:
        """Wake those that ``position`` satisfies, the lowest TXID first. Returns how many they were."""
        queue = self._queues.get(database)
        woken = 0
        while queue and queue[-1].txid <= position.txid:
            waiter = queue.pop()
            self._count -= 1  # before it is woken: in a thread of its own, it runs on at once
            waiter.position = position
            waiter.wake()
            woken += 1
        if woken and not queue:
            del self._queues[database]
        return woken

    def close(self) -> None:
        """Wake everybody empty-handed."""
        queues, self._queues, self._count = self._queues, {}, 0
        for queue in queues.values():
            for waiter in queue:
                waiter.closed = True
                waiter.wake()


class RoleWaiter:
    """One who waits for one of the roles ``wanted``. ``wake`` is called when ``reached`` is set, or ``closed``."""

    __slots__ = ("closed", "reached", "wake", "wanted")

    def __init__(self, wanted: frozenset[Role], wake: Callable[[], object]) -> None:
        self.wanted = wanted
        self.wake = wake
        self.reached: PrimaryChange | None = None
        """The change that ended the wait."""
        self.closed = False


class RoleWaiters:
    """The waiters for a role. Roles change a few times a day: they are looked through one by one."""

    def __init__(self) -> None:
        self._waiters: dict[RoleWaiter, None] = {}  # a set that keeps the order

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: RoleWaiter) -> None:
        self._waiters[waiter] = None

    def discard(self, waiter: RoleWaiter) -> None:
        """Take a waiter out, if it is still here."""
        self._waiters.pop(waiter, None)

    def publish(self, change: PrimaryChange) -> int:
        """Wake those who wanted this role. Returns how many they were."""
        due = [waiter for waiter in self._waiters if change.role in waiter.wanted]
        for waiter in due:
            del self._waiters[waiter]
            waiter.reached = change
            waiter.wake()
        return len(due)

    def close(self) -> None:
        """Wake everybody empty-handed."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.closed = True
            waiter.wake()


class ChangeQueue(Generic[ChangeT]):
    """Changes that a subscriber has not taken yet: of each database's positions the newest, of the primary's all.

    Two changes of one database become one, from the earlier's ``previous`` to the later's ``position``, at the later's
    place in the order; it is dropped where the two are the same.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._changes: dict[object, ChangeT] = {}
        self._serial = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._changes)

    def put(self, change: ChangeT) -> None:
        key: object
        if isinstance(change, TxChange):
            key = change.database
            waiting = self._changes.pop(key, None)
            if isinstance(waiting, TxChange):
                if waiting.previous == change.position:
                    return
                change = cast("ChangeT", TxChange(change.database, change.position, waiting.previous))
        else:
            key = self._serial
            self._serial += 1
        self._changes[key] = change
        self._wake()

    def take(self) -> ChangeT | None:
        """The oldest change, or None where there is none."""
        return self._changes.pop(next(iter(self._changes))) if self._changes else None

    def close(self) -> None:
        self.closed = True
        self._wake()


class Subscription(Generic[ChangeT]):
    """Changes as they come: an async iterator, and a context manager that ends the subscription.

    It is registered by the call that made it, so nothing between that call and the first ``async for`` is missed. It ends
    when the watcher stops, after what was still queued. Dropping it unclosed is safe too: the watcher holds it weakly.
    """

    def __init__(self, accepts: tuple[type, ...]) -> None:
        self._accepts = accepts
        self._news = anyio.Event()
        self._queue: ChangeQueue[ChangeT] = ChangeQueue(self._wake)

    def _wake(self) -> None:
        self._news.set()

    def _put(self, change: Change) -> None:
        if isinstance(change, self._accepts):
            self._queue.put(cast("ChangeT", change))

    def __len__(self) -> int:
        """How many changes wait to be taken."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether it takes no more changes; those that wait can still be taken."""
        return self._queue.closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChangeT:
        await anyio.lowlevel.checkpoint()
        while (change := self._queue.take()) is None:
            if self._queue.closed:
                raise StopAsyncIteration
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        return change

    def close(self) -> None:
        """End the subscription: what iterates it stops."""
        self._queue.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Subscriptions:
    """Everybody's subscriptions, held weakly: one that its owner dropped is gone."""

    def __init__(self) -> None:
        self._all: WeakSet[Subscription[Any]] = WeakSet()

    def __len__(self) -> int:
        return sum(not subscription.closed for subscription in self._all)

    def add(self, subscription: Subscription[ChangeT]) -> Subscription[ChangeT]:
        self._all.add(subscription)
        return subscription

    def publish(self, change: Change) -> None:
        if not self._all:
            return
        for subscription in list(self._all):
            if subscription.closed:
                self._all.discard(subscription)
            else:
                subscription._put(change)

    def close(self) -> None:
        for subscription in list(self._all):
            subscription.close()
        self._all.clear()
