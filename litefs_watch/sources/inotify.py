"""A watch of folders in watchfiles, in a thread of its own."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import watchfiles
from anyio.lowlevel import current_token

from litefs_watch.sources.thread import call_soon

QUICK_STEP, SLOW_STEP = 1, 50
"""Milliseconds: a step of watchfiles is its latency, and its price."""

END_LIMIT = 0.5
"""Seconds that the interpreter's end waits for the threads at most."""

_THREAD = "litefs_watch inotify"

T = TypeVar("T")


def _not_ours(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(_THREAD)


# watchfiles logs each wake at INFO: several lines a second, where an application logs at that level.
logging.getLogger("watchfiles.main").addFilter(_not_ours)


class Watch:
    """A daemon thread in watchfiles, which calls back in the loop that made it."""

    def __init__(
        self,
        folders: list[Path],
        step: int,
        on_change: Callable[[list[str]], None],
        on_failure: Callable[[str], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._folders = folders
        self._step = step
        self._on_change = on_change
        self._on_failure = on_failure
        self._on_error = on_error
        self._token = current_token()
        self._stop = threading.Event()
        self.thread: threading.Thread = threading.Thread(target=self._run, name=f"{_THREAD}, {step} ms", daemon=True)
        _running.add(self)
        try:
            self.thread.start()
        except BaseException:
            _running.discard(self)
            raise

    def stop(self) -> None:
        """Let the thread end, within a step; nothing is called back any more."""
        self._stop.set()

    def _run(self) -> None:
        try:
            for changes in watchfiles.watch(
                *self._folders,
                watch_filter=None,
                step=self._step,
                debounce=4 * self._step,  # under steady traffic there never are two steps without news
                rust_timeout=50 * self._step,
                yield_on_timeout=True,
                stop_event=self._stop,
                recursive=False,
                force_polling=False,
                raise_interrupt=False,
            ):
                paths = [path for _, path in changes]
                if self._stop.is_set() or not call_soon(self._token, partial(self._deliver, self._on_change, paths)):
                    return
        except BaseException as error:  # noqa: BLE001 - OSError, watchfiles' own RuntimeError, its Rust's panic
            call_soon(self._token, partial(self._deliver, self._on_failure, f"watchfiles: {error}"))
        finally:
            _running.discard(self)

    def _deliver(self, callback: Callable[[T], None], news: T) -> None:
        if self._stop.is_set():
            return
        try:
            callback(news)
        except Exception as error:  # noqa: BLE001 - raised where the source runs
            self._on_error(error)


_running: set[Watch] = set()


def _end_all() -> None:
    """A thread that comes back from watchfiles, which is Rust, while the interpreter ends, would abort the process."""
    watches, until = list(_running), time.monotonic() + END_LIMIT
    for watch in watches:
        watch.stop()
    for watch in watches:
        watch.thread.join(max(0.0, until - time.monotonic()))


atexit.register(_end_all)
os.register_at_fork(after_in_child=_running.clear)
