"""inotify through watchfiles: what it watches, how quickly, and every way in which a folder goes away."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import watchfiles

from litefs_watch.core.readings import Mount
from litefs_watch.sources import files as files_module
from litefs_watch.sources.files import FolderWatch
from litefs_watch.sources.inotify import Folders
from litefs_watch.sources.shared_watch import can_share
from litefs_watch.testing import SimulatedNode, fuse_available

SOON = 10.0


class Recorder:
    """What a FolderWatch says, and what it is told."""

    def __init__(self) -> None:
        self.looks: list[str | None] = []
        self.expected: list[tuple[str, int]] = []
        self.databases: set[str] = {"app.db"}
        self.needed = True
        self.hurried = False
        self._news = anyio.Event()

    def _said(self, said: list[Any], what: Any) -> None:
        said.append(what)
        self._news.set()

    def watch(self, litefs_dir: Path, data_dir: Path | None = None) -> FolderWatch:
        return FolderWatch(
            litefs_dir,
            data_dir,
            look=lambda database: self._said(self.looks, database),
            expect=lambda database, txid: self._said(self.expected, (database, txid)),
            databases=lambda: self.databases,
            needed=lambda: self.needed,
            hurried=lambda: self.hurried,
            mount=lambda: None,
        )

    async def until(self, condition: Callable[[], bool], poke: Callable[[], object] = lambda: None) -> None:
        """Wait for news; ``poke`` again each time, for what only the next check can see."""
        with anyio.fail_after(SOON):
            while not condition():
                poke()
                self._news = anyio.Event()
                with anyio.move_on_after(0.02):
                    await self._news.wait()


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "CHECK_INTERVAL", 0.02)
    monkeypatch.setattr(files_module, "LINGER", 0.05)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@asynccontextmanager
async def running(watch: FolderWatch) -> AsyncIterator[FolderWatch]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        yield watch
        tasks.cancel_scope.cancel()


def write(folder: Path, name: str = "app.db-pos") -> None:
    (folder / name).write_text(str(time.monotonic_ns()))


async def test_a_position_that_changes_is_looked_at(tmp_path: Path, recorder: Recorder) -> None:
    """By the database's name; .primary and .lag, and whatever else, by a look at everything."""
    async with running(recorder.watch(tmp_path)) as watch:
        await recorder.until(lambda: "app.db" in recorder.looks, lambda: write(tmp_path))
        recorder.looks.clear()
        await recorder.until(lambda: None in recorder.looks, lambda: write(tmp_path, ".primary"))
        assert watch.health.alive
        assert watch.covers
        assert str(tmp_path) in watch.health.status.detail


async def test_a_folder_that_goes_and_comes_back_is_picked_up(tmp_path: Path, recorder: Recorder) -> None:
    """A watch on a removed folder is silent for ever: the folder's identity is checked."""
    folder = tmp_path / "litefs"
    folder.mkdir()
    async with running(recorder.watch(folder)) as watch:
        await recorder.until(lambda: watch.health.alive)
        shutil.rmtree(folder)
        await recorder.until(lambda: not watch.health.alive)
        assert "is not there" in watch.health.status.detail
        folder.mkdir()
        await recorder.until(lambda: watch.health.alive)
        recorder.looks.clear()
        await recorder.until(lambda: "app.db" in recorder.looks, lambda: write(folder))


async def test_a_folder_that_is_replaced_is_picked_up(tmp_path: Path, recorder: Recorder) -> None:
    """Another one under the same name."""
    folder = tmp_path / "litefs"
    folder.mkdir()
    async with running(recorder.watch(folder)) as watch:
        await recorder.until(lambda: "app.db" in recorder.looks, lambda: write(folder))
        first = watch._folders
        folder.rename(tmp_path / "old")
        folder.mkdir()
        await recorder.until(lambda: watch._folders != first and watch.health.alive)
        recorder.looks.clear()
        await recorder.until(lambda: "app.db" in recorder.looks, lambda: write(folder))


async def test_a_folder_that_is_mounted_over_is_left_alone(recorder: Recorder, tmp_path: Path) -> None:
    """LiteFS was started: its mount is silent, and that is known. When it is stopped, the folder is watched again."""
    if reason := fuse_available():
        pytest.skip(reason)
    recorder.needed = False
    node = SimulatedNode(tmp_path, fuse=True)
    node.litefs_dir.mkdir()
    async with running(recorder.watch(node.litefs_dir)) as watch:
        await recorder.until(lambda: watch.health.alive)
        await anyio.to_thread.run_sync(node.start)
        try:
            await recorder.until(lambda: not watch.health.alive)
            assert "inotify is silent on LiteFS's mount" in watch.health.status.detail
        finally:
            await anyio.to_thread.run_sync(node.close)
        node.litefs_dir.mkdir(exist_ok=True)
        await recorder.until(lambda: watch.health.alive)


async def test_a_mount_that_appears_while_it_is_planned_covers_nothing(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned as an ordinary folder, it is LiteFS's mount when it is to be watched: silent, and said to be."""
    if reason := fuse_available():
        pytest.skip(reason)
    recorder.needed = False
    node = SimulatedNode(tmp_path, fuse=True)
    node.litefs_dir.mkdir()
    covered: list[bool] = []
    mounting = threading.Lock()  # a second plan may be made while the first is under way

    def mount_then(folders: Iterable[Path]) -> bool:
        shareable = can_share(folders)
        with mounting:
            if not node.running:
                node.start()
        return shareable

    monkeypatch.setattr(files_module, "can_share", mount_then)
    try:
        async with running(recorder.watch(node.litefs_dir)) as watch:
            monkeypatch.setattr(watch.health, "up", lambda _: covered.append(True))
            await recorder.until(lambda: "inotify is silent on LiteFS's mount" in watch.health.status.detail)
            assert not covered
            assert not watch.covers
    finally:
        await anyio.to_thread.run_sync(node.close)


@pytest.fixture
def a_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder passes for LiteFS's mount."""
    monkeypatch.setattr(files_module, "current_mount_kind", lambda _: Mount.LITEFS)


def ltx(data: Path, database: str, first: int, last: int) -> None:
    folder = data / "dbs" / database / "ltx"
    temporary = folder / "new.tmp"
    temporary.write_text("")
    temporary.rename(folder / f"{first:016x}-{last:016x}.ltx")


@pytest.mark.usefixtures("a_mount")
async def test_a_transaction_in_the_data_directory_is_expected(tmp_path: Path, recorder: Recorder) -> None:
    """The file's name tells the TXID, which -pos may not show yet."""
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    numbers = iter(range(1, 10_000))
    async with running(recorder.watch(tmp_path / "litefs", tmp_path)):

        def commit() -> None:
            number = next(numbers)
            ltx(tmp_path, "app.db", number, number)

        await recorder.until(lambda: bool(recorder.expected), commit)
        assert recorder.expected[-1][0] == "app.db"
        assert 0 < recorder.expected[-1][1] < next(numbers)


@pytest.mark.usefixtures("a_mount")
async def test_a_new_database_in_the_data_directory_is_watched_too(tmp_path: Path, recorder: Recorder) -> None:
    """Its folder is made after the watch began."""
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    async with running(recorder.watch(tmp_path / "litefs", tmp_path)) as watch:
        await recorder.until(lambda: watch.health.alive)
        (tmp_path / "dbs" / "new.db" / "ltx").mkdir(parents=True)
        numbers = iter(range(1, 10_000))
        await recorder.until(
            lambda: any(name == "new.db" for name, _ in recorder.expected),
            lambda: ltx(tmp_path, "new.db", 1, next(numbers)),
        )


@pytest.mark.usefixtures("a_mount")
async def test_a_folder_of_which_no_watch_tells_is_watched_too(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteFS makes a database's folder before the one in it."""
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    monkeypatch.setattr(files_module, "PLAN_INTERVAL", 60.0)
    async with running(recorder.watch(tmp_path / "litefs", tmp_path)) as watch:
        monkeypatch.setattr(watch, "_data_changed", lambda _: None)
        await recorder.until(lambda: watch.covers)
        late = tmp_path / "dbs" / "new.db" / "ltx"
        late.mkdir(parents=True)
        await recorder.until(lambda: late in watch._folders)


async def test_what_is_watched_is_compared_in_the_rounds(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is considered anew while the folders are the same; and what goes wrong there goes wrong in `run`."""
    planned: list[int] = []
    identify = files_module._identify
    compared: list[int] = []

    def compare(paths: list[Path]) -> Folders:
        (compared if "rounds" in threading.current_thread().name else planned).append(1)
        return identify(paths)

    monkeypatch.setattr(files_module, "_identify", compare)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with running(recorder.watch(tmp_path)) as watch:
            await recorder.until(lambda: watch.covers)
            planned.clear()
            await recorder.until(lambda: len(compared) > 5)
            assert not planned
            assert watch.covers
            monkeypatch.setattr(files_module, "_identify", lambda _: 1 / 0)
            await anyio.sleep(SOON)


@pytest.mark.usefixtures("a_mount")
async def test_the_data_directory_rests_while_the_stream_serves(tmp_path: Path, recorder: Recorder) -> None:
    """The second choice: for when the stream is away."""
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    recorder.needed = False
    async with running(recorder.watch(tmp_path / "litefs", tmp_path)) as watch:
        await recorder.until(lambda: "resting" in watch.health.status.detail)
        assert not watch.covers
        recorder.needed = True
        watch.stir()
        await recorder.until(lambda: watch.covers)
        recorder.needed = False
        watch.stir()
        await recorder.until(lambda: not watch.covers)


@pytest.mark.usefixtures("a_mount")
@pytest.mark.parametrize(("databases", "found"), [({"app.db"}, True), ({"other.db"}, False), (set(), False)])
async def test_litefs_default_data_directory_serves_where_it_matches(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, databases: set[str], found: bool
) -> None:
    """/var/lib/litefs may be another LiteFS's."""
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    monkeypatch.setattr(files_module, "DEFAULT_DATA_DIR", tmp_path)
    recorder.databases = databases
    async with running(recorder.watch(tmp_path / "litefs")) as watch:
        await recorder.until(lambda: watch.health.status.detail != "not started")
        assert watch.health.alive is found
        assert found or "set LITEFS_DATA_DIR" in watch.health.status.detail


async def test_quick_only_while_somebody_waits(tmp_path: Path, recorder: Recorder) -> None:
    """A step of 1 ms costs 2 % of a core; it lingers a little, since starting one costs more than that."""
    async with running(recorder.watch(tmp_path)) as watch:
        await recorder.until(lambda: watch.covers)
        assert watch._quick is None
        recorder.hurried = True
        watch.stir()
        await recorder.until(lambda: watch._quick is not None)
        assert watch._quick is not None
        assert watch._quick._step == 1
        assert {thread.name for thread in threading.enumerate() if "inotify" in thread.name} == {
            "litefs_watch inotify, 50 ms",
            "litefs_watch inotify, 1 ms",
        }
        recorder.hurried = False
        await recorder.until(lambda: watch._quick is None)
        assert watch.covers


async def test_a_timeout_means_look_again_too(tmp_path: Path, recorder: Recorder) -> None:
    """watchfiles may lose an event with it."""
    recorder.hurried = True
    async with running(recorder.watch(tmp_path)):
        await recorder.until(lambda: recorder.looks.count(None) >= 2)


async def test_a_watch_that_fails_is_health_and_is_tried_again(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """inotify's limits, for one: the re-read goes on meanwhile."""
    real, fail = watchfiles.watch, [True]

    def watch_or_fail(*folders: Path, **options: Any) -> Iterator[set[Any]]:
        if fail[0]:
            raise OSError(28, "OS file watch limit reached")
        return real(*folders, **options)

    monkeypatch.setattr(watchfiles, "watch", watch_or_fail)
    async with running(recorder.watch(tmp_path)) as watch:
        await recorder.until(lambda: "limit reached" in watch.health.status.detail)
        fail[0] = False
        recorder.looks.clear()
        await recorder.until(lambda: "app.db" in recorder.looks, lambda: write(tmp_path))
        assert watch.health.alive


async def test_a_failing_watch_covers_nothing_and_is_not_tried_in_a_spin(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where inotify is used up, waits fall back to looking by themselves; each pause is twice the last."""
    covered: list[bool] = []

    def fail(*_: Path, **__: Any) -> Iterator[set[Any]]:
        covered.append(watch.covers)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watchfiles, "watch", fail)
    monkeypatch.setattr(files_module, "FIRST_PAUSE", 0.01)
    async with running(recorder.watch(tmp_path)) as watch:
        await recorder.until(lambda: len(covered) >= 4)
        assert not any(covered[1:])
        assert not watch.covers
        assert "Too many open files" in watch.health.status.detail
        assert watch._pause >= 0.04
