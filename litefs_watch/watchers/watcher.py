"""The watcher: puts readings through the state, and wakes whoever waits.

Applying a reading and waking is one synchronous step, and so is 'is it there? else wake me': on one event loop, neither can
come between the two halves of the other.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

import anyio

from litefs_watch.changes import PrimaryChange, Role, TxChange
from litefs_watch.core.conditions import ChangeT, RoleWaiter, RoleWaiters, Subscription, Subscriptions, TxWaiter, TxWaiters
from litefs_watch.core.readings import NEVER_REPLICATED_MS, Reading, RoleEvent, TxEvent
from litefs_watch.core.state import NodeState
from litefs_watch.errors import NoPrimary, NotPrimary, WaitTimeout, WatcherClosed, WrongInstance
from litefs_watch.position import Position, check_txid
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.status import Statistics, Status

if TYPE_CHECKING:
    import asyncio

    from litefs_watch.sources.supervisor import Supervisor

logger = logging.getLogger("litefs_watch")

KNOWN_PRIMARY = frozenset((Role.PRIMARY, Role.REPLICA))


class Watcher:
    """Knows each database's position and the primary of one LiteFS node, and wakes whoever waits, the moment it changes.

    Use it as an async context manager, as an application's ``lifespan``, or through `start` and `stop`, on asyncio or trio.
    All calls belong to the event loop that it was started in; `BlockingWatcher` is for threads.

    Starting takes at most ``settings.start_timeout`` seconds and never fails because LiteFS is down or not mounted yet:
    the role is then UNKNOWN, and heals by itself. Without an argument the settings come from `Settings.from_env`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = Settings.from_env() if settings is None else settings
        self._running = False
        self._scope: anyio.CancelScope | None = None
        self._finished: anyio.Event | None = None
        self._reset()

    def _reset(self) -> None:
        settings = self.settings
        self._state = NodeState(settings.node_name, settings.settle)
        self._tx_waiters = TxWaiters()
        self._role_waiters = RoleWaiters()
        self._subscriptions = Subscriptions()
        self._wakes = 0
        self._ready = anyio.Event()
        self._supervisor: Supervisor | None = None
        if settings.standalone or settings.litefs_dir is None:
            self._state.apply(RoleEvent(time.monotonic(), is_primary=True, hostname=None))
            self._ready.set()
        else:
            # Imported with the first watcher: h11, watchfiles and the models are half of what the package costs.
            from litefs_watch.sources.supervisor import Supervisor

            self._supervisor = Supervisor(
                settings,
                settings.litefs_dir,
                publish=self._publish,
                known=self._known_databases,
                awaited=self._awaited_databases,
            )

    # Starting and stopping.

    async def start(self) -> None:
        """Start watching, and wait for LiteFS's first answer, or ``settings.start_timeout`` seconds.

        No task of the caller's has to stay: `stop` may be called from another one. Raises `RuntimeError` when the watcher
        is running already. A stopped watcher can be started again.
        """
        if self._running:
            raise RuntimeError("this watcher is running already")
        self._reset()
        self._running = True
        self._finished = anyio.Event()
        spawn(self._run)
        try:
            with anyio.move_on_after(self.settings.start_timeout):
                await self._ready.wait()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop watching. Whoever waits is woken with `WatcherClosed`; subscriptions end. Stopping twice does nothing."""
        self._close()
        if self._scope is not None:
            self._scope.cancel()
        if self._finished is not None:
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    async def __aenter__(self) -> Watcher:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[dict[str, Watcher]]:
        """The ``lifespan`` of a Starlette, FastAPI or Litestar application; ``request.state.litefs`` is the watcher."""
        async with self:
            yield {"litefs": self}

    async def _run(self) -> None:
        finished = self._finished
        try:
            with anyio.CancelScope() as self._scope:
                if not self._running:  # stopped before it began
                    return
                if self._supervisor is None:
                    await anyio.sleep_forever()
                else:
                    await self._supervisor.run()
        except Exception:
            logger.exception("the watcher failed through a fault of litefs_watch")
        finally:
            self._close()  # also where the event loop itself ends
            if finished is not None:
                finished.set()

    def _close(self) -> None:
        if self._running:
            self._running = False
            self._tx_waiters.close()
            self._role_waiters.close()
            self._subscriptions.close()

    def _check_running(self) -> None:
        if not self._running:
            raise WatcherClosed("the watcher is not running: start it in the application's lifespan, or with start()")

    # From readings to whoever waits.

    def _publish(self, reading: Reading) -> None:
        changes = self._state.apply(reading)
        for change in changes:
            self._announce(change)
        if (supervisor := self._supervisor) is not None:
            if self._state.look_again_at is not None:
                if isinstance(reading, TxEvent):
                    supervisor.look(reading.database)
                else:
                    supervisor.look_at(self._state.look_again_at)
            if not self._ready.is_set() and supervisor.answered and self._state.settled:
                self._ready.set()

    def _announce(self, change: TxChange | PrimaryChange) -> None:
        """Wake those whom a change concerns."""
        if isinstance(change, TxChange):
            self._wakes += self._tx_waiters.publish(change.database, change.position)
        else:
            logger.info("role: %s%s", change.role, f" of {change.primary}" if change.primary else "")
            self._wakes += self._role_waiters.publish(change)
        self._subscriptions.publish(change)

    def _awaited_databases(self) -> frozenset[str]:
        return self._tx_waiters.databases

    def _known_databases(self) -> set[str]:
        return self._state.positions.keys() | ({self.settings.database} if self.settings.database else set())

    # What is known.

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._running

    @property
    def hostname(self) -> str:
        """This node's own name."""
        return self.settings.node_name

    @property
    def role(self) -> Role:
        """PRIMARY, REPLICA or UNKNOWN."""
        return self._state.role

    @property
    def is_primary(self) -> bool:
        """Whether this node takes the writes. False where that is not known."""
        return self._state.role is Role.PRIMARY

    @property
    def primary(self) -> str | None:
        """The primary's hostname; None where it is this node, is not known, or has no name: `role` tells which."""
        return self._state.primary

    @property
    def status(self) -> Status:
        """Everything, as of one moment."""
        state, supervisor = self._state, self._supervisor
        replicated = None if state.lag_ms is None else state.lag_ms != NEVER_REPLICATED_MS
        return Status(
            hostname=self.hostname,
            role=state.role,
            primary=state.primary,
            positions=MappingProxyType(dict(state.positions)),
            lag=state.lag_ms / 1000 if state.lag_ms is not None and replicated else None,
            replicated=replicated,
            sources=MappingProxyType(supervisor.status if supervisor else {}),
            faults=MappingProxyType(supervisor.faults if supervisor else {}),
        )

    def position(self, database: str | None = None) -> Position | None:
        """Where the database is, as last heard; None where it has not been seen."""
        return self._state.positions.get(self.settings.database_or_default(database))

    def tx_number(self, database: str | None = None) -> int:
        """The TXID where the database is, as last heard; 0 where it has not been seen."""
        position = self.position(database)
        return 0 if position is None else position.txid

    async def read_position(self, database: str | None = None) -> Position | None:
        """The position straight from the ``-pos`` file, off the loop's thread; None where there is no such file.

        Shared with all who ask at the same time. It waits as long as LiteFS is frozen; bound it with `anyio.fail_after`.
        Raises `OSError` where the file is unreadable, and `WatcherClosed`.
        """
        name = self.settings.database_or_default(database)
        self._check_running()
        return await self._supervisor.read_position(name) if self._supervisor else self.position(name)

    def statistics(self) -> Statistics:
        """Counts, for operators and tests."""
        events, reconnects, rereads = self._supervisor.counts if self._supervisor else (0, 0, 0)
        waiters = len(self._tx_waiters) + len(self._role_waiters)
        return Statistics(waiters, len(self._subscriptions), events, reconnects, rereads, self._wakes)

    def ensure_primary(self) -> None:
        """Return on the primary. Raises `NotPrimary` on a replica, and `NoPrimary` where no primary is known."""
        if self.role is Role.UNKNOWN:
            raise NoPrimary("no primary is known at this moment: a fail-over is under way, or LiteFS is down")
        if self.role is Role.REPLICA:
            raise NotPrimary(self.primary)

    def ensure_instance(self, hostname: str) -> None:
        """Return on the node of that name. Raises `WrongInstance`, a `NotPrimary` that carries ``hostname``, elsewhere."""
        if hostname != self.hostname:
            raise WrongInstance(hostname, f"this node is {self.hostname!r}: run this on {hostname!r}")

    # Waiting.

    async def wait_for_tx(self, txid: int, *, database: str | None = None, timeout: float | None = None) -> Position:
        """Wait until the database has transaction ``txid`` (0 to 2^64-1), for at most ``timeout`` seconds.

        Returns the position that satisfied it, at once where it is there already. A database that does not exist yet is
        waited for. Call it before any BEGIN: an open read transaction on a replica stops that database's replication.

        Raises `WaitTimeout` (a `TimeoutError`), `WatcherClosed`, `ConfigError` where no database is named, and
        `ValueError` for what is no TXID.
        """
        name = self.settings.database_or_default(database)
        txid = check_txid(txid)
        check_timeout(timeout)
        self._check_running()
        known = self._state.positions.get(name)
        if known is not None and known.txid >= txid:
            return known
        if self._supervisor is None:
            return Position(txid)
        event = anyio.Event()
        waiter = TxWaiter(name, txid, event.set)
        if timeout is None or timeout > 0:
            self._tx_waiters.add(waiter)
            try:
                self._supervisor.hurry(name)
                await wait(event, timeout)
            finally:
                self._tx_waiters.discard(waiter)
        if waiter.position is not None:
            return waiter.position
        if waiter.closed:
            raise WatcherClosed(f"the watcher was stopped while transaction {txid} of {name} was waited for")
        raise self._late(name, txid, timeout)

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """Wait until a primary is known. Returns its hostname; None where it is this node (or has no name: see `role`).

        Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`.
        """
        return await self._wait_for_role(KNOWN_PRIMARY, timeout, "no primary is known")

    async def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """Wait until this node has that role. Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`."""
        await self._wait_for_role(frozenset((Role(role),)), timeout, f"this node did not become {Role(role)}")

    async def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, what: str) -> str | None:
        check_timeout(timeout)
        self._check_running()
        if self.role in wanted:
            return self.primary
        event = anyio.Event()
        waiter = RoleWaiter(wanted, event.set)
        if timeout is None or timeout > 0:
            self._role_waiters.add(waiter)
            try:
                await wait(event, timeout)
            finally:
                self._role_waiters.discard(waiter)
        if waiter.reached is not None:
            return waiter.reached.primary
        if waiter.closed:
            raise WatcherClosed("the watcher was stopped while a role was waited for")
        raise WaitTimeout(f"{what} within {timeout:g} s; it is {self._who()}")

    def _late(self, database: str, txid: int, timeout: float | None) -> WaitTimeout:
        here = self._state.positions.get(database)
        seen = f"is at {here.txid}" if here else "has not been seen"
        return WaitTimeout(
            f"{database} did not reach transaction {txid} within {timeout:g} s: it {seen}; this node is {self._who()}"
        )

    def _who(self) -> str:
        return f"{self.role} of {self.primary}" if self.primary else str(self.role)

    # Subscribing.

    def changes(self) -> Subscription[TxChange | PrimaryChange]:
        """Every change from this call on: transactions (of each database the newest) and changes of the primary (all).

        Raises `WatcherClosed`.
        """
        return self._subscribe(Subscription((TxChange, PrimaryChange)))

    def primary_changes(self) -> Subscription[PrimaryChange]:
        """Every change of the role or the primary from this call on. Raises `WatcherClosed`."""
        return self._subscribe(Subscription((PrimaryChange,)))

    def _subscribe(self, subscription: Subscription[ChangeT]) -> Subscription[ChangeT]:
        self._check_running()
        return self._subscriptions.add(subscription)


async def wait(event: anyio.Event, timeout: float | None) -> None:
    """Until the event is set, or ``timeout`` seconds have passed."""
    if timeout is None:
        await event.wait()
    else:
        with anyio.move_on_after(timeout):
            await event.wait()


def spawn(function: Callable[[], Awaitable[None]]) -> None:
    """Run a task that belongs to the event loop, not to the task that asks: an async fixture's may be gone at `stop`."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        trio.lowlevel.spawn_system_task(function)
        return
    import asyncio

    task = asyncio.ensure_future(function())
    _tasks.add(task)  # the loop holds its tasks weakly
    task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Future[None]] = set()
