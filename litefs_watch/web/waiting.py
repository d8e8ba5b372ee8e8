"""Drives `litefs_watch.consistency` for one middleware: does the waiting that is decided, and reads the position.

`BlockingGate` for threads, `AsyncGate` for event loops; the middlewares (`litefs_watch.asgi`, ``wsgi``, ``django``) know how
to take a request apart and how to answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import ClassVar, TypeVar

import anyio

from litefs_watch.consistency import RUN, Action, Confirm, Exchange, Hold, Look, Options, Wait
from litefs_watch.errors import TransactionLost, WaitTimeout, WatcherClosed
from litefs_watch.position import Position
from litefs_watch.sources.thread import CallThread
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.budget import Defaults
from litefs_watch.web.gate import Gate, Waiting

READ_TIMEOUT = 1.0
"""Seconds for the read of ``-pos`` when a response starts: a frozen LiteFS blocks it for as long as it is frozen."""

ActionT = TypeVar("ActionT", Action, Action | None)
Watched = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

MOST_WAITS = 3
"""Times that a read is waited for, within its time, where what was met is met no longer when it would go on."""

_UNREADABLE = "it is unreadable: %s"


def _waits(gate: Gate, exchange: Exchange, action: Wait) -> Iterator[float]:
    """For how many seconds to wait; once more where an event that came late looked since like a database that has gone back,
    or LiteFS went: the next look tells."""
    until, seconds = time.monotonic() + action.timeout, action.timeout
    for _ in range(MOST_WAITS):
        yield seconds
        if gate.node(exchange).has(action.token):
            return
        seconds = max(0.0, until - time.monotonic())


class BlockingGate(Gate):
    """Waits in the thread that calls."""

    DEFAULT_BUDGET: ClassVar[Defaults] = Defaults(4, 2, 3, threads=True)
    """Of gunicorn's eight threads half wait at most, for half a second, and most are free in a fail-over. A quarter where
    anybody can make up what he has seen: others then take a third longer, and not twice as long (`benchmarks.attack`)."""

    def __init__(self, watcher: BlockingWatcher, database: str | None, options: Options) -> None:
        super().__init__(watcher, database, options)
        self._watcher = watcher

    def enter(self, exchange: Exchange) -> Action:
        """Before the application runs: what is decided, after all waits."""
        if self.is_met(exchange, noted=True):
            return RUN
        action = self._settle(exchange, lambda: self._decide(exchange))
        if action is RUN and self._wants_before(exchange):
            exchange.before = self._read_position(exchange)
        return action

    def failed(self, exchange: Exchange, error: BaseException) -> Action | None:
        """What answers an exception that `is_fault_of_node`, after all waits; None: the application's own response, with our
        `headers_at`."""
        return self._settle(exchange, lambda: self._fail(exchange, error))

    def replicate(self, exchange: Exchange, position: Position | None, status: int) -> None:
        """Before `headers_at`: wait until as many other nodes have what a response acknowledges as is asked for."""
        replication = self.replication
        if not replication.concerns(exchange, position, status):
            return
        run = None
        try:
            run = self._watcher.run
            if (seconds := replication.patience(exchange, position, run, self.budget)) and position is not None:
                with self.budget.spent_on_replication():
                    self._watcher.wait_for_replicas(position, replication.count, database=self.database, timeout=seconds)
        except (WaitTimeout, WatcherClosed):
            pass  # how many have it is asked now
        replication.conclude(exchange, position, run)

    def position(self, exchange: Exchange) -> Position | None:
        """The position now, for `headers_at`. None where it is not wanted, or can't be read."""
        wanted = self.policy.wants_position(exchange, partial(self.node, exchange))
        return self._read_position(exchange) if wanted else None

    def _settle(self, exchange: Exchange, decide: Callable[[], ActionT]) -> ActionT:
        while True:
            if (lookup := self._lookup(exchange)) is not None:
                exchange.found = lookup()
            if not isinstance(action := decide(), Waiting):
                return action
            with self._waiting(exchange, action):
                self._wait(exchange, action)
                if isinstance(action, Look):
                    exchange.after = self._read_position(exchange)

    def _wait(self, exchange: Exchange, action: Waiting) -> None:
        try:
            if isinstance(action, Wait):
                for seconds in _waits(self, exchange, action):
                    self._watcher.wait_for_tx(action.token, database=self.database, timeout=seconds)
            elif isinstance(action, Confirm | Look):
                exchange.confirmed = self._watcher.confirm_primary(database=self.database, timeout=action.timeout)
            else:
                self._watcher.wait_for_primary(timeout=action.timeout)
        except (WaitTimeout, TransactionLost):
            pass  # what comes next depends on what is true now, not on how the wait ended
        except WatcherClosed as error:
            self._say_closed(error)

    def _read_position(self, exchange: Exchange) -> Position | None:
        try:
            return self._watcher.read_position(self.database)
        except (OSError, WatcherClosed) as error:
            self._say_unreadable(_UNREADABLE, error)
            exchange.unreadable = True
            return None


class AsyncGate(Gate):
    """The same, awaited."""

    DEFAULT_BUDGET: ClassVar[Defaults] = Defaults(1000, 1000, 1000)

    def __init__(self, watcher: Watcher | AwaitableWatcher, database: str | None, options: Options) -> None:
        super().__init__(watcher.watcher if isinstance(watcher, AwaitableWatcher) else watcher, database, options)
        self._watcher = watcher
        self._disk = CallThread("litefs_watch disk")

    async def enter(self, exchange: Exchange, watched: Watched | None = None) -> Action:
        """As `BlockingGate.enter`. ``watched`` does the holding; it may raise where nobody wants the answer any more."""
        action = await self._settle(exchange, lambda: self._decide(exchange), watched)
        if action is RUN and self._wants_before(exchange):
            exchange.before = await self._read_position(exchange)
        return action

    async def failed(self, exchange: Exchange, error: BaseException) -> Action | None:
        """As `BlockingGate.failed`."""
        return await self._settle(exchange, lambda: self._fail(exchange, error))

    async def replicate(self, exchange: Exchange, position: Position | None, status: int) -> None:
        """As `BlockingGate.replicate`."""
        replication = self.replication
        if not replication.concerns(exchange, position, status):
            return
        run = None
        try:
            run = self._known.run
            if (seconds := replication.patience(exchange, position, run, self.budget)) and position is not None:
                with self.budget.spent_on_replication():
                    count, database = replication.count, self.database
                    await self._watcher.wait_for_replicas(position, count, database=database, timeout=seconds)
        except (WaitTimeout, WatcherClosed):
            pass  # as above
        replication.conclude(exchange, position, run)

    async def position(self, exchange: Exchange) -> Position | None:
        """As `BlockingGate.position`. None, too, where it can't be read within `READ_TIMEOUT`."""
        wanted = self.policy.wants_position(exchange, partial(self.node, exchange))
        return await self._read_position(exchange) if wanted else None

    async def _settle(self, exchange: Exchange, decide: Callable[[], ActionT], watched: Watched | None = None) -> ActionT:
        while True:
            if (lookup := self._lookup(exchange)) is not None:
                with anyio.move_on_after(READ_TIMEOUT):
                    exchange.found = await self._disk.run(lookup)
            if not isinstance(action := decide(), Waiting):
                return action
            with self._waiting(exchange, action):
                wait = partial(self._wait, exchange, action)
                await (watched(wait) if watched is not None and isinstance(action, Hold) else wait())
                if isinstance(action, Look):
                    exchange.after = await self._read_position(exchange)

    async def _wait(self, exchange: Exchange, action: Waiting) -> None:
        try:
            if isinstance(action, Wait):
                for seconds in _waits(self, exchange, action):
                    await self._watcher.wait_for_tx(action.token, database=self.database, timeout=seconds)
            elif isinstance(action, Confirm | Look):
                exchange.confirmed = await self._watcher.confirm_primary(database=self.database, timeout=action.timeout)
            else:
                await self._watcher.wait_for_primary(timeout=action.timeout)
        except (WaitTimeout, TransactionLost):
            pass  # as above
        except WatcherClosed as error:
            self._say_closed(error)

    async def _read_position(self, exchange: Exchange) -> Position | None:
        """The position in the file now. None where there is none, or it can't be read: a token from older knowledge would
        promise less than the response shows."""
        with anyio.move_on_after(READ_TIMEOUT):
            try:
                return await self._watcher.read_position(self.database)
            except (OSError, WatcherClosed) as error:
                self._say_unreadable(_UNREADABLE, error)
                exchange.unreadable = True
                return None
        exchange.unreadable = True
        self._say_unreadable("it could not be read within %g s", READ_TIMEOUT)
        return None
