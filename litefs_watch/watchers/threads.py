"""What a wait needs of threads: real ones, and a way to wake one."""

from __future__ import annotations

import sys
import threading

from litefs_watch.errors import ConfigError


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
