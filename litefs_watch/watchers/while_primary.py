"""What runs for as long as this node is the primary: a coroutine of the event loop, or a function in a thread of its own.

Both are the same loop. It subscribes before it reads the role, so that no change is missed; it waits until the role has been
the same for `SETTLED`, and a look at LiteFS has confirmed it; and while the job runs, the next change, whatever it is, ends
it: a node that was the primary is none now, or was none in between.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import anyio

from litefs_watch.changes import PrimaryChange, Role
from litefs_watch.errors import WaitTimeout, WatcherClosed
from litefs_watch.printable import by_name, safe

if TYPE_CHECKING:
    from litefs_watch.watchers.blocking import BlockingWatcher
    from litefs_watch.watchers.subscription import BlockingSubscription, Subscription
    from litefs_watch.watchers.watcher import Watcher

logger: logging.Logger = logging.getLogger("litefs_watch")

SETTLED = 0.1
"""Seconds for which this node must have been the primary before the job begins."""
FIRST_PAUSE, LAST_PAUSE = 0.5, 60.0
"""Seconds before a job that failed is run again; twice as many each time, unless it ran for longer than the last of them."""
STUBBORN = 5.0
"""Seconds after which the log says that a job goes on although this node is no primary any more."""

Job = Callable[[], Awaitable[object]]
ThreadJob = Callable[[threading.Event], object]


class Pauses:
    """How long to wait before the next try."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, ran: float) -> float:
        """Of a job that failed after ``ran`` seconds."""
        pause = FIRST_PAUSE if ran > LAST_PAUSE else self._next
        self._next = min(pause * 2, LAST_PAUSE)
        return pause


class WhilePrimary:
    """The call of `Watcher`."""

    async def while_primary(self, job: Job) -> None:
        """Run ``await job()`` for as long as this node is the primary, and again each time that it becomes it.

        The job begins when this node has been the primary for 0.1 s. As soon as this node knows that it is not (UNKNOWN
        counts as that) the job is cancelled, and has ended before it can begin again: there are never two here. One that
        returns is not run again before the next time; one that fails is, after 0.5 s, 1 s, and so on up to a minute, and is
        logged.

        Two nodes may both run it until the one that was cut off or frozen knows: LiteFS's lease decides, not this. Who must
        not do something twice asks in the same transaction, or takes the HALT lock.

        It ends when the watcher is stopped, and when it is cancelled; the job then is, too. Raises `WatcherClosed` where the
        watcher does not run, `TypeError` for what can't be called, and `RuntimeError` in another event loop.
        """
        await run_while_primary(cast("Watcher", self), job)


class BlockingWhilePrimary:
    """The call of `BlockingWatcher`."""

    def while_primary(self, job: ThreadJob) -> None:
        """Run ``job(over)`` in a thread of its own for as long as this node is the primary; as `Watcher.while_primary`.

        ``over`` is a `threading.Event` that is set as soon as this node knows that it is not the primary, or the watcher is
        stopped: the job has to return then, for nothing can end a thread. The log says so where it does not within 5 s; it
        is waited for, and only then may it begin again.

        It ends when the watcher is stopped. Raises `TypeError` for what can't be called, and for a coroutine function.
        """
        run_while_primary_in_thread(cast("BlockingWatcher", self), job)


async def run_while_primary(watcher: Watcher, job: Job) -> None:
    """As `WhilePrimary.while_primary`."""
    if not callable(job):
        seen = by_name(job)
        raise TypeError(f"while_primary takes a coroutine function, without arguments, not {seen}: it is called each time")
    with watcher.primary_changes() as changes:
        role = watcher.role
        while True:
            change = await _next(changes, SETTLED if role is Role.PRIMARY else None)
            if change is _NONE_YET:
                with suppress(WatcherClosed):
                    if (database := _a_database(watcher)) is not None:
                        await watcher.confirm_primary(database=database)
                change = (await _next(changes, 0)) if len(changes) else await _term(job, changes)
            if change is None:
                return
            role = change.role


def _a_database(watcher: Watcher | BlockingWatcher) -> str | None:
    """One to ask LiteFS about once more, whose lease may be gone: what is remembered is old where this node stood still."""
    return watcher.settings.database or next(iter(watcher.status.positions), None)


async def _term(job: Job, changes: Subscription[PrimaryChange]) -> Any:
    """One time as the primary. The change that ended it; None where the watcher was stopped."""
    ended = anyio.Event()
    scope = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_running, job, scope, ended, changes)
        change = await changes.take()
        _say_over(job, change)
        scope.cancel()
        with anyio.move_on_after(STUBBORN):
            await ended.wait()
        if not ended.is_set():
            _say_stubborn(job)
    return change


async def _keep_running(
    job: Job, scope: anyio.CancelScope, ended: anyio.Event, changes: Subscription[PrimaryChange]
) -> None:
    """Until it returns: again, after a pause, each time that it fails."""
    pauses = Pauses()
    try:
        with scope:
            while True:
                began = time.monotonic()
                _say_begun(job)
                try:
                    await _uncancelled(job)
                except Exception as error:  # noqa: BLE001 - whatever it raises
                    if changes.closed:  # the watcher was stopped: the job may have heard of that first
                        return
                    await anyio.sleep(_say_failed(job, error, pauses.after(time.monotonic() - began)))
                else:
                    _say_done(job)
                    return
    finally:
        ended.set()


async def _uncancelled(job: Job) -> None:
    """Call the job. On asyncio, a `CancelledError` of what it awaited is a failure like any other: it would end this task as
    if that had been cancelled itself."""
    try:
        await job()
    except anyio.get_cancelled_exc_class() as error:
        asyncio = sys.modules.get("asyncio")
        if asyncio is None or not isinstance(error, asyncio.CancelledError):
            raise
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("what the job awaited was cancelled") from error


_NONE_YET: Any = object()


async def _next(changes: Subscription[PrimaryChange], timeout: float | None) -> Any:
    try:
        return await changes.take(timeout)
    except WaitTimeout:
        return _NONE_YET


# In threads.


def run_while_primary_in_thread(watcher: BlockingWatcher, job: ThreadJob) -> None:
    """As `BlockingWhilePrimary.while_primary`. This thread follows the role, another one runs the job."""
    if not callable(job) or inspect.iscoroutinefunction(job):
        seen = by_name(job)
        raise TypeError(f"a BlockingWatcher's while_primary takes a plain function of a threading.Event, not {seen}")
    with watcher.primary_changes() as changes:
        role = watcher.role
        while True:
            change = _next_in_thread(changes, SETTLED if role is Role.PRIMARY else None)
            if change is _NONE_YET:
                with suppress(WatcherClosed):
                    if (database := _a_database(watcher)) is not None:
                        watcher.confirm_primary(database=database)
                change = _next_in_thread(changes, 0) if len(changes) else _term_in_thread(job, changes)
            if change is None:
                return
            role = change.role


def _term_in_thread(job: ThreadJob, changes: BlockingSubscription[PrimaryChange]) -> Any:
    over = threading.Event()
    thread = threading.Thread(
        target=_keep_running_in_thread, args=(job, over, changes), name="litefs_watch while primary", daemon=True
    )
    thread.start()
    try:
        change = changes.take()
        _say_over(job, change)
    finally:  # Ctrl-C, too: who calls again must not have two
        over.set()
        thread.join(STUBBORN)
        if thread.is_alive():
            _say_stubborn(job)
            thread.join()
    return change


def _keep_running_in_thread(job: ThreadJob, over: threading.Event, changes: BlockingSubscription[PrimaryChange]) -> None:
    pauses = Pauses()
    while not over.is_set():
        began = time.monotonic()
        _say_begun(job)
        try:
            job(over)
        except Exception as error:  # noqa: BLE001 - whatever it raises
            if changes.closed:
                return
            over.wait(_say_failed(job, error, pauses.after(time.monotonic() - began)))
        else:
            if not over.is_set():
                _say_done(job)
            return


def _next_in_thread(changes: BlockingSubscription[PrimaryChange], timeout: float | None) -> Any:
    try:
        return changes.take(timeout)
    except WaitTimeout:
        return _NONE_YET


# What the log is told.


def _say_begun(job: Callable[..., object]) -> None:
    logger.info("this node is the primary: %s begins", _name(job))


def _say_failed(job: Callable[..., object], error: Exception, pause: float) -> float:
    text = "%s failed; it is run again in %g s, if this node still is the primary"
    logger.error(text, _name(job), pause, exc_info=error)
    return pause


def _say_done(job: Callable[..., object]) -> None:
    logger.info("%s has returned; it is run again the next time that this node becomes the primary", _name(job))


def _say_stubborn(job: Callable[..., object]) -> None:
    logger.warning("%s goes on %g s after it was ended: this node is the primary no more", _name(job), STUBBORN)


def _say_over(job: Callable[..., object], change: PrimaryChange | None) -> None:
    if change is None:
        logger.info("the watcher was stopped: %s is ended", _name(job))
    else:
        now = f"the primary is {safe(change.primary)}" if change.primary else f"it is {change.role}"
        logger.info("this node is the primary no more (%s): %s is ended", now, _name(job))


def _name(job: Callable[..., object]) -> str:
    return safe(getattr(job, "__qualname__", None) or repr(job))
