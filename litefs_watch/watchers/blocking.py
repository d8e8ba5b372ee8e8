"""The watcher for threads: synchronous applications, and whatever has no event loop.

One daemon thread in each process serves a run; the calls here never enter its event loop to wait. What is known is read
without a lock; what has to be waited for is put on the run's board.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - its hook at the interpreter's end must be registered before ours
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from litefs_watch.changes import PrimaryChange, Role, Standing, TxChange
from litefs_watch.core.waiters import PrimaryCheck, RoleWaiter, TxWaiter, Waiter
from litefs_watch.errors import WatcherClosed
from litefs_watch.position import TXID_MAX, Position, check_wanted
from litefs_watch.settings import Settings, check_timeout, settings_or_env
from litefs_watch.status import Statistics, Status
from litefs_watch.watchers.faces import KNOWN_PRIMARY, NO_PRIMARY, check_callback, no_role, require_instance, require_primary
from litefs_watch.watchers.glances import Glances
from litefs_watch.watchers.peering import BlockingClusterCalls
from litefs_watch.watchers.proof import has_now, needs_proof, prove
from litefs_watch.watchers.threads import Wake, check_threads, read_position, wait
from litefs_watch.watchers.while_primary import BlockingWhilePrimary

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Callback, Run
    from litefs_watch.watchers.subscription import BlockingSubscription

logger: logging.Logger = logging.getLogger("litefs_watch")

_START_LIMIT = 10.0  # seconds; an event loop starts within less
_STOP_LIMIT = 5.0  # seconds; a run ends within less, unless a callback of the application hangs
_EXIT_LIMIT = 1.0  # seconds; the same at the interpreter's end, which nobody may hold up


class BlockingWatcher(BlockingClusterCalls, Glances, BlockingWhilePrimary):
    """`Watcher`, with the same names, for any number of threads.

    It starts by itself with the first call, so that a server may fork in between (gunicorn's ``preload``, multiprocessing):
    after a fork, the child starts its own. It stops at the process's end, with `stop`, or as a context manager. Without an
    argument the settings come from `Settings.from_env`.

    Raises `ConfigError` where gevent or eventlet have replaced the threads by their own.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        check_threads()
        self.settings: Settings = settings_or_env(settings, "BlockingWatcher")
        self._callbacks: list[Callback] = []
        self._starting = threading.Lock()
        self._stops = 0  # calls of `stop`
        self._thread: threading.Thread | None = None
        self._run = self._new_run(bool)
        self._met = self._run.board.state.met
        _all.add(self)

    def _new_run(self, on_ready: Callable[[], object]) -> Run:
        from litefs_watch.watchers.run import Run

        return Run(self.settings, self._callbacks, on_ready)

    # Starting and stopping.

    def start(self) -> None:
        """Start now, and wait for LiteFS's first answer, or ``settings.start_timeout`` seconds. Twice is once.

        Raises `RuntimeError` where no thread can be had, and `WatcherClosed` where it is stopped meanwhile.
        """
        self._start(self._stops)

    def _start(self, stops: int) -> None:
        """Unless it was stopped more than ``stops`` times: then since this start was asked for."""
        with self._starting:
            if self._run.running:
                return
            if self._stops != stops:
                raise WatcherClosed("the watcher was stopped while it started")
            check_threads()
            began, ready = threading.Event(), threading.Event()
            run = self._new_run(ready.set)
            thread = threading.Thread(target=_serve, args=(run, began), name="litefs_watch watcher", daemon=True)
            try:
                thread.start()
                self._run, self._thread, self._met = run, thread, run.board.state.met
                if self._stops != stops:  # `stop` counts first, and then looks for the run: one of the two sees the other
                    run.stop()
                if began.wait(_START_LIMIT):
                    ready.wait(self.settings.start_timeout)
            except BaseException:  # Ctrl-C, too
                run.stop()
                raise
        if not began.is_set():
            run.stop()
            raise RuntimeError(f"the watcher's thread did not start within {_START_LIMIT:g} s")
        if run.failure is not None:
            raise run.failure
        if run.stopped:
            raise WatcherClosed("the watcher was stopped while it started")

    def stop(self) -> None:
        """Stop, and wake whoever waits with `WatcherClosed`. Calls then raise it too, until `start`. Twice is once.

        It returns when the watcher's thread has ended, or after 5 s where a callback holds that up; called from within a
        callback, at once.
        """
        if not self._stop(_STOP_LIMIT):
            logger.warning("the watcher's thread has not ended within %g s: a callback holds it up", _STOP_LIMIT)

    def _stop(self, limit: float) -> bool:
        self._stops += 1
        run, thread = self._run, self._thread
        run.stop()
        if thread is None or thread is threading.current_thread() or run.token is None:
            return True
        return run.ended.wait(limit)

    def __enter__(self) -> BlockingWatcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has been started, in this process, and not stopped."""
        return self._run.running

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, and not started since."""
        return self._run.stopped

    def _live(self) -> Run:
        """The run, started if need be: not yet, ended by itself, or not in this process. `WatcherClosed` where stopped."""
        stops = self._stops
        if not self._run.running:
            if self._run.stopped:
                raise WatcherClosed("the watcher was stopped")
            self._start(stops)
        return self._run

    # What is known.

    @property
    def hostname(self) -> str:
        """This node's own name."""
        return self.settings.node_name

    @property
    def standing(self) -> Standing:
        """Role and primary as one value, which both are of the same moment."""
        return self._live().board.state.standing

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
        return self._live().status

    def position(self, database: str | None = None) -> Position | None:
        """Where the database is, as last heard; None where it has not been seen."""
        return self._live().board.state.positions.get(self.settings.database_or_default(database))

    def tx_number(self, database: str | None = None) -> int:
        """The TXID where the database is, as last heard; 0 where it has not been seen."""
        position = self.position(database)
        return 0 if position is None else position.txid

    def statistics(self) -> Statistics:
        """Counts, for operators and tests."""
        return self._live().statistics()

    def ensure_primary(self) -> None:
        """Return on the primary. Raises `NotPrimary` on a replica, and `NoPrimary` where no primary is known."""
        require_primary(self.standing, self._run)

    def ensure_instance(self, hostname: str) -> None:
        """Return on the node of that name. Raises `WrongInstance`, a `NotPrimary` that carries ``hostname``, elsewhere."""
        require_instance(hostname, self.hostname)

    @property
    def run(self) -> Run:
        """What is asked for each request, by the middlewares: the run of this start."""
        return self._live()

    def has_tx(self, txid: int | Position, database: str | None = None) -> bool:
        """Whether `wait_for_tx` would return at once. Raises `ValueError` and `ConfigError` as that does."""
        run = self._live()
        wanted, name = check_wanted(txid), self.settings.database_or_default(database)
        return has_now(run, name, wanted)

    def read_position(self, database: str | None = None) -> Position | None:
        """The position straight from the ``-pos`` file, in this thread; None where there is no such file.

        It blocks as long as LiteFS is frozen, as every read of the database does. Raises `OSError` where it is unreadable.
        """
        return read_position(self._live(), self.settings.database_or_default(database))

    # Waiting.

    def wait_for_tx(self, txid: int | Position, *, database: str | None = None, timeout: float | None = None) -> Position:
        """Wait until the database has transaction ``txid`` (0 to 2^64-1), or a `Position`, for at most ``timeout`` seconds.

        Returns the position that satisfied it; where it is there already, after one comparison without a lock. Call it
        before any BEGIN: an open read transaction on a replica stops that database's replication.

        Raises `WaitTimeout` (a `TimeoutError`; for a position of which only the primary can tell, before its time is over),
        `TransactionLost` on the primary for a position that is in no history any more, `WatcherClosed`, `ConfigError` where
        no database is named, and `ValueError` for what is no TXID. What meets a position: see `Watcher.wait_for_tx`.
        """
        if type(txid) is int and 0 <= txid <= TXID_MAX:
            known = self._met.get(self.settings.database if database is None else database)  # type: ignore[arg-type]
            if known is not None and known.txid >= txid:  # nothing is, once the run has ended
                return known
        woken = Wake()
        waiter = TxWaiter(self.settings.database_or_default(database), check_wanted(txid), woken.set)
        run = self._live()
        position: Position = wait(run, waiter, woken, check_timeout(timeout))
        if waiter.position is not None and needs_proof(run, waiter.database, waiter.position):
            prove(run, waiter.database, waiter.position)
        return position

    def _wait(self, waiter: Waiter[Any], woken: Wake, timeout: float | None) -> Any:
        return wait(self._live(), waiter, woken, timeout)

    def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """Wait until a primary is known. Returns its hostname; None where it is this node (or has no name: see `role`).

        Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`.
        """
        return self._wait_for_role(KNOWN_PRIMARY, timeout, NO_PRIMARY).primary

    def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """Wait until this node has that role. Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`."""
        self._wait_for_role(frozenset((Role(role),)), timeout, no_role(Role(role)))

    def confirm_primary(self, *, database: str | None = None, timeout: float | None = None) -> bool:
        """Look at LiteFS anew: whether this node is the primary. As `Watcher.confirm_primary`.

        Raises `WaitTimeout` where nothing tells within ``timeout`` seconds, `WatcherClosed`, and `ConfigError`.
        """
        woken = Wake()
        check = PrimaryCheck(self.settings.database_or_default(database), woken.set)
        standing: Standing = self._wait(check, woken, check_timeout(timeout))
        return standing.role is Role.PRIMARY

    def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, late: str) -> Standing:
        woken = Wake()
        standing: Standing = self._wait(RoleWaiter(wanted, late, woken.set), woken, check_timeout(timeout))
        return standing

    # Subscribing.

    def changes(self) -> BlockingSubscription[TxChange | PrimaryChange]:
        """Every change from this call on: transactions (of each database the newest) and changes of the primary (all)."""
        return self._subscribe((TxChange, PrimaryChange))

    def primary_changes(self) -> BlockingSubscription[PrimaryChange]:
        """Every change of the role or the primary from this call on."""
        return self._subscribe((PrimaryChange,))

    def _subscribe(self, accepts: tuple[type, ...]) -> BlockingSubscription[Any]:
        from litefs_watch.watchers.subscription import BlockingSubscription

        return BlockingSubscription(self._live(), accepts)

    def on_primary_change(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` in the watcher's thread with each change of the primary. Returns what ends that.

        It must be quick: nothing else is seen meanwhile. What it raises is logged. A forked child keeps it, and calls it
        once a watcher of its own runs, which its first other call starts. Raises `TypeError` for a coroutine function.
        """
        check_callback(callback)
        self._callbacks.append(callback)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        self._live()
        return end


def _serve(run: Run, began: threading.Event) -> None:
    """The watcher's thread. Never holds the `BlockingWatcher`, so that one that is dropped can be collected."""

    async def watch() -> None:
        began.set()
        await run.serve()

    try:
        anyio.run(watch)
    except Exception as error:
        run.failure = error
        logger.exception("the watcher's thread failed")
    finally:
        try:
            run.end("the watcher's thread has ended")
        finally:
            run.ended.set()
            began.set()


_all: weakref.WeakSet[BlockingWatcher] = weakref.WeakSet()


def _after_fork() -> None:
    """The child has the parent's memory and none of its threads; locks may be held by threads that are gone."""
    for watcher in list(_all):
        watcher._starting = threading.Lock()
        watcher._thread = None


def _at_exit() -> None:
    """Wake whoever waits: the interpreter waits for threads that are no daemons, and for those of pools."""
    for watcher in list(_all):
        watcher._stop(_EXIT_LIMIT)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
# atexit's functions run only after those threads have ended. What runs before is known to `threading` alone, under a name
# that is not for others; concurrent.futures uses it, too, to join its threads. Ours runs before that: last in, first out.
getattr(threading, "_register_atexit", bool)(_at_exit)
