"""Runs the three sources, keeps them running, and notices when none of them has had an answer for long."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio import sleep

from litefs_watch.core.readings import DirectoryRead, Mount, Reading, Silence, StreamEnded
from litefs_watch.position import Position
from litefs_watch.settings import Settings
from litefs_watch.sources import Health, Source
from litefs_watch.sources.directory import Directory
from litefs_watch.sources.files import FolderWatch
from litefs_watch.sources.misplaced import misplaced
from litefs_watch.sources.reread import Reread
from litefs_watch.sources.stream import EventStream
from litefs_watch.status import SourceStatus

logger: logging.Logger = logging.getLogger("litefs_watch")

FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0
"""Seconds before a source that failed runs again: doubled each time, and the first again once it ran for the last."""

_NAPS = 4
"""In a silence, at least: what a block of the loop can hide is a quarter of it, beside half of it until the next look."""


class Counts(NamedTuple):
    """What the sources did since the start."""

    events: int
    reconnects: int
    rereads: int
    restarts: int
    """How often a source failed, and was run again."""


class Supervisor:
    """The sources of one node. ``publish`` gets each reading, in the order in which they were made.

    ``known()`` and ``awaited()`` name the databases whose position is known, and those that somebody waits for.
    """

    def __init__(
        self,
        settings: Settings,
        litefs_dir: Path,
        *,
        publish: Callable[[Reading], None],
        known: Callable[[], set[str]],
        awaited: Callable[[], frozenset[str]],
    ) -> None:
        self._settings = settings
        self._publish = publish
        self._answered_at = time.monotonic()
        self._answered = anyio.Event()
        self._restarts = 0
        self._mount: Mount | None = None  # at the last look
        self._misplaced: str | None = None  # why this can't be LiteFS's mount, if LiteFS answers
        self._warned = False
        self._directory = Directory(litefs_dir)
        idle_interval = min(settings.idle_interval, settings.silence / 2)  # asked as the silence ends, it answers late
        # A primary that is looked at no more often than its lease is renewed is in doubt (`core.tenure`).
        seldom = min(2 * idle_interval, settings.silence / 2, settings.lease_ttl / 4)
        self._reread = Reread(
            self._directory,
            idle_interval=idle_interval,
            streaming_interval=max(idle_interval, seldom),
            blind_interval=settings.blind_interval,
            report=self._report,
            known=known,
            awaited=awaited,
            sighted=lambda: self._stream.health.alive or self._files.covers,
            streaming=lambda: self._stream.health.alive,
        )
        self._files = FolderWatch(
            litefs_dir,
            settings.data_dir,
            look=self._reread.look,
            expect=self._reread.expect,
            databases=known,
            needed=lambda: self._stream.attempted and not self._stream.health.alive,
            hurried=lambda: bool(awaited()),
            mount=lambda: self._mount,
        )
        self._stream = EventStream(
            settings.api_url, report=self._report, look=self._look_and_stir, on_data_dir=self._found_data_dir
        )
        self._sources: dict[str, Source] = {"stream": self._stream, "files": self._files, "reread": self._reread}

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_running, self._run_stream, self._stream.health)
                tasks.start_soon(self._keep_running, self._files.run, self._files.health)
                tasks.start_soon(self._keep_running, self._reread.run, self._reread.health)
                tasks.start_soon(self._keep_running, self._listen_for_silence)
        finally:
            self._reread.end()

    def close(self, reason: str) -> None:
        """Every source is down for that ``reason``, and its thread ends. From any thread, without a loop."""
        for source in self._sources.values():
            source.health.down(reason, level=logging.INFO)
        self._files.close()

    @property
    def answered(self) -> bool:
        """Whether the files have been looked at, and the stream has been opened or was not to be had."""
        return self._reread.looked and self._stream.attempted

    @property
    def streaming(self) -> bool:
        """Whether LiteFS's event stream is open."""
        return self._stream.health.alive

    @property
    def identity(self) -> tuple[str, str]:
        """The ids of this node and of its cluster, as LiteFS last told them on its event stream."""
        return self._stream.identity

    @property
    def data_dir(self) -> Path | None:
        """LiteFS's data directory, as far as it is known."""
        return self._files.data_dir

    @property
    def status(self) -> dict[str, SourceStatus]:
        return {name: source.health.status for name, source in self._sources.items()}

    @property
    def faults(self) -> dict[str, str]:
        faults = dict(self._reread.faults)
        if (misplaced := self.misplaced) is not None:
            faults.setdefault("mount", misplaced)
        return faults

    @property
    def misplaced(self) -> str | None:
        """Why this directory can't be LiteFS's mount, while LiteFS answers; None where it may be."""
        return self._misplaced if self._misplaced is not None and self._stream.health.alive else None

    @property
    def counts(self) -> Counts:
        stream = self._stream
        return Counts(stream.events, max(0, stream.connections - 1), self._reread.looks, self._restarts)

    def look_at(self, when: float) -> None:
        """Look at the directory at ``when``, on the clock of `time.monotonic`."""
        self._reread.look_at(when)

    def look(self, database: str) -> None:
        """Look at a database's position now."""
        self._reread.look(database)

    def hurry(self, database: str) -> None:
        """Somebody begins to wait for ``database``."""
        if self._stream.health.alive:
            self._reread.stir()
        else:
            self._reread.look(database)
            self._files.stir()

    def check(self, database: str) -> None:
        """Somebody asks whether this node still is the primary, and where the database is: look at both, now."""
        self._reread.look(database)
        self._reread.look_at(time.monotonic())

    async def read_position(self, database: str) -> Position | None:
        return await self._reread.read_position(database)

    def _report(self, reading: Reading) -> None:
        self._answered_at = time.monotonic()
        if not self._answered.is_set():
            self._answered.set()
        if isinstance(reading, DirectoryRead):
            self._check_place(reading)
        if isinstance(reading, DirectoryRead) and reading.mount is not self._mount:
            self._mount = reading.mount
            self._files.stir()
        self._publish(reading)

    def _check_place(self, read: DirectoryRead) -> None:
        self._misplaced = misplaced(self._directory.path, read, self._directory.mounts)
        if not self._warned and (why := self.misplaced) is not None:
            self._warned = True
            logger.warning("%s", why)

    def _look_and_stir(self) -> None:
        """The stream came, went, or said something that it can't mean."""
        self._reread.look()
        self._files.stir()

    def _found_data_dir(self, path: Path) -> None:
        if self._settings.data_dir is None:
            self._files.data_dir = path

    async def _run_stream(self) -> None:
        try:
            await self._stream.run()
        except Exception:  # no more events come, and nobody else says so
            self._stream.attempted = True
            self._report(StreamEnded(time.monotonic()))
            self._look_and_stir()
            raise

    async def _keep_running(self, run: Callable[[], Awaitable[None]], health: Health | None = None) -> None:
        """Run it again, whole, where it fails: through a fault of ours, or where no thread is to be had."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                return await run()
            except Exception as error:
                logger.exception("a source of litefs_watch failed; it runs again")
                if health is not None:
                    health.down(f"failed, and runs again: {error!r}")
            if time.monotonic() - began >= LAST_PAUSE:
                pause = FIRST_PAUSE
            await sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
            self._restarts += 1

    async def _listen_for_silence(self) -> None:
        """A frozen LiteFS answers no read and closes no connection: only the time that passes tells. Time for which this
        loop was blocked does not: nobody was asked then. How late a nap ends tells it, up to that nap's length."""
        silence = self._settings.silence
        heard, blocked, due = self._heard_at, 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            if self._heard_at > heard:  # perhaps in the midst of a block, by the thread that looks
                heard, blocked = self._heard_at, 0.0
            blocked += max(0.0, now - max(due, heard))
            quiet = now - heard - blocked
            if quiet < silence:
                nap = min(max(silence - quiet, 0.001), silence / _NAPS)
                due = now + nap
                await sleep(nap)
                continue
            self._reread.health.down(f"no answer from {self._settings.litefs_dir} for {quiet:.1f} s: is LiteFS frozen?")
            self._answered = anyio.Event()
            self._publish(Silence(now))
            await self._answered.wait()
            due = time.monotonic()

    @property
    def _heard_at(self) -> float:
        return max(self._answered_at, self._directory.answered_at)
