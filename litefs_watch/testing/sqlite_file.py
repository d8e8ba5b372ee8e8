"""Puts another content into an SQLite database that applications have open, as LiteFS does on a replica.

Under the locks of SQLite itself (https://sqlite.org/lockingv3.html, https://sqlite.org/walformat.html), so that every reader
sees either the old content or the new one, and an open read transaction keeps the new one away: that is why it stops
replication on LiteFS. The locks belong to the open file and not to the process (``F_OFD_SETLK``), hence they also hold
against connections in this process.

A database whose 'file format write version' is above 2 is read-only for every SQLite in the world
(https://sqlite.org/fileformat2.html, 1.3.3): so a replica answers a write with LiteFS's own error, 'attempt to write a
readonly database', whatever library, ORM or process it comes from. ``BEGIN IMMEDIATE`` alone begins a read, as on LiteFS, in
a connection that has read the header; as the very first statement it fails, as it does not on LiteFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_ALL_LOCKS = (0x40000000, 512)  # first byte and length: PENDING, RESERVED, and all the places of SHARED
_ALL_WAL_LOCKS = (120, 8)  # in the -shm file: WRITE, CKPT, RECOVER and five READ locks
_RESERVED = (0x40000001, 1)  # whoever writes has it, with a rollback journal
_WAL_WRITE = (120, 1)  # the same, with a WAL
_WRITE_VERSION, _READ_VERSION = 18, 19  # offsets in the header: 1 for a rollback journal, 2 for WAL
_WAL = 2
_READ_ONLY = 3
_CHANGE_COUNTER, _VERSION_VALID_FOR = 24, 92  # offsets in the header; equal, and another number for each content
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, process

_INDEX_HEADER = struct.Struct("=IIIBBH8I")  # the WAL index's header, twice at the start of the -shm file
_INDEX_VERSION = 3007000
_INDEX_CHECKPOINT = struct.pack("=6I8x2I", 0, 0, *[0xFFFFFFFF] * 4, 0, 0)  # nothing to copy back, no reader in the WAL


def page_count(image: bytes) -> int:
    """The size of a database in its own pages."""
    size = int.from_bytes(image[16:18], "big")
    return len(image) // (65536 if size == 1 else size)


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two databases differ in nothing but what `DatabaseFile` writes into their headers."""
    return _without_marks(one) == _without_marks(other)


def _without_marks(image: bytes) -> bytes:
    marks = ((_WRITE_VERSION, 1), (_CHANGE_COUNTER, 4), (_VERSION_VALID_FOR, 4))
    content = bytearray(image)
    for offset, length in marks:
        content[offset : offset + length] = bytes(length)
    return bytes(content)


class DatabaseFile:
    """One SQLite file that can be given another content."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        # Closing any descriptor of a file drops all locks that the process holds on it, SQLite's too: so these stay open.
        self._descriptor = -1
        self._index = -1

    def replace(self, image: bytes, *, read_only: bool) -> bool:
        """Make ``image`` the database, at once for every new transaction. False, and no change, while one is open."""
        return self._change(lambda: image, read_only)

    def mark(self, *, read_only: bool) -> bool:
        """Leave the content, and forbid or allow to write. False, and no change, while a transaction is open.

        Also False while there is something in the WAL: checkpoint it first. True, and no change, where it is so already.
        """
        if (os.pread(self._open(), 1, _WRITE_VERSION) == bytes([_READ_ONLY])) == read_only:
            return True
        return self._change(self._content, read_only)

    def hold_writers(self) -> bool:
        """Keep everybody from writing until `release_writers`; readers go on. False, and no change, while one writes."""
        # In WAL mode the index is there while a connection is; whoever opens the first one later needs the file's own lock.
        if not _lock(self._open(), _RESERVED):
            return False
        if self._open_index() and not _lock(self._index, _WAL_WRITE):
            _unlock(self._descriptor, _RESERVED)
            return False
        return True

    def release_writers(self) -> None:
        """End `hold_writers`."""
        for descriptor, place in ((self._descriptor, _RESERVED), (self._index, _WAL_WRITE)):
            if descriptor >= 0:
                _unlock(descriptor, place)

    def _change(self, content: Callable[[], bytes | None], read_only: bool) -> bool:
        with _locked(self._open(), _ALL_LOCKS) as alone:
            if alone:
                image = content()
                if image is not None:
                    for suffix in ("-wal", "-shm", "-journal"):  # nobody has it open: of a process that died
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(self._path + suffix)
                    self._write(image, read_only)
                return image is not None
        # In WAL mode a connection keeps its SHARED lock for good; its transactions show in the locks on the WAL's index.
        if os.pread(self._descriptor, 1, _READ_VERSION) != bytes([_WAL]) or not self._open_index():
            return False
        with _locked(self._index, _ALL_WAL_LOCKS) as alone:
            image = content() if alone else None
            if image is None or image[_READ_VERSION] != _WAL:
                return False
            self._write(image, read_only)
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self._path + "-wal", 0)
            self._write_index(page_count(image), image[16:18])
            return True

    def _open(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return self._descriptor

    def _content(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path + "-wal").st_size:
                return None
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def close(self) -> None:
        """Let go of the file. Connections of this process that are in a transaction lose their locks by it."""
        for descriptor in (self._descriptor, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._index = -1

    def _write(self, image: bytes, read_only: bool) -> None:
        content = bytearray(image)
        content[_WRITE_VERSION] = _READ_ONLY if read_only else content[_READ_VERSION]
        # Connections keep their page cache as long as this number is the same.
        counter = int.from_bytes(os.pread(self._descriptor, 4, _CHANGE_COUNTER), "big") + 1 & 0xFFFFFFFF
        for offset in (_CHANGE_COUNTER, _VERSION_VALID_FOR):
            content[offset : offset + 4] = counter.to_bytes(4, "big")
        written = 0
        while written < len(content):
            written += os.pwrite(self._descriptor, memoryview(content)[written:], written)
        os.ftruncate(self._descriptor, len(content))

    def _open_index(self) -> bool:
        """Open the -shm file, which SQLite removes with the last connection and makes anew with the next."""
        try:
            now = os.stat(self._path + "-shm")
        except FileNotFoundError:
            return False
        if self._index >= 0:
            if os.path.samestat(os.fstat(self._index), now):
                return True
            os.close(self._index)
            self._index = -1
        with contextlib.suppress(FileNotFoundError):
            self._index = os.open(self._path + "-shm", os.O_RDWR | os.O_CLOEXEC)
        return self._index >= 0

    def _write_index(self, pages: int, page_size: bytes) -> None:
        """Say that the WAL is empty, and that something has changed: connections drop their page cache."""
        previous = os.pread(self._index, _INDEX_HEADER.size, 0).ljust(_INDEX_HEADER.size, b"\0")
        fields = _INDEX_HEADER.unpack(previous)
        change, big_endian, salt = fields[2] + 1 & 0xFFFFFFFF, fields[4], fields[10:12]
        size = int.from_bytes(page_size, "big")
        header = _INDEX_HEADER.pack(_INDEX_VERSION, 0, change, 1, big_endian, size, 0, pages, 0, 0, *salt, 0, 0)
        first = second = 0
        words = struct.unpack("=10I", header[:40])
        for even, odd in zip(words[::2], words[1::2], strict=True):
            first = first + even + second & 0xFFFFFFFF
            second = second + odd + first & 0xFFFFFFFF
        header = header[:40] + struct.pack("=2I", first, second)
        os.pwrite(self._index, header + header + _INDEX_CHECKPOINT, 0)


@contextlib.contextmanager
def _locked(descriptor: int, place: tuple[int, int]) -> Iterator[bool]:
    """Whether these bytes of the file could be locked at once, against everybody; released at the end."""
    locked = _lock(descriptor, place)
    try:
        yield locked
    finally:
        if locked:
            _unlock(descriptor, place)


def _lock(descriptor: int, place: tuple[int, int]) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *place, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(descriptor: int, place: tuple[int, int]) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, *place, 0))
