"""One look at ``litefs_dir``: blocking calls, made off the event loop's thread. A frozen LiteFS blocks each of them."""

from __future__ import annotations

import errno
import os
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from litefs_watch.core.readings import DirectoryRead, Mount, Named, PositionsRead
from litefs_watch.errors import WireError
from litefs_watch.position import Position
from litefs_watch.sources.wire import parse_lag, parse_primary

T = TypeVar("T")

# What the mount of a LiteFS that has died answers (ENOTCONN), and what stands in for it on other ways to die.
_DEAD = frozenset((errno.ENOTCONN, errno.ENODEV, errno.ESTALE, errno.ENOENT, errno.ENOTDIR))
RECHECK_INTERVAL = 10.0
"""Seconds after which the list of all mounts is read though the directory's device is the same one."""
_READ_LIMIT = 512  # bytes; LiteFS's longest is a hostname and a newline
_LINKS = 40  # that lead to one another; Linux's limit
_OCTAL = re.compile(r"\\([0-7]{3})")


def mount_kind(directory: Path, mountinfo: str) -> Mount:
    """LITEFS where ``directory`` is in a mount of type ``fuse`` from source ``litefs``, else ORDINARY.

    ``mountinfo`` is the text of ``/proc/self/mountinfo`` (proc(5)): the mount that is nearest counts, and of two on one
    place the later. A link is followed. The directory itself is not asked: a frozen LiteFS would not answer.
    """
    path = _resolve(directory)
    nearest, kind = "", Mount.ORDINARY
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, _, rest) = before.split(" "), after.partition(" ")
        if len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(nearest):
            source = rest.split(" ", 1)[0]
            nearest = point
            kind = Mount.LITEFS if fstype.split(".")[0] == "fuse" and source == "litefs" else Mount.ORDINARY
    return kind


def _resolve(path: Path) -> str:
    """As `os.path.realpath`, but no ``stat`` of the directory itself, which goes to the file system that is mounted there.

    ``readlink`` does not: that it is no link is known without (EINVAL).
    """
    resolved = os.path.join(os.getcwd(), path)
    for _ in range(_LINKS):
        parent, name = os.path.split(resolved.rstrip("/"))
        if name in ("", ".", ".."):
            return os.path.realpath(resolved)
        resolved = os.path.join(os.path.realpath(parent), name)
        try:
            target = os.readlink(resolved)
        except OSError:
            break
        resolved = os.path.join(os.path.dirname(resolved), target)
    return resolved


def current_mount_kind(directory: Path) -> Mount:
    """The kind of mount at ``directory`` now; ORDINARY where there is no ``/proc``, or none for us.

    Raises `OSError` where it can't be read now: no descriptor is to be had, say.
    """
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Mount.ORDINARY
    return mount_kind(directory, mountinfo)


def litefs_mounts() -> list[str]:
    """Where LiteFS is mounted on this machine."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return []
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[:2] == ["fuse", "litefs"]:
            found.append(before.split(" ")[4])
    return found


class Directory:
    """Reads the files that LiteFS shows. Each file is opened anew: a held descriptor keeps its first answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered_at: float = float("-inf")
        """When a file last answered, on the clock of `time.monotonic`: a look at many of them takes its time."""
        self.mounts: list[str] = []
        """Where LiteFS is mounted, if not here: as of the last look at the list of mounts."""
        self._device = -1
        self._kind = Mount.ORDINARY
        self._recheck_at = 0.0
        self._listed: set[str] = set()
        self._listed_at = float("-inf")

    def look(self, databases: Iterable[str]) -> DirectoryRead:
        """Everything: the mount, ``.primary``, ``.lag``, and each ``-pos`` that is listed or belongs to ``databases``.

        Those are asked for by name since LiteFS does not list a dropped database, whose ``-pos`` stays.
        """
        return self.begin_look(databases)[0]

    def begin_look(
        self,
        first: Iterable[str],
        known: Iterable[str] = (),
        *,
        left: list[str] | None = None,
        start: str = "",
        within: float = float("inf"),
        listing_age: float = 0.0,
    ) -> tuple[DirectoryRead, list[str]]:
        """`look`, for not much longer than ``within`` seconds. Returns also the databases that it did not come to.

        With what an earlier one has ``left``, it goes on there, and lists nothing; nor where the last listing is not older
        than ``listing_age`` seconds. Else:

        The databases ``first`` are read whatever it takes; of the others, which are listed or ``known``, at least one, in
        the order of their names, from ``start`` on and around. Without ``.lag`` all: the role rests on them then.
        """
        began = time.monotonic()
        faults: dict[str, str] = {}
        first = set(first)
        mount = self._kind
        try:
            mount = self._mount(began)
            others = self._in_turn(first, known, start, began - listing_age) if left is None else left
        except OSError as error:
            others = sorted(set(known) - first)
            faults["."] = f"{self.path}: {error.strerror}"
            if error.errno in _DEAD:
                return DirectoryRead(began, Mount.AWAY, faults=faults), []
        primary = self._read(".primary", lambda raw: Named(parse_primary(raw)), faults)
        lag = self._read(".lag", parse_lag, faults)
        until = began + within if lag is not None else float("inf")
        positions, left = self._positions(first, others, until, faults)
        return DirectoryRead(began, mount, primary, lag, positions, faults), left

    def _in_turn(self, first: set[str], known: Iterable[str], start: str, since: float) -> list[str]:
        """What else is listed or known, in the order of the names, from ``start`` on and around."""
        if self._listed_at < since:
            now = time.monotonic()
            self._listed = {name[:-4] for name in os.listdir(self.path) if name.endswith("-pos") and name != "-pos"}
            self._listed_at = now
        names = sorted(self._listed.union(known) - first)
        turn = bisect_left(names, start)
        return names[turn:] + names[:turn]

    def _mount(self, now: float) -> Mount:
        """The kind of mount. The list of all mounts is read where the directory's device is another one, and now and then.

        Raises `OSError` where nothing usable is there.
        """
        device = os.stat(self.path).st_dev
        if device != self._device or now >= self._recheck_at:
            self._device, self._kind, self._recheck_at = device, current_mount_kind(self.path), now + RECHECK_INTERVAL
            self._listed_at = float("-inf")
            self.mounts = [] if self._kind is Mount.LITEFS else litefs_mounts()
        return self._kind

    def positions(self, databases: Iterable[str]) -> tuple[PositionsRead, dict[str, str]]:
        """Some databases' positions, then ``.primary``, and what was wrong with the others' files, by file name."""
        read, faults, _ = self.go_on(databases, [], within=0, named=True)
        return read, faults

    def go_on(
        self, first: Iterable[str], left: list[str], *, within: float, named: bool = False
    ) -> tuple[PositionsRead, dict[str, str], list[str]]:
        """`positions` of ``first``, and then of what a look has ``left``, for not much longer than ``within`` seconds; with
        ``named`` then ``.primary``: where that is absent still, the positions are of the history that the role is of.

        Returns also what is still left.
        """
        began = time.monotonic()
        faults: dict[str, str] = {}
        positions, left = self._positions(first, left, began + within, faults)
        primary = self._read(".primary", lambda raw: Named(parse_primary(raw)), faults) if named else None
        return PositionsRead(began, positions, primary), faults, left

    def _positions(
        self, first: Iterable[str], others: list[str], until: float, faults: dict[str, str]
    ) -> tuple[dict[str, Position], list[str]]:
        found = {database: self._position(database, faults) for database in first}
        left = iter(others)
        for database in left:
            found[database] = self._position(database, faults)
            if time.monotonic() >= until:
                break
        return {name: position for name, position in found.items() if position is not None}, list(left)

    def _position(self, database: str, faults: dict[str, str]) -> Position | None:
        return self._read(f"{database}-pos", Position.parse, faults)

    def _read(self, name: str, parse: Callable[[bytes], T], faults: dict[str, str]) -> T | None:
        """What the file says; None where it is absent, or unreadable, which is noted in ``faults``."""
        try:
            # Non-blocking, so that a FIFO of that name can't hold the thread.
            descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                raw = os.read(descriptor, _READ_LIMIT)
            finally:
                os.close(descriptor)
            self.answered_at = time.monotonic()
            return parse(raw)
        except FileNotFoundError:
            self.answered_at = time.monotonic()
        except OSError as error:
            faults[name] = f"{_printable(name)}: {error.strerror}"
        except WireError as error:
            faults[name] = f"{_printable(name)}: {error}"
        return None


def _printable(name: str) -> str:
    """A file's name for a message: whoever made the file must not write the log."""
    return name if name.isprintable() else ascii(name)
