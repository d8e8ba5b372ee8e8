"""The board: what is true, and who waits for it, under one lock.

Two operations, each one step that nothing comes between:

- *apply and wake*: a reading goes into the state, and whoever waited for what follows from it is woken;
- *check and register*: is it there already? else wake me.

So no wake-up is lost, whatever thread either comes from: what lands between a check and its registration does not exist.

**Leaving never waits for the lock.** A wait or a subscription also ends where the garbage collector drops a generator or a
coroutine, and the collector may be at work in the very thread that holds the lock, in the middle of an operation. Who leaves
is put down in `_leaving`, and taken out by whoever has the lock, or gets it next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litefs_watch.changes import Change, PrimaryChange
from litefs_watch.core.history import View
from litefs_watch.core.readings import DirectoryRead, Reading
from litefs_watch.core.state import NodeState
from litefs_watch.core.subscriptions import ChangeQueue, ChangeT, Subscriptions
from litefs_watch.core.waiters import RoleWaiter, RoleWaiters, TxWaiter, TxWaiters, Waiter

if TYPE_CHECKING:
    from litefs_watch.core.peers import Peers


class Moved:
    """What subscribers to the cluster's picture are told: it is another one now."""


class Board:
    """One run's state and queues. `close` ends it for good; every method may be called from any thread."""

    def __init__(self, state: NodeState) -> None:
        self.lock: threading.Lock = threading.Lock()
        """Held in each operation. Only `ChangeQueue` wakes share it (a condition on it)."""
        self.state = state
        """To be read without the lock only where one look is one value: `standing`, an entry of `met` or `positions`."""
        self.closed: bool = False
        self.wakes: int = 0
        """Waiters that were woken because what they waited for was there."""
        self.lost = 0
        """Requests whose client had a token of a transaction that is lost."""
        self.timeouts: int = 0
        """Waits that ended late."""
        self._tx_waiters = TxWaiters()
        self._role_waiters = RoleWaiters()
        self.peers: Peers | None = None
        """What other nodes say, where they are asked, and who waits for that."""
        self._subscriptions = Subscriptions()
        self._leaving: deque[Callable[[], None]] = deque()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.lock:
            self._let_go()
            yield
        self._drain()

    def apply(self, reading: Reading) -> list[Change]:
        """Apply and wake. Returns what changed, in order; nothing any more once the board is closed."""
        with self.lock:
            if self._leaving:
                self._let_go()
            if self.closed:
                return []
            state = self.state
            changes = state.apply(reading)
            for database in state.risen:
                self.wakes += self._tx_waiters.publish(database, state)
            if isinstance(reading, DirectoryRead):
                for database in reading.positions:
                    self.wakes += self._tx_waiters.lose(database, state)
                self.wakes += self._role_waiters.publish(state)
            for change in changes:
                if isinstance(change, PrimaryChange):
                    self.wakes += self._role_waiters.publish(state)
                self._subscriptions.publish(change)
        if self._leaving:
            self._drain()
        return changes

    def change_peers(self, change: Callable[[Peers], int]) -> None:
        """Apply what a peer has said, or who is one, and wake. ``change`` returns how many waiters it has woken."""
        with self._locked():
            if self.peers is not None and not self.closed:
                self.wakes += change(self.peers)
                self._subscriptions.publish(Moved())

    def _queue_of(self, waiter: Waiter[Any]) -> Any:
        if isinstance(waiter, TxWaiter):
            return self._tx_waiters
        return self._role_waiters if isinstance(waiter, RoleWaiter) else self.peers

    def register(self, waiter: Waiter[Any], *, wait: bool) -> bool:
        """Check and register: whether ``waiter`` is to wait for its wake.

        It is not where what it waits for is there (its ``result`` is set), where the board is closed (``closed`` is set), or
        where ``wait`` is false.
        """
        with self._locked():
            if self.closed:
                waiter.closed = True
                return False
            waiter.result = waiter.look(self.state)
            if waiter.result is not None or not wait:
                return False
            self._queue_of(waiter).add(waiter)
            return True

    def leave(self, waiter: Waiter[Any]) -> None:
        """The wait is over, however it ended. Never waits for the lock."""
        if waiter.result is None and not waiter.closed:  # else it is out already
            self._leaving.append(partial(self._queue_of(waiter).discard, waiter))
            self._drain()

    def late(self, waiter: Waiter[Any]) -> str:
        """Count a wait that ended late, and say what it missed: with '{}' for the time that it was given."""
        with self._locked():
            self.timeouts += 1
            return waiter.late(self.state)

    def subscribe(self, queue: ChangeQueue[ChangeT]) -> bool:
        """Publish every change from now on into ``queue``. False where the board is closed."""
        with self._locked():
            if not self.closed:
                self._subscriptions.add(queue)
            return not self.closed

    def unsubscribe(self, queue: ChangeQueue[ChangeT]) -> None:
        """Publish no more into it, and wake its subscriber. Never waits for the lock."""
        if not queue.closed:
            queue.closed = True
            self._leaving.append(partial(self._subscriptions.remove, queue))
            self._drain()

    def take(self, queue: ChangeQueue[ChangeT]) -> ChangeT | None:
        """The oldest change that the subscriber has not taken."""
        with self._locked():
            return queue.take()

    def close(self) -> None:
        """Know nothing any more, and wake everybody empty-handed. Twice is once."""
        with self._locked():
            if not self.closed:
                self.closed = True
                self.state.forget()
                self._tx_waiters.close()
                self._role_waiters.close()
                if self.peers is not None:
                    self.peers.close()
                self._subscriptions.close()

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is gone, and nobody will publish anything here."""
        self.lock = threading.Lock()
        self._leaving.clear()
        self.closed = True
        self.state.forget()

    def view(self, database: str, data_dir: Path | None, *, everything: bool) -> View:
        """What is known, as of one moment. Asked for each request that has a token: as cheap as can be."""
        with self.lock:
            view = self.state.view(database, data_dir, everything=everything)
        if self._leaving:
            self._drain()
        return view

    @property
    def awaited(self) -> frozenset[str]:
        """The databases that somebody waits for."""
        with self._locked():
            return self._tx_waiters.databases

    @property
    def counts(self) -> tuple[int, float | None, int]:
        """How many wait, since when the first of them does (`Waiter.since`), and how many subscriptions there are."""
        with self._locked():  # the waiters are looked through without it
            waiting: list[Waiter[Any]] = [*self._tx_waiters, *self._role_waiters, *(self.peers or ())]
            subscriptions = len(self._subscriptions)
        return len(waiting), min((waiter.since for waiter in waiting), default=None), subscriptions

    # Leaving.

    def _let_go(self) -> None:
        """With the lock held: take out whoever has left."""
        while self._leaving:
            self._leaving.popleft()()

    def _drain(self) -> None:
        """Without it: the same, unless somebody has it, who will look once more when it is given back."""
        while self._leaving and self.lock.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self.lock.release()
