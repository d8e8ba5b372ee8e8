"""The watcher for an event loop: what applications on asyncio and trio call. What is known and who waits is its run's."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import current_token

from litefs_watch.changes import NOBODY, PrimaryChange, Role, Standing, TxChange
from litefs_watch.core.waiters import PrimaryCheck, RoleWaiter, TxWaiter
from litefs_watch.errors import WatcherClosed
from litefs_watch.position import Position, check_wanted
from litefs_watch.settings import Settings, check_timeout, settings_or_env
from litefs_watch.sources.thread import call_soon
from litefs_watch.watchers.faces import KNOWN_PRIMARY, NO_PRIMARY, check_callback, no_role, require_instance, require_primary
from litefs_watch.watchers.glances import Glances
from litefs_watch.watchers.parking import cancellation_point, park, spot_in
from litefs_watch.watchers.peering import ClusterCalls
from litefs_watch.watchers.proof import has_now, needs_proof, prove_off_loop
from litefs_watch.watchers.while_primary import WhilePrimary

if TYPE_CHECKING:
    import asyncio

    from litefs_watch.status import Statistics, Status
    from litefs_watch.watchers.run import Callback, Run
    from litefs_watch.watchers.subscription import Subscription


class Watcher(ClusterCalls, Glances, WhilePrimary):
    """Knows each database's position and the primary of one LiteFS node, and wakes whoever waits, the moment it changes.

    Use it as an async context manager, as an application's ``lifespan``, or through `start` and `stop`, on asyncio or trio.
    Calls that wait, and subscriptions, belong to the event loop that it was started in, and raise `RuntimeError` in any
    other; `BlockingWatcher` is for threads. Not started, stopped, or ended with its event loop, it knows nothing: the role
    is UNKNOWN, and calls that wait raise `WatcherClosed`.

    Starting takes at most ``settings.start_timeout`` seconds and never fails because LiteFS is down or not mounted yet:
    the role is then UNKNOWN, and heals by itself. Without an argument the settings come from `Settings.from_env`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings: Settings = settings_or_env(settings, "Watcher")
        self._callbacks: list[Callback] = []
        self._run = self._new_run(bool)

    def _new_run(self, on_ready: Callable[[], object]) -> Run:
        from litefs_watch.watchers.run import Run  # not before: h11, watchfiles and the models are half of what ours costs

        return Run(self.settings, self._callbacks, on_ready)

    # Starting and stopping.

    async def start(self) -> None:
        """Start watching, and wait for LiteFS's first answer, or ``settings.start_timeout`` seconds.

        No task of the caller's has to stay: `stop` may be called from another one. A stopped watcher can be started again.
        Raises `RuntimeError` when the watcher is running already, and `WatcherClosed` where it is stopped meanwhile.
        """
        if self._run.running:
            raise RuntimeError("this watcher is running already: start it once, or make another one")
        self._run.end("started anew")  # of a loop that was closed with its tasks left in it
        ready = anyio.Event()
        run = self._run = self._new_run(partial(call_soon, current_token(), ready.set))  # any thread may stop it
        spawn(run.serve)
        try:
            with anyio.move_on_after(self.settings.start_timeout):
                await ready.wait()
        except BaseException:
            await _stop(run)
            raise
        if run.board.closed:
            raise WatcherClosed("the watcher was stopped while it started") from run.failure

    async def stop(self) -> None:
        """Stop watching. Whoever waits is woken with `WatcherClosed`; subscriptions end. Stopping twice does nothing.

        In the watcher's own event loop it waits until all is over; from any other, the rest happens there.
        """
        await _stop(self._run)

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

    # What is known.

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped, in an event loop that is still there."""
        return self._run.running

    @property
    def hostname(self) -> str:
        """This node's own name."""
        return self.settings.node_name

    @property
    def standing(self) -> Standing:
        """Role and primary as one value, which both are of the same moment."""
        run = self._run
        return run.board.state.standing if run.running else NOBODY

    @property
    def role(self) -> Role:
        """PRIMARY, REPLICA or UNKNOWN."""
        return self.standing.role

    @property
    def is_primary(self) -> bool:
        """Whether this node takes the writes. False where that is not known."""
        return self.standing.role is Role.PRIMARY

    @property
    def primary(self) -> str | None:
        """The primary's hostname; None where it is this node, is not known, or has no name: `role` tells which."""
        return self.standing.primary

    @property
    def status(self) -> Status:
        """Everything, as of one moment."""
        return self._known_run().status

    def position(self, database: str | None = None) -> Position | None:
        """Where the database is, as last heard; None where it has not been seen."""
        return self._known_run().board.state.positions.get(self.settings.database_or_default(database))

    def tx_number(self, database: str | None = None) -> int:
        """The TXID where the database is, as last heard; 0 where it has not been seen."""
        position = self.position(database)
        return 0 if position is None else position.txid

    def _known_run(self) -> Run:
        """The run to ask for what is known; ended first, where its event loop is gone."""
        run = self._run
        if run.token is not None and not run.running:
            run.end("the watcher's event loop is gone")
        return run

    @property
    def run(self) -> Run:
        """What is asked for each request, by the middlewares: the run of this start."""
        run = self._run
        return run if run.running else self._known_run()

    def has_tx(self, txid: int | Position, database: str | None = None) -> bool:
        """Whether `wait_for_tx` would return at once. Raises `ValueError` and `ConfigError` as that does."""
        run = self._run
        wanted, name = check_wanted(txid), self.settings.database_or_default(database)
        return run.running and has_now(run, name, wanted)

    async def read_position(self, database: str | None = None) -> Position | None:
        """The position straight from the ``-pos`` file, off the loop's thread; None where there is no such file.

        Shared with all who ask at the same time. It waits as long as LiteFS is frozen; bound it with `anyio.fail_after`.
        Raises `OSError` where the file is unreadable, `WatcherClosed`, and `RuntimeError` in another event loop.
        """
        name = self.settings.database_or_default(database)
        run = self._run
        run.check_loop()
        return await run.supervisor.read_position(name) if run.supervisor else self.position(name)

    def statistics(self) -> Statistics:
        """Counts, for operators and tests."""
        return self._run.statistics()

    def ensure_primary(self) -> None:
        """Return on the primary. Raises `NotPrimary` on a replica, and `NoPrimary` where no primary is known."""
        require_primary(self.standing, self._run)

    def ensure_instance(self, hostname: str) -> None:
        """Return on the node of that name. Raises `WrongInstance`, a `NotPrimary` that carries ``hostname``, elsewhere."""
        require_instance(hostname, self.hostname)

    # Waiting.

    async def wait_for_tx(
        self, txid: int | Position, *, database: str | None = None, timeout: float | None = None
    ) -> Position:
        """Wait until the database has transaction ``txid`` (0 to 2^64-1), for at most ``timeout`` seconds.

        A whole `Position` names its history, too: another one's transaction of that number does not satisfy it. It is met
        where it is, or is from before what this node remembers, while the primary vouches for what is here; where a
        replica's database may have been replaced since then, LiteFS's transaction files must tell that it is here.

        Returns the position that satisfied it, at once where it is there already. A database that does not exist yet is
        waited for, and so is a primary: while none is known, or a replica has not heard of a new one yet (up to 1 s),
        nothing tells whether what is here will stay. Call it before any BEGIN: an open read transaction on a replica stops
        that database's replication.

        Always a cancellation point; other tasks run only where it waits.

        Raises `WaitTimeout` (a `TimeoutError`; for a position of which only the primary can tell, before its time is over),
        `TransactionLost` on the primary for a position that is in no history any more, `WatcherClosed`, `ConfigError` where
        no database is named, `ValueError` for what is no TXID, and `RuntimeError` where it would wait in another event loop
        than the watcher's.
        """
        run = self._run
        await cancellation_point(run.token)
        name = self.settings.database_or_default(database)
        wanted = check_wanted(txid)
        check_timeout(timeout)
        known = run.board.state.has(name, wanted)
        if known is not None and run.running:
            if isinstance(wanted, Position) and needs_proof(run, name, wanted):
                await prove_off_loop(run, name, wanted)
            return known
        run.check_loop()
        spot = spot_in(current_token())
        waiter = TxWaiter(name, wanted, spot.wake)
        if run.begin_wait(waiter, timeout):  # as `park`, without its frame: a crowd that is woken goes through all of them
            try:
                await spot.wait(timeout)
            except BaseException:
                spot.leave()
                run.board.leave(waiter)
                raise
            if waiter.result is None:
                run.board.leave(waiter)
        position: Position = waiter.result or run.result_of(waiter, timeout)
        if waiter.position is not None and needs_proof(run, name, waiter.position):
            await prove_off_loop(run, name, waiter.position)
        return position

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """Wait until a primary is known. Returns its hostname; None where it is this node (or has no name: see `role`).

        A cancellation point, as `wait_for_tx` is. Raises `WaitTimeout` after ``timeout`` seconds, `WatcherClosed`, and
        `RuntimeError` in another event loop than the watcher's.
        """
        return (await self._wait_for_role(KNOWN_PRIMARY, timeout, NO_PRIMARY)).primary

    async def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """Wait until this node has that role. A cancellation point, with the errors of `wait_for_primary`."""
        await self._wait_for_role(frozenset((Role(role),)), timeout, no_role(Role(role)))

    async def confirm_primary(self, *, database: str | None = None, timeout: float | None = None) -> bool:
        """Look at LiteFS anew: whether this node is the primary. The database's position is that of the same look, or newer.

        `role` is what was last heard, and late by up to `Settings.idle_interval` where the event stream is away. A node that
        stood still for long (`Settings.lease_ttl`) is not believed before its lease is renewed, or lost. A cancellation
        point, with `wait_for_tx`'s errors but `TransactionLost`: `WaitTimeout` where nothing tells within ``timeout``.
        """
        name = self.settings.database_or_default(database)
        return (await self._park(lambda wake: PrimaryCheck(name, wake), timeout)).role is Role.PRIMARY

    async def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, late: str) -> Standing:
        return await self._park(lambda wake: RoleWaiter(wanted, late, wake), timeout)

    async def _park(self, waiter: Callable[[Callable[[object], None]], RoleWaiter], timeout: float | None) -> Standing:
        run = self._run
        await cancellation_point(run.token)
        run.check_loop()
        spot = spot_in(current_token())
        standing: Standing = await park(run, waiter(spot.wake), spot, check_timeout(timeout))
        return standing

    # Subscribing.

    def changes(self) -> Subscription[TxChange | PrimaryChange]:
        """Every change from this call on: transactions (of each database the newest) and changes of the primary (all).

        Raises `WatcherClosed`, and `RuntimeError` outside of the watcher's event loop.
        """
        return self._subscribe((TxChange, PrimaryChange))

    def primary_changes(self) -> Subscription[PrimaryChange]:
        """Every change of the role or the primary from this call on. Raises what `changes` raises."""
        return self._subscribe((PrimaryChange,))

    def _subscribe(self, accepts: tuple[type, ...]) -> Subscription[Any]:
        from litefs_watch.watchers.subscription import Subscription

        return Subscription(self._run, accepts)

    def on_primary_change(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` in the event loop's thread with each change of the primary. Returns what ends that.

        It must be quick: nothing else is seen meanwhile. What it raises is logged. It may be given before the start, and
        outlives a stop. Raises `TypeError` for a coroutine function.
        """
        check_callback(callback)
        self._callbacks.append(callback)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return end


async def _stop(run: Run) -> None:
    run.stop()
    try:
        here = current_token() == run.token
    except RuntimeError:  # no event loop
        here = False
    if here:
        with anyio.CancelScope(shield=True):
            await run.wait_for_end()


def spawn(function: Callable[[], Awaitable[None]]) -> None:
    """Run a task that belongs to the event loop, not to the task that asks: an async fixture's may be gone at `stop`."""
    trio: Any = getattr(sys.modules.get("trio"), "lowlevel", None)  # another thread may be importing it
    if getattr(trio, "in_trio_task", bool)():
        trio.spawn_system_task(function)
        return
    import asyncio

    task = asyncio.ensure_future(function())
    _tasks.add(task)  # the loop holds its tasks weakly
    task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Future[None]] = set()
