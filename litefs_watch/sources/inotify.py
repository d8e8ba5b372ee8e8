"""A watch of folders, as who has it sees it: calls back in the event loop that made it, until it is stopped."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import watchfiles
from anyio.lowlevel import current_token

from litefs_watch.sources.thread import call_soon

QUICK_STEP, SLOW_STEP = 1, 50
"""Milliseconds: a step of watchfiles is its latency, and its price. 1 ms costs 2 % of a core, 50 ms costs 0.2 %."""

END_LIMIT = 0.5
"""Seconds that the interpreter's end waits for the threads at most."""

_THREAD = "litefs_watch inotify"

Identity = tuple[int, int]
"""Device and inode."""
Folders = dict[Path, Identity]
"""The folders to watch, and the identity of each."""


def _not_ours(record: logging.LogRecord) -> bool:
    return not (record.threadName or "").startswith(_THREAD)


# watchfiles logs each wake at INFO: several lines a second, where an application logs at that level.
logging.getLogger("watchfiles.main").addFilter(_not_ours)


_running: dict[threading.Thread, Callable[[], None]] = {}  # and how it is told to end


def start_thread(step: int, run: Callable[[], None], stop: Callable[[], None]) -> None:
    """A daemon thread in watchfiles, which `stop` lets end within a step. Raises `RuntimeError` where none is to be had."""

    def work() -> None:
        try:
            run()
        finally:
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=work, name=f"{_THREAD}, {step} ms", daemon=True)
    _running[thread] = stop
    try:
        thread.start()
    except BaseException:
        _running.pop(thread, None)
        raise


def _end_all() -> None:
    """A thread that comes back from watchfiles, which is Rust, while the interpreter ends, would abort the process."""
    threads, until = dict(_running), time.monotonic() + END_LIMIT
    for stop in threads.values():
        stop()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


atexit.register(_end_all)
os.register_at_fork(after_in_child=_running.clear)


class Watch:
    """Of ``folders``. ``on_change(paths, gone)``: look again, at what ``paths`` name, or (none) at everything; ``gone``: one
    of the folders was removed or moved, and is watched no more, whatever is there now. ``on_failure(reason)``: it is over.

    ``on_error`` gets what those two raise: in the loop itself it would be lost, or end the application.
    """

    def __init__(
        self,
        folders: Folders,
        on_change: Callable[[list[str], bool], None],
        on_failure: Callable[[str], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.folders: dict[str, Identity] = {str(path): identity for path, identity in folders.items()}
        self.in_place: bool = False
        """Whether it has called back since it began, or was begun anew: what changes from then on is seen."""
        self.since: float = time.monotonic()
        """When it began, or was begun anew."""
        self._begun = 0  # how many times it was begun anew: what was called back before may arrive after it
        self._on_change = on_change
        self._on_failure = on_failure
        self._on_error = on_error
        self._token = current_token()
        self._loop_is_closed: Callable[[], bool] = getattr(self._token.native_token, "is_closed", bool)  # trio's can't be
        self._stopped = threading.Event()

    @property
    def over(self) -> bool:
        """Whether nobody hears of it any more."""
        return self._stopped.is_set() or self._loop_is_closed()

    def start(self) -> None:
        """Raises `RuntimeError` where no thread is to be had."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing is called back any more. From any thread; twice is once."""
        self._stopped.set()

    def begin_anew(self) -> None:
        """For who watches: what changes now may be missed, until the next `changed`."""
        self._begun += 1
        self.in_place, self.since = False, time.monotonic()

    def changed(self, paths: Iterable[str] = (), *, gone: bool = False) -> bool:
        """For who watches, from any thread. False where the loop is gone."""
        return call_soon(self._token, partial(self._deliver, partial(self._change, list(paths), gone, self._begun)))

    def failed(self, reason: str) -> None:
        """For who watches, from any thread: it does so no more."""
        call_soon(self._token, partial(self._deliver, partial(self._on_failure, reason)))

    def _change(self, paths: list[str], gone: bool, begun: int) -> None:
        if not paths and not gone and begun == self._begun:
            self.in_place = True
        self._on_change(paths, gone)

    def _deliver(self, callback: Callable[[], None]) -> None:
        if self._stopped.is_set():
            return
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - raised where the source runs
            self._on_error(error)


class OwnWatch(Watch):
    """A daemon thread of its own in watchfiles."""

    def __init__(
        self,
        folders: Folders,
        on_change: Callable[[list[str], bool], None],
        on_failure: Callable[[str], None],
        on_error: Callable[[Exception], None],
        *,
        step: int = SLOW_STEP,
    ) -> None:
        super().__init__(folders, on_change, on_failure, on_error)
        self._step = step
        self._asked = False

    def start(self) -> None:
        start_thread(self._step, self._run, self.stop)

    def is_set(self) -> bool:
        """For watchfiles, which takes this for an event that says 'stop': the watch is in place when it first asks."""
        if not self._asked:
            self._asked = True
            self.changed()
        return self.over

    def _run(self) -> None:
        try:
            for changes in watchfiles.watch(
                *self.folders,
                watch_filter=None,
                step=self._step,
                debounce=4 * self._step,  # under steady traffic there never are two steps without news
                rust_timeout=50 * self._step,
                yield_on_timeout=True,
                stop_event=self,
                recursive=False,
                force_polling=False,
                raise_interrupt=False,
            ):
                if self.over or not self.changed([path for _, path in changes]):
                    return
        except BaseException as error:  # noqa: BLE001 - OSError, watchfiles' own RuntimeError, its Rust's panic
            self.failed(f"watchfiles: {error}")
