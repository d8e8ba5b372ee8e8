"""The watcher for threads: synchronous applications, and whatever has no event loop.

One daemon thread in each process runs a `Watcher`; the calls here never enter its event loop to wait. What is known is
read without a lock; what has to be waited for is a matter of `litefs_watch.watchers.inner`.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

import anyio
from anyio.lowlevel import current_token

from litefs_watch.changes import PrimaryChange, Role, TxChange
from litefs_watch.core.conditions import ChangeT, RoleWaiter, TxWaiter
from litefs_watch.errors import ConfigError, WatcherClosed
from litefs_watch.position import TXID_MAX, Position, check_txid
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.thread import call_soon
from litefs_watch.status import Statistics, Status
from litefs_watch.watchers.inner import BlockingSubscription, InnerWatcher
from litefs_watch.watchers.watcher import KNOWN_PRIMARY

_START_LIMIT = 10.0  # seconds; a watcher starts within 5, and an event loop within less


class _Wake:
    """Wakes one thread, once. A `threading.Event` takes two locks for that, and a woken thread waits for one of them."""

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self.set = self._asleep.release

    def wait(self, timeout: float | None) -> None:
        """Until it is `set`, or ``timeout`` seconds have passed."""
        self._asleep.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class BlockingWatcher:
    """`Watcher`, with the same names, for any number of threads.

    It starts by itself with the first call, so that a server may fork in between (gunicorn's ``preload``, multiprocessing):
    after a fork, the child starts its own. It stops at the process's end, with `stop`, or as a context manager. Without an
    argument the settings come from `Settings.from_env`.

    Raises `ConfigError` where gevent or eventlet have replaced the threads by their own.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        _check_threads()
        self.settings = Settings.from_env() if settings is None else settings
        self._fresh()
        self._callbacks: list[Callable[[PrimaryChange], object]] = []
        _all.add(self)

    def _fresh(self) -> None:
        """As in a new process: not started, nothing known."""
        self._starting = threading.Lock()
        self._inner = InnerWatcher(self.settings)
        self._positions = self._inner._state.positions
        self._thread: threading.Thread | None = None
        self._up = False
        self._stopped = False

    # Starting and stopping.

    def start(self) -> None:
        """Start now, and wait for LiteFS's first answer, or ``settings.start_timeout`` seconds. Twice is once."""
        with self._starting:
            if self._up:
                return
            _check_threads()
            inner = self._inner = InnerWatcher(self.settings)
            inner.callbacks = self._callbacks
            started = threading.Event()
            failures: list[Exception] = []
            self._thread = threading.Thread(
                target=self._serve, args=(inner, started, failures), name="litefs_watch watcher", daemon=True
            )
            self._thread.start()
            if not started.wait(_START_LIMIT):
                raise RuntimeError(f"the watcher's thread did not start within {_START_LIMIT:g} s")
            if failures:
                raise failures[0]
            self._positions = inner._state.positions
            self._stopped = False
            self._up = True

    def _serve(self, inner: InnerWatcher, started: threading.Event, failures: list[Exception]) -> None:
        async def watch() -> None:
            inner.token = current_token()
            self._stop = anyio.Event()
            async with inner:
                started.set()
                await self._stop.wait()

        try:
            anyio.run(watch)
        except Exception as error:  # noqa: BLE001 - told to whoever starts it
            failures.append(error)
        finally:
            inner._close()
            started.set()

    def stop(self) -> None:
        """Stop, and wake whoever waits with `WatcherClosed`. Calls then raise it too, until `start`. Twice is once."""
        with self._starting:
            self._stopped = True
            if not self._up:
                return
            self._up = False
            if self._inner.token is not None and self._thread is not None:
                call_soon(self._inner.token, self._stop.set)
                self._thread.join()

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
        return self._up

    def inner(self) -> InnerWatcher:
        """The watcher in the thread, started if need be. Raises `WatcherClosed` where it was stopped."""
        if not self._up:
            if self._stopped:
                raise WatcherClosed("the watcher was stopped")
            self.start()
        return self._inner

    # What is known.

    @property
    def hostname(self) -> str:
        """This node's own name."""
        return self.settings.node_name

    @property
    def role(self) -> Role:
        """PRIMARY, REPLICA or UNKNOWN."""
        return self.inner().role

    @property
    def is_primary(self) -> bool:
        """Whether this node takes the writes. False where that is not known."""
        return self.inner().is_primary

    @property
    def primary(self) -> str | None:
        """The primary's hostname; None where it is this node, is not known, or has no name: `role` tells which."""
        return self.inner().primary

    @property
    def status(self) -> Status:
        """Everything, as of one moment."""
        return self.inner().status

    def position(self, database: str | None = None) -> Position | None:
        """Where the database is, as last heard; None where it has not been seen."""
        return self.inner().position(database)

    def tx_number(self, database: str | None = None) -> int:
        """The TXID where the database is, as last heard; 0 where it has not been seen."""
        return self.inner().tx_number(database)

    def statistics(self) -> Statistics:
        """Counts, for operators and tests."""
        return self.inner().statistics()

    def ensure_primary(self) -> None:
        """Return on the primary. Raises `NotPrimary` on a replica, and `NoPrimary` where no primary is known."""
        self.inner().ensure_primary()

    def ensure_instance(self, hostname: str) -> None:
        """Return on the node of that name. Raises `WrongInstance`, a `NotPrimary` that carries ``hostname``, elsewhere."""
        self.inner().ensure_instance(hostname)

    def read_position(self, database: str | None = None) -> Position | None:
        """The position straight from the ``-pos`` file, in this thread; None where there is no such file.

        It blocks as long as LiteFS is frozen, as every read of the database does. Raises `OSError` where it is unreadable.
        """
        from litefs_watch.sources.directory import Directory  # not before a watcher is there: it builds the models

        inner = self.inner()
        name = self.settings.database_or_default(database)
        if self.settings.litefs_dir is None or self.settings.standalone:
            return inner.position(name)
        read, faults = Directory(self.settings.litefs_dir).positions([name])
        if faults:
            raise OSError(next(iter(faults.values())))
        return read.positions.get(name)

    # Waiting.

    def wait_for_tx(self, txid: int, *, database: str | None = None, timeout: float | None = None) -> Position:
        """Wait until the database has transaction ``txid`` (0 to 2^64-1), for at most ``timeout`` seconds.

        Returns the position that satisfied it; where it is there already, after one comparison without a lock. Call it
        before any BEGIN: an open read transaction on a replica stops that database's replication.

        Raises `WaitTimeout` (a `TimeoutError`), `WatcherClosed`, `ConfigError` where no database is named, and
        `ValueError` for what is no TXID.
        """
        if self._up and type(txid) is int and 0 <= txid <= TXID_MAX:
            known = self._positions.get(self.settings.database if database is None else database)  # type: ignore[arg-type]
            if known is not None and known.txid >= txid:
                return known
        return self._wait_for_tx(check_txid(txid), self.settings.database_or_default(database), check_timeout(timeout))

    def _wait_for_tx(self, txid: int, name: str, timeout: float | None) -> Position:
        inner = self.inner()
        if self.settings.standalone:
            return Position(txid)
        woken = _Wake()
        waiter = TxWaiter(name, txid, woken.set)
        with inner.awaited_tx(waiter, timeout) as waits:
            if waits:
                woken.wait(timeout)
        return inner.outcome_of_tx(waiter, timeout)

    def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """Wait until a primary is known. Returns its hostname; None where it is this node (or has no name: see `role`).

        Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`.
        """
        return self._wait_for_role(KNOWN_PRIMARY, timeout, "no primary is known")

    def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """Wait until this node has that role. Raises `WaitTimeout` after ``timeout`` seconds, and `WatcherClosed`."""
        self._wait_for_role(frozenset((Role(role),)), timeout, f"this node did not become {Role(role)}")

    def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, what: str) -> str | None:
        check_timeout(timeout)
        inner = self.inner()
        woken = _Wake()
        waiter = RoleWaiter(wanted, woken.set)
        with inner.awaited_role(waiter, timeout) as waits:
            if waits:
                woken.wait(timeout)
        return inner.outcome_of_role(waiter, timeout, what)

    # Subscribing.

    def changes(self) -> BlockingSubscription[TxChange | PrimaryChange]:
        """Every change from this call on: transactions (of each database the newest) and changes of the primary (all)."""
        return self._subscribe(BlockingSubscription(self.inner(), (TxChange, PrimaryChange)))

    def primary_changes(self) -> BlockingSubscription[PrimaryChange]:
        """Every change of the role or the primary from this call on."""
        return self._subscribe(BlockingSubscription(self.inner(), (PrimaryChange,)))

    def _subscribe(self, subscription: BlockingSubscription[ChangeT]) -> BlockingSubscription[ChangeT]:
        inner = subscription._inner
        with inner.lock:
            inner.blocking_subscriptions.add(subscription)  # type: ignore[arg-type]
        return subscription

    def on_primary_change(self, callback: Callable[[PrimaryChange], object]) -> Callable[[], None]:
        """Call ``callback`` in the watcher's thread with each change of the primary. Returns what ends that.

        It must be quick: nothing else is seen meanwhile. What it raises is logged. A forked child keeps it, and calls it
        once a watcher of its own runs, which its first other call starts.
        """
        self._callbacks.append(callback)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        self.inner()
        return end


def _check_threads() -> None:
    """gevent's and eventlet's run by turns in a single one, which the watcher's event loop, and inotify, would not leave."""
    for module, asks, what in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        if module in sys.modules and getattr(sys.modules[module], asks)(what):
            raise ConfigError(
                f"{module.partition('.')[0]} has replaced Python's threads, and the watcher needs a real one: with "
                "gunicorn, use --worker-class gthread"
            )


_all: weakref.WeakSet[BlockingWatcher] = weakref.WeakSet()
_orphans: list[object] = []  # of the parent, after a fork: kept, since finalising a foreign event loop would speak of it


def _after_fork() -> None:
    """The child has the parent's memory and none of its threads; locks may be held by threads that are gone."""
    for watcher in list(_all):
        stopped = watcher._stopped
        _orphans.append(watcher._inner)
        watcher._inner.after_fork()
        watcher._fresh()
        watcher._stopped = stopped


def _at_exit() -> None:
    for watcher in list(_all):
        watcher.stop()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
