"""The slow watch: one thread of the process in watchfiles, over the folders of all who watch.

A thread in watchfiles costs 0.2 % of a core though nothing happens: fifty watchers would have fifty of them. What it asks at
each step, whether to stop, is where everything else is done: who joined is told that the watch is in place, or the watch is
begun anew with the folders of all, since watchfiles can add none; so joins within one step are one. Between the end of a
watch and the next one being in place an event may be lost: everybody is told to look again then.

A folder is watched through a descriptor of it, so that it is the one that was meant: not what has been mounted over it or
renamed to its name meanwhile. Above all not LiteFS's mount: inotify is silent there, and watchfiles would hold the GIL for
as long as a frozen one does not answer. The descriptor is opened without asking the file system (O_PATH), the kernel tells
on which mount it is, and whoever is on a FUSE is told that the folder is gone. It is closed as soon as the watch is in
place, since no mount ends while somebody has one of its folders open.

One of them must not harm the others. Where a folder is missing or unreadable its owner alone hears of it, and the rest is
watched. Where watchfiles fails for all, since inotify is used up, the newcomers go, and where there are none, all.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import watchfiles

from litefs_watch.sources.inotify import SLOW_STEP, Identity, Watch, start_thread

TIDY_AFTER = 10.0
"""Seconds for which folders that nobody needs any more may stay watched: to begin anew costs everybody a look."""
ROLL_CALL = 1.0
"""Seconds between two checks that the event loops of all are still there."""


class SlowWatch(Watch):
    """One's share in the one watch of the process."""

    def start(self) -> None:
        _shared.join(self)

    def stop(self) -> None:
        super().stop()
        _shared.leave(self)


class SharedWatch:
    """All who watch, and the thread that does. It ends with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[SlowWatch, None] = {}  # in the order in which they came
        self._newcomers: dict[SlowWatch, None] = {}  # those who have not been told that it is in place
        self._someone_left = False
        self._running = False
        # The thread's own:
        self._watched: dict[str, Identity] = {}  # by the path by which watchfiles knows it
        self._open: list[int] = []  # descriptors of those, until the watch is in place
        self._in_place = False
        self._tidy_at = self._roll_call_at = float("inf")

    def join(self, member: SlowWatch) -> None:
        """Raises `RuntimeError` where no thread is to be had."""
        with self._lock:
            self._members[member] = self._newcomers[member] = None
            if self._running:
                return
            try:
                start_thread(SLOW_STEP, self._run, self._end)
            except BaseException:
                self._remove(member)
                raise
            self._running = True

    def leave(self, member: SlowWatch) -> None:
        """Who is not in it, has left."""
        with self._lock:
            self._remove(member)

    def _end(self) -> None:
        for member in self._everybody():
            self.leave(member)

    def _remove(self, member: SlowWatch) -> None:
        self._members.pop(member, None)
        self._newcomers.pop(member, None)
        self._someone_left = True

    def _everybody(self) -> list[SlowWatch]:
        with self._lock:
            return list(self._members)

    # In the thread.

    def _run(self) -> None:
        try:
            while members := self._begin():
                try:
                    self._watch(members)
                except BaseException as error:  # noqa: BLE001 - OSError, watchfiles' own RuntimeError, its Rust's panic
                    self._part_with(self._newcomers_of(members) or members, f"watchfiles: {error}")
        except BaseException as error:  # noqa: BLE001 - a fault of ours: who joins from now on has a new thread
            with self._lock:
                self._close()
                members, self._running = list(self._members), False
                self._members, self._newcomers = {}, {}
            for member in members:
                member.failed(f"the shared watch: {error!r}")

    def _begin(self) -> list[SlowWatch]:
        """Who is to be watched for now, with their folders open. Nobody: the thread ends."""
        self._close()
        self._watched, self._in_place, self._tidy_at, self._roll_call_at = {}, False, float("inf"), 0.0
        opened: dict[Identity, str] = {}
        while True:
            for member in self._everybody():
                member.begin_anew()
                try:
                    self._open_all(member.folders, opened)
                except _ElsewhereError:
                    self.leave(member)
                    member.changed(gone=True)
                except OSError as error:
                    self._part_with([member], str(error))
            self._watched = {path: identity for identity, path in opened.items()}
            with self._lock:
                members = list(self._members)
                if not members:
                    self._close()  # here: from then on there may be another thread, with descriptors of its own
                self._running = bool(members)
                if all(set(opened).issuperset(member.folders.values()) for member in members):
                    return members

    def _open_all(self, folders: dict[str, Identity], opened: dict[Identity, str]) -> None:
        for folder, identity in folders.items():
            if identity not in opened:
                descriptor = _open(folder)
                self._open.append(descriptor)
                _check(descriptor, identity)
                opened[identity] = _by_descriptor(descriptor)

    def _close(self) -> None:
        while self._open:
            with suppress(OSError):
                os.close(self._open.pop())

    def _watch(self, members: list[SlowWatch]) -> None:
        """Until it has to be begun anew."""
        stop = _Stop(self, members)
        for changes in watchfiles.watch(
            *self._watched,
            watch_filter=None,
            step=SLOW_STEP,
            debounce=4 * SLOW_STEP,  # under steady traffic there never are two steps without news
            rust_timeout=0,  # none: with one, an event may be lost
            stop_event=stop,
            recursive=False,
            force_polling=False,
            raise_interrupt=False,
        ):
            self._tell(changes)
        if not stop.stopped:
            raise RuntimeError("it ended by itself")

    def step(self, members: list[SlowWatch]) -> bool:
        """Whether to begin anew with the folders of all."""
        if not self._in_place:  # watchfiles asks for the first time: from here on nothing is missed
            self._close()
            self._in_place = True
            self._welcome(members)  # nobody who has come since: his folders may be in no watch yet
        now = time.monotonic()
        if now >= self._roll_call_at:
            self._roll_call_at = now + ROLL_CALL
            for member in self._everybody():
                if member.over:  # its loop was closed, and nobody stopped it
                    self.leave(member)
        return self._consider_members(now) or now >= self._tidy_at

    def _consider_members(self, now: float) -> bool:
        """Whether somebody has come whose folders are not watched, or nobody is left."""
        with self._lock:
            members, newcomers = list(self._members), list(self._newcomers)
            changed, self._someone_left = self._someone_left or bool(newcomers), False
        if not changed:
            return False
        watched = set(self._watched.values())
        if not members or any(not watched.issuperset(member.folders.values()) for member in newcomers):
            return True
        self._welcome(newcomers)
        needed = {identity for member in members for identity in member.folders.values()}
        self._tidy_at = float("inf") if needed.issuperset(watched) else min(self._tidy_at, now + TIDY_AFTER)
        return False

    def _welcome(self, members: Iterable[SlowWatch]) -> None:
        """The watch is in place: what was before is found by looking."""
        for member in members:
            with self._lock:
                self._newcomers.pop(member, None)
            member.changed()

    def _tell(self, changes: Iterable[tuple[watchfiles.Change, str]]) -> None:
        news: defaultdict[Identity, list[str]] = defaultdict(list)
        gone: set[Identity] = set()
        for change, path in changes:
            folder, name = os.path.split(path)
            if folder in self._watched:
                news[self._watched[folder]].append(name)
            elif path in self._watched and change is watchfiles.Change.deleted:
                gone.add(self._watched[path])
        self._watched = {path: identity for path, identity in self._watched.items() if identity not in gone}
        for member in self._everybody():
            paths = [os.path.join(path, name) for path, own in member.folders.items() for name in news.get(own, ())]
            lost = not gone.isdisjoint(member.folders.values())
            if paths or lost:
                member.changed(paths, gone=lost)

    def _newcomers_of(self, members: list[SlowWatch]) -> list[SlowWatch]:
        with self._lock:
            return [member for member in members if member in self._newcomers]

    def _part_with(self, members: list[SlowWatch], reason: str) -> None:
        for member in members:
            self.leave(member)
            member.failed(reason)


class _Stop:
    """What watchfiles takes for an event that says 'stop'. It asks after each step: the watch is in place by then."""

    def __init__(self, shared: SharedWatch, members: list[SlowWatch]) -> None:
        self._shared = shared
        self._members = members
        self.stopped = False

    def is_set(self) -> bool:
        self.stopped = self._shared.step(self._members)
        return self.stopped


class _ElsewhereError(Exception):
    """The folder is not there, is another one, or is on a FUSE."""


def can_share(folders: Iterable[Path]) -> bool:
    """Whether none is on a FUSE, as far as that can be told: its watch's being put in place might hold up all. Blocking."""
    if not hasattr(os, "O_PATH"):
        return False
    for folder in folders:
        try:
            descriptor = _open(str(folder))
        except (_ElsewhereError, OSError):
            continue  # its owner is told
        try:
            if _file_system(descriptor).startswith("fuse"):
                return False
        except _ElsewhereError:
            continue
        except OSError:  # no /proc
            return False
        finally:
            os.close(descriptor)
    return True


def _open(folder: str) -> int:
    """A descriptor of a folder. Its file system is not asked: a frozen one would not answer."""
    try:
        return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _ElsewhereError from error


def _by_descriptor(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _check(descriptor: int, identity: Identity) -> None:
    """Raise `_ElsewhereError` unless it is that folder, on no FUSE, and `OSError` where it can't be read."""
    if _file_system(descriptor).startswith("fuse"):
        raise _ElsewhereError
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != identity:
        raise _ElsewhereError
    os.close(os.open(_by_descriptor(descriptor), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _file_system(descriptor: int) -> str:
    """The type of the mount that it is on (proc(5)). Raises `OSError` where that is not told."""
    (mount,) = (
        line.split()[1]
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        if line.startswith("mnt_id:")
    )
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ", 1)[0] == mount:
            return after.split(" ", 1)[0]
    raise _ElsewhereError  # unmounted meanwhile


_shared = SharedWatch()


def _after_fork() -> None:
    """The child has none of the parent's threads, and one of them may have held the lock. No mount ends while it has one of
    its folders open."""
    global _shared
    _shared._close()
    _shared = SharedWatch()


os.register_at_fork(after_in_child=_after_fork)
