"""Who waits for what: plain data, and the two queues of it. `litefs_watch.core.board` holds them under its lock.

A waiter is one call that waits. ``wake`` is called once, with what it waited for, or with None where the watcher was closed;
what it does is the business of whoever waits: set a future, release a lock, post to another thread.

Prior art: trio's ParkingLot for the shape, PostgreSQL's WAIT FOR LSN for the order by position.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeVar

from litefs_watch.changes import Role, Standing, clause
from litefs_watch.position import Position, Where
from litefs_watch.status import unseen

if TYPE_CHECKING:
    from litefs_watch.core.state import NodeState

logger: logging.Logger = logging.getLogger("litefs_watch")

T = TypeVar("T")

_NOT_HERE = (Where.AHEAD, Where.ELSEWHERE)


class Waiter(Generic[T]):
    """One who waits. After the wake either ``result`` is set, or ``closed``."""

    __slots__ = ("closed", "result", "since", "wake")

    def __init__(self, wake: Callable[[T | None], object]) -> None:
        self.wake: Callable[[T | None], object] = wake
        self.result: T | None = None
        """What ended the wait."""
        self.closed: bool = False
        self.since: float = float("inf")
        """When the wait began, on the readings' clock: a look that began later tells of what is waited for."""

    def look(self, state: NodeState) -> T | None:
        """What this waits for, if it is there."""
        raise NotImplementedError

    def late(self, state: NodeState) -> str:
        """What did not happen, and what is true instead; in the middle of it '{}' for the time that was given."""
        raise NotImplementedError

    @property
    def what(self) -> str:
        """What is waited for, in words."""
        raise NotImplementedError


class TxWaiter(Waiter[Position]):
    """One who waits for ``database`` to reach ``wanted``: a TXID, or a whole position, which names its history, too."""

    __slots__ = ("database", "lost", "position", "serial", "txid")

    def __init__(self, database: str, wanted: int | Position, wake: Callable[[Position | None], object]) -> None:
        super().__init__(wake)
        self.database: str = database
        self.position: Position | None = wanted if isinstance(wanted, Position) else None
        self.txid: int = wanted.txid if isinstance(wanted, Position) else wanted
        self.serial: int = 0
        self.lost: bool = False
        """Set where the primary says that ``position`` is in no history any more."""

    def look(self, state: NodeState) -> Position | None:
        return state.has(self.database, self.txid if self.position is None else self.position)

    def late(self, state: NodeState) -> str:
        here = state.positions.get(self.database)
        if here is None:
            seen = unseen(self.database, state.positions).replace("{", "{{").replace("}", "}}")
        elif here.txid < self.txid:
            seen = f"it is at {here.txid}"
        elif self.position is not None and state.view(self.database).where(self.position) is Where.ELSEWHERE:
            seen = f"it is at {here.txid} of another history"
        else:
            seen = f"it was last seen at {here.txid}, and nothing confirms that it still is in its cluster's history"
        return f"{self.database} did not reach {self._wanted} within {{}}: {seen}; {clause(state.standing)}"

    @property
    def what(self) -> str:
        return f"{self._wanted} of {self.database}"

    @property
    def _wanted(self) -> str:
        return f"transaction {self.txid}" if self.position is None else f"position {self.position}"

    def _order(self) -> tuple[int, int]:
        return (-self.txid, -self.serial)  # the next to be due stands last, where a list is cheap to shorten


class RoleWaiter(Waiter[Standing]):
    """One who waits for one of the roles ``wanted``."""

    __slots__ = ("_late", "wanted")

    def __init__(self, wanted: frozenset[Role], late: str, wake: Callable[[Standing | None], object]) -> None:
        super().__init__(wake)
        self.wanted: frozenset[Role] = wanted
        self._late = late

    def look(self, state: NodeState) -> Standing | None:
        return state.standing if state.standing.role in self.wanted else None

    def late(self, state: NodeState) -> str:
        return f"{self._late} within {{}}; {clause(state.standing)}"

    @property
    def what(self) -> str:
        return "a role"


class PrimaryCheck(RoleWaiter):
    """One who asks whether this node still is the primary, and wants a look at LiteFS that begins now.

    It looks at ``database``, too: what it has then is the answer to what it was asked for.
    """

    __slots__ = ("database",)

    def __init__(self, database: str, wake: Callable[[Standing | None], object]) -> None:
        super().__init__(frozenset((Role.REPLICA, Role.UNKNOWN)), "nothing told whether this node is the primary", wake)
        self.database: str = database

    def look(self, state: NodeState) -> Standing | None:
        return state.standing if state.is_sure(self.since) else super().look(state)


class TxWaiters:
    """The waiters of each database, sorted by TXID: who is due stands together, and nobody else is looked at.

    A sorted list rather than a heap: leaving early takes exactly one entry out (bisect, then one memory move), so who
    times out leaves nothing behind.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[TxWaiter]] = {}
        self._serial = 0
        self._count = 0
        self._wholes = 0  # how many of them wait for a whole position

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TxWaiter]:
        return chain.from_iterable(self._queues.values())

    @property
    def databases(self) -> frozenset[str]:
        """The databases that somebody waits for."""
        return frozenset(self._queues)

    def add(self, waiter: TxWaiter) -> None:
        self._serial += 1
        waiter.serial = self._serial
        insort(self._queues.setdefault(waiter.database, []), waiter, key=TxWaiter._order)
        self._count += 1
        self._wholes += waiter.position is not None

    def discard(self, waiter: TxWaiter) -> None:
        """Take a waiter out, if it is still here."""
        queue = self._queues.get(waiter.database, [])
        index = bisect_left(queue, waiter._order(), key=TxWaiter._order)
        if index < len(queue) and queue[index] is waiter:
            del queue[index]
            self._count -= 1
            self._wholes -= waiter.position is not None
            if not queue:
                del self._queues[waiter.database]

    def publish(self, database: str, state: NodeState) -> int:
        """Wake those that wait for nothing more, the lowest TXID first. Returns how many they were."""
        queue, known = self._queues.get(database), state.positions.get(database)
        if not queue or known is None or queue[-1].txid > known.txid:
            return 0
        first = bisect_left(queue, -known.txid, key=_negative_txid)
        due = queue[first:]
        met = state.met.get(database)
        if met is not None and met.txid >= known.txid and not self._wholes:
            del queue[first:]
            for waiter in due:
                waiter.result = met
        else:  # whose position is of another history, or who waits for somebody to vouch for this one, stays
            asked: Position | None = None
            for waiter in due:
                if asked is None or waiter.position is not asked:  # most of a crowd wait for the same one
                    asked, found = waiter.position, waiter.look(state)
                waiter.result = found
            queue[first:] = [waiter for waiter in due if waiter.result is None]
            due = [waiter for waiter in due if waiter.result is not None]
        due.reverse()
        return self._dismiss(database, due)

    def lose(self, database: str, state: NodeState) -> int:
        """Wake those whose position is not the primary's, by a look that began after their wait did: it is lost, since no
        position is known before its transaction is there. Returns how many they were."""
        if not self._wholes or (queue := self._queues.get(database)) is None:
            return 0
        view = state.view(database)
        lost = [
            waiter
            for waiter in queue
            if waiter.position is not None and state.is_sure(waiter.since) and view.where(waiter.position) in _NOT_HERE
        ]
        for waiter in lost:
            waiter.lost = True
        if lost:
            queue[:] = [waiter for waiter in queue if not waiter.lost]
        return self._dismiss(database, lost)

    def _dismiss(self, database: str, due: list[TxWaiter]) -> int:
        """Wake those that have been taken out."""
        if not self._queues.get(database, True):
            del self._queues[database]
        self._count -= len(due)  # before any is woken: in a thread of its own, it runs on at once
        if self._wholes:
            self._wholes -= sum(waiter.position is not None for waiter in due)
        wake_all(due)
        return len(due)

    def close(self) -> None:
        """Wake everybody empty-handed."""
        queues, self._queues, self._count, self._wholes = self._queues, {}, 0, 0
        for queue in queues.values():
            close_all(queue)


class RoleWaiters:
    """The waiters for a role. Roles change a few times a day: they are looked through one by one."""

    def __init__(self) -> None:
        self._waiters: dict[RoleWaiter, None] = {}  # a set that keeps the order

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[RoleWaiter]:
        return iter(self._waiters)

    def add(self, waiter: RoleWaiter) -> None:
        self._waiters[waiter] = None

    def discard(self, waiter: RoleWaiter) -> None:
        """Take a waiter out, if it is still here."""
        self._waiters.pop(waiter, None)

    def publish(self, state: NodeState) -> int:
        """Wake those who have what they wait for. Returns how many they were."""
        due = []
        for waiter in self._waiters:
            waiter.result = waiter.look(state)
            if waiter.result is not None:
                due.append(waiter)
        for waiter in due:
            del self._waiters[waiter]
        wake_all(due)
        return len(due)

    def close(self) -> None:
        """Wake everybody empty-handed."""
        waiters, self._waiters = self._waiters, {}
        close_all(waiters)


def _negative_txid(waiter: TxWaiter) -> int:
    return -waiter.txid


def wake_all(due: Iterable[Waiter[T]]) -> None:
    """Each by itself: one whose wake fails (its event loop is gone, say) harms nobody else's."""
    for waiter in due:
        try:
            waiter.wake(waiter.result)
        except Exception:
            logger.exception("a waiter could not be woken: %s", waiter.what)


def close_all(waiters: Iterable[Waiter[T]]) -> None:
    for waiter in waiters:
        waiter.closed = True
        try:
            waiter.wake(None)
        except Exception:
            logger.exception("a waiter could not be told that the watcher was closed: %s", waiter.what)
