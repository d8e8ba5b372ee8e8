"""inotify, through watchfiles: for ordinary directories, and for LiteFS's data directory.

On LiteFS's own mount inotify never fires for ``-pos``, ``.primary`` or ``.lag``: LiteFS changes them inside its process and
the kernel sees no write. There, while the event stream is away, the data directory serves, an ordinary disk on which each
transaction renames a file into ``dbs/DB/ltx/``, a moment *before* it is applied.

watchfiles returns after two steps without news, so its step is its latency and its price. The slow watch runs always, one
for all of the process (`shared_watch`); a quick one of its own only while somebody waits. Neither is trusted: an event may
be lost and the queue may overflow, so each wake means 'look again', and the re-read is the net below; and a watch on a
folder that was removed, unmounted or made anew is silent for ever, so the folders' identity is checked once a second, in
the rounds.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from litefs_watch.core.readings import Mount
from litefs_watch.settings import DEFAULT_DATA_DIR
from litefs_watch.sources import Health
from litefs_watch.sources.directory import current_mount_kind
from litefs_watch.sources.inotify import QUICK_STEP, Folders, OwnWatch, Watch
from litefs_watch.sources.rounds import Outcome, Visit
from litefs_watch.sources.shared_watch import SlowWatch, can_share
from litefs_watch.sources.thread import CallThread

CHECK_INTERVAL = 1.0
"""Seconds between two checks that the watched folders are still the same ones."""
PLAN_INTERVAL = 60.0
"""Seconds between two considerations of what to watch, while those folders are the same ones."""
LATE = 2.0
"""Seconds after which a slow watch that is not in place yet is said to be late."""
LINGER = 1.0
"""Seconds that the quick watch stays after the last waiter: starting one costs more than that."""
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""Seconds before a watch that failed is tried again, doubled each time: where inotify is used up, it stays so for long."""
_THREAD = "litefs_watch folders"

W = TypeVar("W", bound=Watch)

_LTX = re.compile(r"[0-9a-f]{16}-([0-9a-f]{16})\.ltx")


class FolderWatch:
    """Says 'look again' when a file changes.

    ``hurried()`` tells whether somebody waits for a transaction, ``needed()`` whether LiteFS's mount has no better source,
    ``mount()`` what kind of mount was last seen: while there is nothing to watch on LiteFS's, nothing is checked either.
    """

    def __init__(
        self,
        litefs_dir: Path,
        data_dir: Path | None,
        *,
        look: Callable[[str | None], None],
        expect: Callable[[str, int], None],
        databases: Callable[[], set[str]],
        needed: Callable[[], bool],
        hurried: Callable[[], bool],
        mount: Callable[[], Mount | None],
    ) -> None:
        self._litefs_dir = litefs_dir
        self._silent = f"inotify is silent on LiteFS's mount {litefs_dir}"
        self._resting = f"resting: {self._silent}, and the event stream serves it"
        self.data_dir = data_dir
        """LiteFS's data directory, once it is known."""
        self._look = look
        self._expect = expect
        self._databases = databases
        self._needed = needed
        self._hurried = hurried
        self._mount = mount
        self._thread = CallThread(_THREAD)
        self._stirred = anyio.Event()
        self._visit: Visit
        self._folders: Folders = {}
        self._on_data = False
        self._slow: Watch | None = None
        self._quick: OwnWatch | None = None
        self._failed_at = self._retry_at = float("-inf")
        self._pause = FIRST_PAUSE
        self._detail = ""
        self._error: Exception | None = None  # raised by a callback, outside of our task
        self._check_at = 0.0
        self.health: Health = Health("files")

    def stir(self) -> None:
        """Somebody began to wait, or the stream came or went: consider anew what to watch, and how quickly."""
        self._stirred.set()

    def close(self) -> None:
        """Let the watches' threads end. From any thread."""
        self._stop_both()

    async def run(self) -> None:
        """Watch until cancelled. Where it raises it can be run again."""
        self._thread, self._stirred = CallThread(_THREAD), anyio.Event()
        self._folders, self._check_at, self._error = {}, 0.0, None
        self._visit = Visit(self._compare)
        quick_until = 0.0
        needed_then = self._needed()
        try:
            while True:
                if self._error is not None:
                    raise self._error
                if self._rests():
                    await self._stirred.wait()
                    self._stirred, self._check_at = anyio.Event(), 0.0
                    continue
                now = time.monotonic()
                if now >= self._check_at or self._needed() != needed_then:
                    needed_then = self._needed()
                    await self._check()
                if self._hurried():
                    quick_until = now + LINGER
                    if self._quick is None and self.covers:
                        self._quick = self._start(partial(OwnWatch, step=QUICK_STEP))
                elif now >= quick_until:
                    self._stop_quick()
                next_check = max(0.0, self._check_at - time.monotonic())
                with anyio.move_on_after(next_check if self._quick is None else min(CHECK_INTERVAL, next_check)):
                    await self._stirred.wait()
                self._stirred = anyio.Event()
        finally:
            self._visit.cancel()
            self._stop_both()

    def _rests(self) -> bool:
        """Whether there is nothing to watch, and nothing to check until somebody stirs."""
        if self._needed() or self._mount() is not Mount.LITEFS:
            return False
        self._stop_both()
        self._visit.withdraw()
        self._folders = {}
        self.health.down(self._resting, level=logging.INFO)
        return True

    async def _check(self) -> None:
        """Watch what is there to be watched now."""
        self._check_at = time.monotonic() + CHECK_INTERVAL
        needed, databases = self._needed(), self._databases()

        def plan() -> tuple[Folders, bool, str, bool]:
            folders, on_data, detail = self._plan(needed, databases)
            return folders, on_data, detail, can_share(folders)

        try:
            folders, on_data, detail, shared = await self._thread.run(plan)
        except OSError as error:  # the list of mounts: no descriptor is to be had, say; what is watched stays so
            self.health.fault(f"{error.filename}: {error.strerror}")
            return
        self.health.fault(None)
        if folders and time.monotonic() < self._retry_at:
            return
        if folders != self._folders:
            self._stop_both()
            self._folders, self._on_data = folders, on_data
            self._slow = self._start(SlowWatch if shared else OwnWatch) if folders else None
        self._detail = detail
        if not folders:
            self.health.down(detail, level=logging.INFO)
        elif self.covers:
            self.health.up(detail)
        elif (slow := self._slow) is not None and time.monotonic() > slow.since + LATE:
            self.health.down(f"{detail}, once the watch of all in this process is in place")
        if self.covers:
            self._rely()

    def _rely(self) -> None:
        """The watch is in place: its folders are compared from now on, and what to watch is seldom considered anew."""
        self._check_at = time.monotonic() + PLAN_INTERVAL
        self._await_visit()

    def _await_visit(self) -> None:
        """Have the folders' identity looked at in the rounds."""
        if not self._visit.waiting and self._visit.withdraw():
            first = next(iter(self._folders))
            call = partial(_data_folders, first.parent) if self._on_data else partial(_identify, [first])
            self._visit.at(time.monotonic() + CHECK_INTERVAL, call, slack=CHECK_INTERVAL / 4)

    def _compare(self, outcome: Outcome) -> None:
        """The rounds have looked at the folders. In the loop's thread, but in no task of ours."""
        try:
            if self.covers and outcome() == self._folders:
                self._await_visit()
                return
            self._check_at = 0.0
        except Exception as error:  # noqa: BLE001 - raised in `run`
            self._error = error
        self.stir()

    @property
    def covers(self) -> bool:
        """Whether a watch is in place."""
        slow = self._slow
        return slow is not None and slow.in_place

    def _plan(self, needed: bool, databases: set[str]) -> tuple[Folders, bool, str]:
        """Blocking. The folders to watch, whether they are LiteFS's data, and a word on it."""
        if current_mount_kind(self._litefs_dir) is Mount.ORDINARY:
            folders = _identify([self._litefs_dir])
            return folders, False, f"watching {self._litefs_dir}" if folders else f"{self._litefs_dir} is not there"
        silent = self._silent
        if not needed:
            return {}, True, self._resting
        data_dir = self.data_dir
        if data_dir is None and databases and databases <= _databases_in(DEFAULT_DATA_DIR):
            data_dir = DEFAULT_DATA_DIR
        if data_dir is None:
            return (
                {},
                True,
                f"{silent}, and LiteFS's data directory is not known: set LITEFS_DATA_DIR (data_dir=) to it",
            )
        dbs, folders = data_dir / "dbs", _data_folders(data_dir)
        if dbs not in folders:
            return {}, True, f"{silent}, and {dbs} is not there: set LITEFS_DATA_DIR (data_dir=) to LiteFS's 'data.dir'"
        return folders, True, f"watching LiteFS's data directory {data_dir}, since {silent}"

    def _start(self, kind: Callable[..., W]) -> W:
        watch = kind(self._folders, self._changed, self._failed, self._raised)
        watch.start()
        return watch

    def _stop_quick(self) -> None:
        quick, self._quick = self._quick, None  # first: another thread may do the same at this moment
        if quick is not None:
            quick.stop()

    def _stop_both(self) -> None:
        self._stop_quick()
        slow, self._slow = self._slow, None
        if slow is not None:
            slow.stop()

    def _changed(self, paths: list[str], gone: bool) -> None:
        """Something has, or the watch has come into place; or a folder is ``gone``: what is there now is another one."""
        if gone:
            self._stop_both()
            self._folders, self._check_at = {}, 0.0
            self.stir()
        elif self.covers and not self.health.alive:
            self.health.up(self._detail)
            self._rely()
        elif self._quick is None and self._hurried():
            self.stir()
        if self._on_data:
            self._data_changed(paths)
            return
        names = {os.path.basename(path) for path in paths}
        databases = {name.removesuffix("-pos") for name in names if name.endswith("-pos") and not name.startswith(".")}
        for database in databases:
            self._look(database)
        if not databases or not names.isdisjoint((".primary", ".lag")):
            self._look(None)

    def _data_changed(self, paths: list[str]) -> None:
        expected: dict[str, int] = {}
        for path in paths:
            folder, name = os.path.split(path)
            if match := _LTX.fullmatch(name):
                database = os.path.basename(os.path.dirname(folder))
                expected[database] = max(expected.get(database, 0), int(match[1], 16))
            else:
                self._check_at = 0.0  # a database came or went
                self.stir()
        for database, txid in expected.items():
            self._expect(database, txid)
        if not expected:
            self._look(None)

    def _failed(self, reason: str) -> None:
        now = time.monotonic()
        steady = now - self._failed_at > 2 * LAST_PAUSE
        self._pause = FIRST_PAUSE if steady else min(2 * self._pause, LAST_PAUSE)
        self._failed_at, self._retry_at = now, now + self._pause
        self._stop_both()
        self._folders = {}
        self.health.down(f"{reason}; tried again in {self._pause:g} s")
        self._look(None)

    def _raised(self, error: Exception) -> None:
        """What a callback raised: in the loop itself it would be lost, or end the application; so `run` raises it."""
        self._error = error
        self.stir()


def _identify(paths: list[Path]) -> Folders:
    folders: Folders = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        folders[path] = (status.st_dev, status.st_ino)
    return folders


def _data_folders(data_dir: Path) -> Folders:
    dbs = data_dir / "dbs"
    return _identify([dbs, *(dbs / name / "ltx" for name in sorted(_databases_in(data_dir)))])


def _databases_in(data_dir: Path) -> set[str]:
    try:
        return set(os.listdir(data_dir / "dbs"))
    except OSError:
        return set()
