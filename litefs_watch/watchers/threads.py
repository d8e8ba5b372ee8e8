"""What threads ask of a run, whichever watcher's it is; and what a wait needs of them: real ones, and a way to wake one."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from litefs_watch.errors import ConfigError

if TYPE_CHECKING:
    from litefs_watch.core.waiters import Waiter
    from litefs_watch.position import Position
    from litefs_watch.watchers.run import Run


class Wake:
    """Wakes one thread, once. A `threading.Event` takes two locks for that, and a woken thread waits for one of them."""

    def __init__(self) -> None:
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def set(self, result: object) -> None:
        self._asleep.release()

    def wait(self, timeout: float | None) -> None:
        """Until it is `set`, or ``timeout`` seconds have passed."""
        self._asleep.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


def check_threads() -> None:
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


def wait(run: Run, waiter: Waiter[Any], woken: Wake, timeout: float | None) -> Any:
    """What ``waiter``, which sets ``woken``, waited for, in this thread. Raises `WatcherClosed`, `WaitTimeout` and
    `TransactionLost`."""
    if run.begin_wait(waiter, timeout):
        try:
            woken.wait(timeout)
        finally:
            run.board.leave(waiter)
    return run.result_of(waiter, timeout)


def read_position(run: Run, database: str) -> Position | None:
    """The position straight from the ``-pos`` file, in this thread; None where there is no such file. Raises `OSError`."""
    from litefs_watch.sources.directory import Directory  # not before a watcher is there: it builds the models

    if run.supervisor is None or run.settings.litefs_dir is None:
        return run.position(database)
    read, faults = Directory(run.settings.litefs_dir).positions([database])
    if (fault := faults.get(f"{database}-pos")) is not None:
        raise OSError(fault)
    news = read.primary is not None and run.standing.primary != read.primary.hostname
    if news or not run.streaming:  # without events a client would come back with it before anything tells of it
        run.publish_here(read)
    return read.positions.get(database)
