"""The watcher for threads: synchronous applications, and whatever has no event loop.

One daemon thread in each process runs a `Watcher`; the calls here never enter its event loop to wait. What is known is
read without a lock. Who must wait is put into a queue under a lock, and the watcher's thread wakes it: 'is it there? else
wake me' and 'it is there now: wake them' are each done with that lock held, so no wake-up is lost.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Generic, Self

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from litefs_watch.conditions import ChangeQueue, ChangeT, RoleWaiter, RoleWaiters, TxWaiter, TxWaiters
from litefs_watch.errors import ConfigError, WaitTimeout, WatcherClosed
from litefs_watch.position import TXID_MAX, Position, check_txid
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.thread import call_soon
from litefs_watch.state import PrimaryChange, Role, TxChange
from litefs_watch.status import Statistics, Status
from litefs_watch.watcher import KNOWN_PRIMARY, Watcher

logger = logging.getLogger("litefs_watch")

_START_LIMIT = 10.0  # seconds; a watcher starts within 5, and an event loop within less


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


class _Wake:
    """Wakes one thread, once. A `threading.Event` takes two locks for that, and a woken thread waits for one of them."""

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self.set = self._asleep.release

    def wait(self, timeout: float | None) -> None:
        """Until it is `set`, or ``timeout`` seconds have passed."""
        self._asleep.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


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
        """Who fed it is gone, and may have left the lock locked."""
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
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise ConfigError(
            f"{'gevent' if gevent is not None else 'eventlet'} has replaced Python's threads, and the watcher needs a real "
            "one: with gunicorn, use --worker-class gthread"
        )


_all: weakref.WeakSet[BlockingWatcher] = weakref.WeakSet()
_orphans: list[object] = []  # of the parent, after a fork: kept, since finalising a foreign event loop would speak of it


def _after_fork() -> None:
    """The child has the parent's memory and none of its threads; locks may be held by threads that are gone."""
    for watcher in list(_all):
        stopped = watcher._stopped
        _orphans.append(watcher._inner)
        for subscription in list(watcher._inner.blocking_subscriptions):
            subscription._after_fork()
        watcher._fresh()
        watcher._stopped = stopped


def _at_exit() -> None:
    for watcher in list(_all):
        watcher.stop()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
