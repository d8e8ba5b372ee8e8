"""One run of a watcher: from its start to its end, with a board and sources of its own.

Whether a watcher runs is a fact about its run, and asked here. ``start()`` makes a new one; stopping, failing, the end of
its event loop and forking end this one and no other. Once it has ended, its board knows nothing, and who waited is awake.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from litefs_watch.changes import Change, PrimaryChange, Role, Standing
from litefs_watch.core.board import Board
from litefs_watch.core.history import View
from litefs_watch.core.readings import NEVER_REPLICATED_MS, PositionsRead, Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.core.state import NodeState
from litefs_watch.core.waiters import PrimaryCheck, TxWaiter, Waiter
from litefs_watch.errors import TransactionLost, WaitTimeout, WatcherClosed
from litefs_watch.position import Position
from litefs_watch.sources.supervisor import Supervisor
from litefs_watch.sources.thread import call_soon
from litefs_watch.status import Statistics, Status
from litefs_watch.watchers import runs, why

if TYPE_CHECKING:
    from litefs_watch.settings import Settings
    from litefs_watch.watchers.cluster import ClusterWatch

logger: logging.Logger = logging.getLogger("litefs_watch")

Callback = Callable[[PrimaryChange], object]


class Run:
    """The sources of one node, the board that they publish to, and its end.

    ``callbacks`` hear of each change of the primary, in the event loop's thread. ``on_ready`` is called once, in that
    thread, when LiteFS's first answers are in, or when the run has ended before.
    """

    def __init__(self, settings: Settings, callbacks: list[Callback], on_ready: Callable[[], object]) -> None:
        self.settings = settings
        self.board: Board = Board(NodeState(settings.node_name, settings.settle, settings.lease_ttl))
        self.token: EventLoopToken | None = None
        """The event loop in which it runs, once it does."""
        self.stopped: bool = False
        """Whether somebody has stopped it; else it ended by itself."""
        self.failure: BaseException | None = None
        """What ended it, if that was a fault of ours."""
        self.ended: threading.Event = threading.Event()
        """Set when its task is over."""
        self._callbacks = callbacks
        self._on_ready: Callable[[], object] | None = on_ready
        self._scope: anyio.CancelScope | None = None
        self._left = anyio.Event()
        self._thread = 0
        self._loop_is_closed: Callable[[], bool] = bool
        self._counted = settings.database is None  # the databases, once LiteFS has told which there are
        self.supervisor: Supervisor | None = None
        self.cluster: ClusterWatch | None = None
        """The other nodes, where they are watched."""
        if settings.standalone or settings.litefs_dir is None:
            self.board.apply(RoleEvent(time.monotonic(), is_primary=True, hostname=None))
        else:
            self.supervisor = Supervisor(
                settings, settings.litefs_dir, publish=self.publish, known=self._known, awaited=lambda: self.board.awaited
            )
            if settings.peers:
                from litefs_watch.watchers.cluster import ClusterWatch

                self.cluster = ClusterWatch(settings, self.board)
        runs.add(self)

    # Living and ending.

    @property
    def running(self) -> bool:
        """Whether it is being served now: begun, not ended, and its event loop still there."""
        return self.token is not None and not self.board.closed and not self._loop_is_closed()

    async def serve(self) -> None:
        """Watch until it is stopped or cancelled. Raises nothing of its own."""
        try:
            with anyio.CancelScope() as self._scope:
                self.token, self._thread = current_token(), threading.get_ident()
                if (
                    self.board.closed
                ):  # stopped before it began: who looked for the token before it was there, cancels nothing
                    return
                # asyncio's loops can be closed with tasks left in them, which then never hear of it; trio's can't.
                self._loop_is_closed = getattr(self.token.native_token, "is_closed", self._loop_is_closed)
                if self.supervisor is None:
                    self._ready()
                    await anyio.sleep_forever()
                elif self.cluster is None:
                    await self.supervisor.run()
                else:
                    await self.cluster.run_beside(self.supervisor.run)
        except Exception as error:  # noqa: BLE001 - said
            self._fail(error)
        finally:
            try:
                self.end("the watcher has ended")
            except Exception as error:  # noqa: BLE001 - said
                self._fail(error)
            finally:  # whatever went wrong: somebody waits for this
                self.ended.set()
                self._left.set()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        logger.error("the watcher failed through a fault of litefs_watch", exc_info=error)

    def end(self, reason: str) -> None:
        """Know nothing any more, wake everybody, and let the sources' threads go. From any thread; twice is once."""
        self.board.close()
        if self.supervisor is not None:
            self.supervisor.close(reason)
        if self.cluster is not None:
            self.cluster.close(reason)
        self._ready()

    def stop(self) -> None:
        """End it, and have its task end. From any thread; doesn't wait for it."""
        self.stopped = True
        try:
            self.end("the watcher was stopped")
        finally:
            if self.token is not None and self._scope is not None:
                call_soon(self.token, self._scope.cancel)

    async def wait_for_end(self) -> None:
        """In its own event loop: until its task is over."""
        await self._left.wait()

    def after_fork(self) -> None:
        """In a forked child, which has none of the parent's threads."""
        self.board.after_fork()
        self._on_ready = None

    def _ready(self) -> None:
        ready, self._on_ready = self._on_ready, None
        if ready is not None:
            ready()

    def check_loop(self) -> None:
        """Raise `RuntimeError` unless called from the event loop in which it runs, and `WatcherClosed` where it doesn't run.

        Another loop could be woken from here only by chance, or at its timeout.
        """
        if not self.running:
            raise WatcherClosed(why.NOT_RUNNING)
        try:
            here: EventLoopToken | None = current_token()
        except RuntimeError:
            here = None
        if here != self.token:
            where = (
                "another event loop than the watcher's" if here is not None else "a thread without the watcher's event loop"
            )
            raise RuntimeError(
                f"this call comes from {where}: use anyio.from_thread.run to call it there, or a BlockingWatcher, which "
                "serves any number of threads"
            )

    # From readings to whoever waits.

    def publish(self, reading: Reading) -> None:
        """Take in what a source saw. In the event loop's thread."""
        board = self.board
        changes = board.apply(reading)
        supervisor, again = self.supervisor, board.state.look_again_at
        if again is not None and supervisor is not None:
            if isinstance(reading, TxEvent):
                supervisor.look(reading.database)
            else:
                supervisor.look_at(again)
        if self.cluster is not None and supervisor is not None and isinstance(reading, TxEvent | RoleEvent | StreamEnded):
            self.cluster.overhear(reading, supervisor.identity)
        self._announce(changes)
        if self._on_ready is not None and supervisor is not None and supervisor.answered and board.state.settled:
            self._ready()
        if not self._counted and supervisor is not None and supervisor.answered:
            self._counted = why.count_databases(self)

    def publish_here(self, reading: PositionsRead) -> None:
        """Take in what a thread has read by itself, at once; what follows from it is the event loop's."""
        changes = self.board.apply(reading)

        def follow() -> None:
            self._announce(changes)
            if self.supervisor is not None:
                self.supervisor.look_at(time.monotonic())

        if self.token is not None:
            call_soon(self.token, follow)

    def _announce(self, changes: list[Change]) -> None:
        for change in changes:
            if isinstance(change, PrimaryChange):
                fields = {"litefs_event": "role", "litefs_role": str(change.role), "litefs_primary": change.primary}
                logger.info("role: %s%s", change.role, f" of {change.primary}" if change.primary else "", extra=fields)
                for callback in list(self._callbacks):
                    try:
                        callback(change)
                    except Exception:
                        logger.exception("a callback for changes of the primary failed: %r", callback)

    def _known(self) -> set[str]:
        database = self.settings.database
        return self.board.state.positions.keys() | ({database} if database else set())

    # Waiting: what is the same for tasks, threads and foreign event loops.

    def begin_wait(self, waiter: Waiter[Any], timeout: float | None) -> bool:
        """Whether there is anything to wait for; then the waiter is woken when it is there, until `Board.leave`."""
        if isinstance(waiter, TxWaiter) and self.supervisor is None and not self.board.closed:
            waiter.result = waiter.position or Position(waiter.txid)  # standalone: every transaction is here
            return False
        if isinstance(waiter, PrimaryCheck) and self.supervisor is None and not self.board.closed:
            waiter.result = self.board.state.standing
            return False
        waiter.since = time.monotonic()
        if not self.board.register(waiter, wait=timeout is None or timeout > 0):
            return False
        if isinstance(waiter, TxWaiter | PrimaryCheck) and self.supervisor is not None and self.token is not None:
            supervisor, database = self.supervisor, waiter.database
            whole = isinstance(waiter, PrimaryCheck) or waiter.position is not None
            if whole and self.board.state.role is Role.PRIMARY:  # whether it still is: what is asked for may be lost
                hurry = partial(supervisor.check, database)
            else:
                hurry = partial(supervisor.hurry, database)
            if threading.get_ident() == self._thread:
                hurry()
            elif not supervisor.streaming or whole:  # with the stream it looks often by itself
                call_soon(self.token, hurry)
        return True

    def result_of(self, waiter: Waiter[Any], timeout: float | None) -> Any:
        """What ended the wait. Raises `WatcherClosed`, `TransactionLost` and `WaitTimeout`."""
        if waiter.result is not None:
            return waiter.result
        if isinstance(waiter, TxWaiter) and waiter.lost:
            raise TransactionLost(
                f"{waiter.what} is in no history any more: this node, which is the primary, is at "
                f"{self.board.state.positions.get(waiter.database)}; a fail-over has lost it, or the database was replaced"
            )
        if waiter.closed:
            raise WatcherClosed(f"the watcher was stopped while {waiter.what} was waited for")
        raise WaitTimeout(self.board.late(waiter).format(f"{timeout:g} s") + why.unknown(self))

    # What is known.

    @property
    def no_primary(self) -> str:
        """What is said where no primary is known."""
        return f"no primary is known at this moment{why.unknown(self) or ': a fail-over is under way, or LiteFS is down'}"

    @property
    def standing(self) -> Standing:
        """Role and primary."""
        return self.board.state.standing

    @property
    def misplaced(self) -> str | None:
        """Why ``litefs_dir`` can't be the mount of the LiteFS that answers; None where it may be."""
        return None if self.supervisor is None else self.supervisor.misplaced

    @property
    def streaming(self) -> bool:
        """Whether LiteFS's event stream is open, or nothing is watched."""
        return self.supervisor is None or self.supervisor.streaming

    @property
    def term(self) -> int:
        """Another number each time that somebody else is named as the primary: before that, this node is not reset."""
        return self.board.state.term

    @property
    def vouched(self) -> bool:
        """Whether what is here is the cluster's: on the primary, and on a replica that follows it."""
        return self.board.state.vouched

    def position(self, database: str) -> Position | None:
        """Where a database is, as last heard."""
        return self.board.state.positions.get(database)

    def view(self, database: str) -> View:
        """Of this node and one database, as of one moment. Standalone, everything is here."""
        supervisor = self.supervisor
        return self.board.view(database, supervisor.data_dir if supervisor else None, everything=supervisor is None)

    def count_lost(self) -> None:
        """One more client has been told that what it had written is lost: for `statistics`."""
        self.board.lost += 1

    @property
    def status(self) -> Status:
        board, supervisor = self.board, self.supervisor
        with board.lock:
            standing, lag_ms, positions = board.state.standing, board.state.lag_ms, dict(board.state.positions)
        replicated = None if lag_ms is None else lag_ms != NEVER_REPLICATED_MS
        return Status(
            hostname=self.settings.node_name,
            role=standing.role,
            primary=standing.primary,
            positions=MappingProxyType(positions),
            lag=lag_ms / 1000 if lag_ms is not None and replicated else None,
            replicated=replicated,
            sources=MappingProxyType(supervisor.status if supervisor else {}),
            faults=MappingProxyType(supervisor.faults if supervisor else {}),
        )

    def statistics(self) -> Statistics:
        events, reconnects, rereads, restarts = self.supervisor.counts if self.supervisor else (0, 0, 0, 0)
        waiters, since, subscriptions = self.board.counts
        return Statistics(
            waiters=waiters,
            subscriptions=subscriptions,
            events=events,
            reconnects=reconnects,
            rereads=rereads,
            wakes=self.board.wakes,
            timeouts=self.board.timeouts,
            lost=self.board.lost,
            restarts=restarts,
            oldest_wait=None if since is None else time.monotonic() - since,
        )
