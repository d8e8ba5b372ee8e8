"""The one slow watch of the process: who hears what, who comes and goes, and that nobody's trouble is another's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import watchfiles

from litefs_watch.sources import shared_watch as shared_module
from litefs_watch.sources.inotify import Folders
from litefs_watch.sources.shared_watch import SharedWatch, SlowWatch, can_share
from litefs_watch.testing import SimulatedNode, fuse_available
from tests.testing.leftovers import open_descriptors

SOON = 10.0


class Panic(BaseException):
    """As Rust's is none that `except Exception` catches."""


class Member:
    """One who watches, and what he was told."""

    def __init__(self, *folders: Path) -> None:
        self.looks = 0
        self.names: set[str] = set()
        self.gone = False
        self.failures: list[str] = []
        self.watch = SlowWatch(identify(*folders), self._changed, self.failures.append, self._raised)

    def _changed(self, paths: list[str], gone: bool) -> None:
        self.looks += not paths
        self.names |= {os.path.basename(path) for path in paths}
        self.gone |= gone
        self.paths = paths

    def _raised(self, error: Exception) -> None:
        raise error

    def start(self) -> Member:
        self.watch.start()
        return self


class Watching:
    """watchfiles, each start noted; it can be held back, and be made to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[set[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refuse: Callable[[tuple[str, ...]], BaseException | None] = lambda _: None
        self.break_with: BaseException | None = None
        self._real = watchfiles.watch
        monkeypatch.setattr(watchfiles, "watch", self)

    def __call__(self, *folders: str, **options: Any) -> Iterator[Any]:
        self.starts.append({os.readlink(folder) for folder in folders})
        self.gate.wait(SOON)
        if error := self.refuse(folders):
            raise error
        asked = options["stop_event"].is_set

        class Stop:
            def is_set(_) -> bool:  # noqa: N805
                stop: bool = asked()
                if self.break_with is not None:
                    error, self.break_with = self.break_with, None
                    raise error
                return stop

        options["stop_event"] = Stop()
        yield from self._real(*folders, **options)


def identify(*folders: Path) -> Folders:
    return {folder: (folder.stat().st_dev, folder.stat().st_ino) for folder in folders}


def make(parent: Path, count: int) -> list[Path]:
    folders = [parent / f"folder {number}" for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders


def is_open(descriptor: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{descriptor}")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "litefs_watch inotify, 50 ms"]


async def until(condition: Callable[[], object]) -> None:
    """What another thread does."""
    with anyio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110 - no event of ours tells
            await anyio.sleep(0.001)


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedWatch]:
    """Nobody else's; and none is left behind."""
    shared, others = SharedWatch(), threads()
    monkeypatch.setattr(shared_module, "_shared", shared)
    yield shared
    for member in shared._everybody():
        shared.leave(member)
    for thread in threads():
        if thread not in others:
            thread.join(SOON)
            assert not thread.is_alive()


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


async def test_fifty_share_one_thread_and_each_hears_of_its_own(tmp_path: Path) -> None:
    """Its own folder's changes; the thread ends with the last of them."""
    others = threads()
    members = [Member(folder).start() for folder in make(tmp_path, 50)]
    await until(lambda: all(member.watch.in_place for member in members))
    assert len(threads()) - len(others) == 1
    for number in range(50):
        (tmp_path / f"folder {number}" / f"{number}-pos").write_text("x")
    await until(lambda: all(member.names for member in members))
    assert [member.names for member in members] == [{f"{number}-pos"} for number in range(50)]
    for member in members:
        member.watch.stop()
    await until(lambda: threads() == others)


async def test_who_joins_at_the_same_time_is_one_start(tmp_path: Path, watching: Watching) -> None:
    """Each start costs everybody a look; and who needs nothing new costs none."""
    folders = make(tmp_path, 20)
    watching.gate.clear()
    members = [Member(folder).start() for folder in folders]
    watching.gate.set()
    await until(lambda: all(member.watch.in_place for member in members))
    assert len(watching.starts) <= 2  # the thread may have begun with the first of them
    assert watching.starts[-1] == set(map(str, folders))
    starts, looks = len(watching.starts), [member.looks for member in members]
    newcomer = Member(folders[3], folders[5]).start()
    await until(lambda: newcomer.watch.in_place)
    assert len(watching.starts) == starts
    assert [member.looks for member in members] == looks


async def test_who_joins_while_the_watch_is_put_in_place_is_watched_too(tmp_path: Path, watching: Watching) -> None:
    """By the next one: that this one is in place means nothing for his folder."""
    folders = make(tmp_path, 2)
    watching.gate.clear()
    one = Member(folders[0]).start()
    await until(lambda: watching.starts)
    two = Member(folders[1]).start()
    watching.gate.set()
    await until(lambda: one.watch.in_place and two.watch.in_place)
    assert watching.starts == [{str(folders[0])}, set(map(str, folders))]
    (folders[1] / "new").write_text("x")
    await until(lambda: two.names)


async def test_a_folder_by_two_names_is_told_to_both(tmp_path: Path) -> None:
    """inotify tells of it under one name only: each hears it under his own."""
    (folder,) = make(tmp_path, 1)
    link = tmp_path / "link"
    link.symlink_to(folder)
    one, two = Member(folder).start(), Member(link).start()
    await until(lambda: one.watch.in_place and two.watch.in_place)
    (folder / "new").write_text("x")
    await until(lambda: one.names and two.names)
    assert (one.paths, two.paths) == ([str(folder / "new")], [str(link / "new")])


async def test_one_who_stops_hears_nothing_more_and_harms_nobody(
    tmp_path: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; his folder is watched no more after a while."""
    monkeypatch.setattr(shared_module, "TIDY_AFTER", 0.0)
    folders = make(tmp_path, 3)
    one, two, three = (Member(folder).start() for folder in folders)
    await until(lambda: all(member.watch.in_place for member in (one, two, three)))
    two.watch.stop()
    await until(lambda: watching.starts[-1] == {str(folders[0]), str(folders[2])})
    for folder in folders:
        (folder / "new").write_text("x")
    await until(lambda: (one.names or one.looks > 1) and (three.names or three.looks > 1))
    assert not two.names
    assert not two.failures


async def test_a_folder_that_is_removed_is_said_and_can_be_watched_again(
    tmp_path: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the new one has the old one's number: a watch on it would be silent for ever. Others hear nothing."""
    folders = make(tmp_path, 2)
    one, two = (Member(folder).start() for folder in folders)
    await until(lambda: one.watch.in_place and two.watch.in_place)
    starts = len(watching.starts)
    folders[0].rmdir()
    folders[0].mkdir()
    await until(lambda: one.gone)
    assert not two.gone
    monkeypatch.setattr(shared_module, "_check", lambda *_: None)
    again = Member(folders[0])
    again.watch.folders = one.watch.folders
    again.start()
    await until(lambda: again.watch.in_place)
    assert len(watching.starts) > starts
    (folders[0] / "new").write_text("x")
    await until(lambda: again.names == {"new"})


async def test_a_folder_that_is_missing_or_another_one_is_gone_for_its_owner_alone(tmp_path: Path) -> None:
    """What was planned is not what is there: it is planned anew."""
    folders = make(tmp_path, 4)
    members = [Member(folder) for folder in folders]
    folders[1].rmdir()
    folders[2].rename(tmp_path / "moved")
    folders[2].mkdir()
    for member in members:
        member.start()
    one, two, three, four = members
    await until(lambda: two.gone and three.gone and one.watch.in_place and four.watch.in_place)
    (folders[3] / "new").write_text("x")
    await until(lambda: four.names)
    assert not any(member.failures for member in members)
    assert not two.watch.in_place
    assert not three.watch.in_place


async def test_a_folder_that_can_t_be_read_fails_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """watchfiles refuses to watch any where one is such."""
    folders = make(tmp_path, 2)
    one, two = (Member(folder) for folder in folders)
    real, forbidden = shared_module._check, two.watch.folders[str(folders[1])]

    def check(descriptor: int, identity: tuple[int, int]) -> None:
        if identity == forbidden:
            raise PermissionError(13, "Permission denied")
        real(descriptor, identity)

    monkeypatch.setattr(shared_module, "_check", check)
    for member in (one, two):
        member.start()
    await until(lambda: two.failures and one.watch.in_place)
    assert "Permission denied" in two.failures[0]
    assert not one.failures


async def test_the_folder_that_was_meant_is_watched_whatever_has_its_name(tmp_path: Path, watching: Watching) -> None:
    """One that is moved away just before is not mistaken for who takes its place. None is kept open: its mount could not
    end."""
    (folder,) = make(tmp_path, 1)
    watching.gate.clear()
    one = Member(folder).start()
    await until(lambda: watching.starts)
    moved = folder.rename(tmp_path / "moved")
    folder.mkdir()
    watching.gate.set()
    await until(lambda: one.watch.in_place)
    (folder / "other").write_text("x")
    (moved / "meant").write_text("x")
    await until(lambda: one.names)
    assert one.names == {"meant"}
    assert not {str(folder), str(moved)} & set(open_descriptors())


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[SimulatedNode, Folders]]:
    """A node's mount, frozen, and the folder under it as it was before."""
    if reason := fuse_available():
        pytest.skip(reason)
    node = SimulatedNode(tmp_path, fuse=True)
    node.litefs_dir.mkdir()
    before = identify(node.litefs_dir)
    with node:
        node.freeze()
        yield node, before


async def test_a_mount_that_has_appeared_is_not_watched(
    tmp_path: Path, mounted: tuple[SimulatedNode, Folders], watching: Watching
) -> None:
    """inotify is silent there. That it is frozen holds nobody up, least of all others' watch."""
    node, before = mounted
    late = Member()
    late.watch.folders = {str(path): identity for path, identity in before.items()}
    (folder,) = make(tmp_path, 1)
    other = Member(folder)
    for member in (late, other):
        member.start()
    await until(lambda: late.gone and other.watch.in_place)
    assert not late.watch.in_place
    assert watching.starts == [{str(folder)}]
    assert not await anyio.to_thread.run_sync(can_share, [node.litefs_dir])
    assert await anyio.to_thread.run_sync(can_share, [folder, tmp_path / "missing"])


async def test_where_inotify_is_used_up_those_who_have_it_keep_it(tmp_path: Path, watching: Watching) -> None:
    """Who came last goes."""
    folders = make(tmp_path, 2)
    watching.refuse = lambda folders: OSError(28, "OS file watch limit reached") if len(folders) > 1 else None
    one = Member(folders[0]).start()
    await until(lambda: one.watch.in_place)
    two = Member(folders[1]).start()
    await until(lambda: two.failures)
    await until(lambda: one.looks > 1)
    (folders[0] / "new").write_text("x")
    await until(lambda: one.names)
    assert "watch limit reached" in two.failures[0]
    assert not one.failures


async def test_where_it_is_used_up_for_all_all_are_told(tmp_path: Path, watching: Watching, shared: SharedWatch) -> None:
    """And nobody tries again but who joins again."""
    folders = make(tmp_path, 2)
    one, two = (Member(folder).start() for folder in folders)
    await until(lambda: one.watch.in_place and two.watch.in_place)
    watching.refuse = lambda _: OSError(24, "Too many open files")
    three = Member(tmp_path).start()
    await until(lambda: one.failures and two.failures and three.failures)
    await until(lambda: not shared._running)
    watching.refuse = lambda _: None
    again = Member(folders[0]).start()
    await until(lambda: again.watch.in_place)


@pytest.mark.parametrize("error", [RuntimeError("lost"), Panic("panicked")])
async def test_what_breaks_in_the_thread_is_everybody_s_failure(
    tmp_path: Path, watching: Watching, error: BaseException
) -> None:
    """Nobody who came before knows less than that; who joins again is watched again."""
    folders = make(tmp_path, 2)
    one, two = (Member(folder).start() for folder in folders)
    await until(lambda: one.watch.in_place and two.watch.in_place)
    watching.break_with = error
    await until(lambda: one.failures and two.failures)
    assert one.failures == two.failures == [f"watchfiles: {error}"]
    again = Member(folders[0]).start()
    await until(lambda: again.watch.in_place)


async def test_a_fault_of_ours_in_the_thread_is_everybody_s_failure(
    tmp_path: Path, watching: Watching, shared: SharedWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, nobody takes a dead thread for one that watches."""
    one = Member(tmp_path).start()
    await until(lambda: one.watch.in_place)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "_part_with", lambda *_: 1 / 0)
        watching.break_with = RuntimeError("lost")
        await until(lambda: one.failures)
    assert "ZeroDivisionError" in one.failures[0]
    again = Member(tmp_path).start()
    await until(lambda: again.watch.in_place)


async def test_a_thread_that_ends_closes_nothing_of_the_next_one_s(
    tmp_path: Path, watching: Watching, shared: SharedWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last member leaves, and the next one joins before it is over: he has a thread, and descriptors, of his own."""
    folders = make(tmp_path, 2)
    goes_on, begin = threading.Event(), shared._begin

    def end_late() -> list[SlowWatch]:
        if members := begin():
            return members
        goes_on.wait(SOON)
        return []

    one = Member(folders[0]).start()
    await until(lambda: one.watch.in_place)
    (thread,) = threads()
    monkeypatch.setattr(shared, "_begin", end_late)
    one.watch.stop()
    await until(lambda: not shared._running)
    watching.gate.clear()
    two = Member(folders[1]).start()
    await until(lambda: len(watching.starts) == 2)
    goes_on.set()
    await anyio.to_thread.run_sync(thread.join, SOON)
    assert [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in shared._open] == [str(folders[1])]
    watching.gate.set()
    await until(lambda: two.watch.in_place)
    assert two.failures == []


async def test_a_watch_that_ends_by_itself_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not begun anew in a spin."""
    monkeypatch.setattr(watchfiles, "watch", lambda *_, **__: iter(()))
    one = Member(tmp_path).start()
    await until(lambda: one.failures)
    assert one.failures == ["watchfiles: it ended by itself"]


async def test_without_a_thread_nothing_is_left_behind(
    tmp_path: Path, shared: SharedWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins hears of it, and the next one tries again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Member(tmp_path).start()
    assert not shared._members
    assert not shared._newcomers
    one = Member(tmp_path).start()
    await until(lambda: one.watch.in_place)


def test_who_s_event_loop_is_gone_is_dropped(tmp_path: Path, shared: SharedWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has stopped it, and nobody will."""
    monkeypatch.setattr(shared_module, "ROLL_CALL", 0.0)
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        Member(tmp_path).start()

    loop.run_until_complete(begin())
    (thread,) = threads()
    loop.close()
    thread.join(SOON)
    assert not thread.is_alive()
    assert not shared._members


async def test_a_forked_child_keeps_no_folder_open(tmp_path: Path, watching: Watching, shared: SharedWatch) -> None:
    """While it lived, the mount that one of them is on could not end."""
    watching.gate.clear()
    one = Member(tmp_path).start()
    await until(lambda: watching.starts)
    (descriptor,) = shared._open
    child = os.fork()
    if child == 0:
        os._exit(is_open(descriptor))
    assert await anyio.to_thread.run_sync(os.waitpid, child, 0) == (child, 0)
    watching.gate.set()
    await until(lambda: one.watch.in_place)


def test_a_forked_child_makes_a_watch_of_its_own(tmp_path: Path) -> None:
    """The parent's thread is not there; not even where it held the lock. What the parent had can be stopped there."""

    async def watch() -> bool:
        member = Member(tmp_path).start()
        await until(lambda: member.watch.in_place)
        (tmp_path / str(os.getpid())).write_text("x")
        await until(lambda: str(os.getpid()) in member.names)
        inherited.append(member)
        return True

    inherited: list[Member] = []
    assert anyio.run(watch)
    with shared_module._shared._lock:
        child = os.fork()
        if child == 0:
            try:
                inherited[0].watch.stop()
                os._exit(0 if anyio.run(watch) and len(threads()) == 1 else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_the_interpreter_ends_though_the_watch_does_not(tmp_path: Path) -> None:
    """Nobody has stopped it."""
    program = f"""if True:
        import anyio
        from pathlib import Path
        from litefs_watch.sources.shared_watch import SlowWatch
        async def main():
            place = anyio.Event()
            path = Path({str(tmp_path)!r})
            status = path.stat()
            watch = SlowWatch({{path: (status.st_dev, status.st_ino)}}, lambda *_: place.set(), print, print)
            watch.start()
            await place.wait()
        anyio.run(main)
        print("over")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=6 * SOON, check=True)
    assert (ended.stdout, ended.stderr) == ("over\n", "")
