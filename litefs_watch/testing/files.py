"""What LiteFS shows in its mount.

Two things can stand in for the mount: `OrdinaryDirectory`, in which each file is replaced whole, and
`litefs_watch.testing.fuse.FuseMount`, on which inotify is as silent as on LiteFS itself. The node talks to both in the same
words, the `Mount` protocol.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from litefs_watch.position import Position

LAG_UNKNOWN_MS = 2**31 - 1
"""Milliseconds in ``.lag`` before the first replication, and right after a demotion (LiteFS's ``fuse/lag_node.go``)."""
DROPPED_CHECKSUM = 1 << 63
"""The checksum of a database that was dropped: LiteFS's ``ltx.ChecksumFlag`` and nothing else."""


def position_text(position: Position) -> bytes:
    """The 34 bytes of ``DB-pos``."""
    return f"{position}\n".encode()


def primary_text(hostname: str) -> bytes:
    """The bytes of ``.primary``: just a newline where the primary has no name."""
    return f"{hostname}\n".encode()


def lag_text(milliseconds: int) -> bytes:
    """The 11 bytes of ``.lag``."""
    return b"%+010d\n" % milliseconds


def empty_database() -> bytes:
    """The bytes of an SQLite database of one page and no tables."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA user_version = 0")
        return connection.serialize()


class Mount(Protocol):
    """What stands in for LiteFS's mount."""

    before_read: Callable[[], object] | None
    """Called, without a lock, before ``-pos`` is read, where the mount is able to notice that; set before the start."""

    def start(self) -> None: ...

    def show(self, name: str, content: bytes, *, listed: bool = True) -> None:
        """There is a file of this name and content, from before this returns.

        With ``listed=False`` the directory does not show it, where the mount is able to do that; it can be opened.
        """

    def show_lag(self, milliseconds: int, since: float | None) -> None:
        """``.lag`` is that many milliseconds; it grows from ``since`` on (seconds, monotonic clock) unless that is None."""

    def link(self, name: str, target: Path) -> None:
        """The SQLite database of this name is at ``target``."""

    def hide(self, name: str) -> None:
        """There is no file of this name. No error where there was none."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def stop(self) -> None:
        """A clean stop: an empty ordinary directory stays."""

    def kill(self) -> None:
        """What SIGKILL leaves behind."""


class Staging:
    """Puts whole files into other directories of the same disk: whoever watches those sees one rename for each."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)

    def start(self) -> None:
        os.makedirs(self._directory, exist_ok=True)

    def place(self, target: str, content: bytes) -> None:
        """Make ``target`` a file with this content, in one step for whoever reads it."""
        following = f"{self._directory}/next"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            descriptor = os.open(following, flags, 0o644)
        except FileNotFoundError:  # the process is down, and something happens on its disk
            self.start()
            descriptor = os.open(following, flags, 0o644)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        os.replace(following, target)

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def temporary_directory() -> Path:
    """A new directory in memory where there is ``/dev/shm``, unless ``TMPDIR`` says otherwise.

    On ext4 a rename over an existing file writes the new one to the disk first ('auto_da_alloc'): 170 us instead of 20, in
    each commit.
    """
    memory = "/dev/shm"  # noqa: S108 - mkdtemp makes a private directory in it
    usable = "TMPDIR" not in os.environ and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="litefs-watch-", dir=memory if usable else None))


class OrdinaryDirectory:
    """A plain directory with LiteFS's files in it. Each is replaced whole, so no reader sees half of one."""

    def __init__(self, directory: Path, staging: Staging) -> None:
        self._directory = directory
        self._staging = staging
        self._shown: dict[str, bytes] = {}
        self.before_read: Callable[[], object] | None = None  # nothing notices a read here

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)

    def show(self, name: str, content: bytes, *, listed: bool = True) -> None:
        if self._shown.get(name) != content:
            self._staging.place(f"{self._directory}/{name}", content)
            self._shown[name] = content

    def show_lag(self, milliseconds: int, since: float | None) -> None:
        self.show(".lag", lag_text(milliseconds))

    def link(self, name: str, target: Path) -> None:
        self.hide(name)
        (self._directory / name).symlink_to(target)
        self._shown[name] = b""

    def hide(self, name: str) -> None:
        self._shown.pop(name, None)
        (self._directory / name).unlink(missing_ok=True)

    def freeze(self) -> None:
        """Nothing: the node itself changes no file while it is frozen."""

    def thaw(self) -> None:
        """Nothing, as for `freeze`."""

    def stop(self) -> None:
        # LiteFS's mount is gone at once. Here nobody shall meet a position without '.primary' and take it for a primary's.
        for name in [*(self._shown.keys() - {".primary", ".lag"}), ".primary", ".lag"]:
            self.hide(name)

    def kill(self) -> None:
        """Nothing: a dead process's files stay as they are."""
