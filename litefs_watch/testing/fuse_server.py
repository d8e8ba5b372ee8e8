"""A tiny FUSE file system over ``/dev/fuse``, a program of its own: ``fuse_server.py MOUNTPOINT CONTROL_FD [ASKING_FD]``.

A separate process, since a call that reaches the mount while it holds the GIL (as inotify libraries make them) would wait
for ever for a thread of its own process. And like LiteFS it can be killed, which leaves a mount that answers ENOTCONN. For
a quick start it imports nothing but the standard library.

The protocol is Linux's ``include/uapi/linux/fuse.h``, version 7.31. Files are never cached by the kernel, and it sees no
write to them: that is why inotify is silent here, exactly as on LiteFS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import socket
import stat
import struct
import sys
import time
from dataclasses import dataclass

_REQUEST = struct.Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
_REPLY = struct.Struct("<IiQ")  # len, error, unique
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<QQQQII")  # nodeid, generation, validity of the entry and of the attributes: none
_READ = struct.Struct("<QQI")  # fh, offset, size
_DIRENT = struct.Struct("<QQII")  # inode, offset of the next, length of the name, type


class Op:
    """The kernel's requests that are answered."""

    LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS = 1, 2, 3, 5, 14, 15, 17
    RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 25, 26, 27, 28, 29
    INTERRUPT, BATCH_FORGET = 36, 42


_NO_REPLY = frozenset((Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT))
# All others are answered with ENOSYS, which the kernel takes as 'never ask again' (xattrs, access, lseek, poll), but for
# what would change something: setattr, symlink, mknod, mkdir, unlink, rmdir, rename, link, write, create, fallocate, rename2
_CHANGES = frozenset((4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 43, 45))
_DIRECT_IO = 1  # FOPEN_DIRECT_IO: no page cache
_BUFFER = 8192  # FUSE_MIN_READ_BUFFER: the least that the kernel takes
_ROOT = 1
_HELD = frozenset((".primary", ".lag"))  # an open file of these keeps its first answer (bazil's HandleReadAller)

MS_NOSUID_NODEV = 2 | 4
MNT_DETACH = 2


def mount(point: str, descriptor: int) -> None:
    """mount(2) of a FUSE file system from source ``litefs``. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"litefs", os.fsencode(point), b"fuse", MS_NOSUID_NODEV, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}", point)


def unmount(point: str) -> bool:
    """umount2(2) with MNT_DETACH: whatever still uses the mount keeps it, out of sight. False where nothing is mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.umount2(os.fsencode(point), MNT_DETACH) == 0)


@dataclass
class File:
    """What is shown under a name: content, or where a symbolic link points, or the lag, which grows by itself."""

    content: bytes
    listed: bool = True
    link: bool = False
    since: float | None = None
    changed_at: float = 0.0

    def read(self) -> bytes:
        if self.since is None:
            return self.content
        return b"%+010d\n" % max(1, round((time.monotonic() - self.since) * 1000))


class FileSystem:
    """Answers the kernel's requests from a table of files."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._inodes: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._open: dict[int, bytes | None] = {}
        self._next_handle = 1

    def change(self, message: dict[str, object]) -> None:
        """Carry out a message of the node's."""
        name = str(message["name"])
        match message["do"]:
            case "show":
                content = str(message["content"]).encode("latin-1")
                self._files[name] = File(content, listed=bool(message["listed"]), changed_at=time.time())
            case "lag":
                since = message["since"]
                content = b"%+010d\n" % int(str(message["milliseconds"]))
                self._files[name] = File(content, since=since if isinstance(since, float) else None, changed_at=time.time())
            case "link":
                self._files[name] = File(os.fsencode(str(message["target"])), link=True, changed_at=time.time())
            case "hide":
                self._files.pop(name, None)

    def reads_position(self, request: bytes) -> bool:
        """Whether somebody begins to read a ``-pos``."""
        _, opcode, _, node, *_ = _REQUEST.unpack_from(request)
        if opcode != Op.READ or not self._names.get(node, "").endswith("-pos"):
            return False
        _, offset, _ = _READ.unpack_from(request, _REQUEST.size)
        return bool(offset == 0)

    def answer(self, request: bytes) -> bytes | None:
        """The reply to one request, None where none is due."""
        _, opcode, unique, node, *_ = _REQUEST.unpack_from(request)
        if opcode in _NO_REPLY:
            return None
        try:
            body, code = self._body(opcode, node, request[_REQUEST.size :]), 0
        except OSError as error:
            body, code = b"", -(error.errno or errno.EIO)
        return _REPLY.pack(_REPLY.size + len(body), code, unique) + body

    def _body(self, opcode: int, node: int, data: bytes) -> bytes:
        match opcode:
            case Op.INIT:  # our version, and no more than a page in a write
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 9, 4096, 1, 0, 0, 0)
            case Op.LOOKUP:
                name = os.fsdecode(data.rstrip(b"\0"))
                inode = self._inode(name)
                return _ENTRY.pack(inode, 0, 0, 0, 0, 0) + self._attributes(inode)
            case Op.GETATTR:
                return bytes(16) + self._attributes(node)
            case Op.READLINK:
                return self._file(node).content
            case Op.OPEN | Op.OPENDIR:
                if opcode == Op.OPEN:
                    self._file(node)
                handle, self._next_handle = self._next_handle, self._next_handle + 1
                self._open[handle] = None
                return struct.pack("<QIi", handle, _DIRECT_IO if opcode == Op.OPEN else 0, 0)
            case Op.READ:
                handle, offset, size = _READ.unpack_from(data)
                return self._read(node, handle)[offset : offset + size]
            case Op.READDIR:
                _, offset, size = _READ.unpack_from(data)
                return self._list(offset, size)
            case Op.RELEASE | Op.RELEASEDIR:
                self._open.pop(struct.unpack_from("<Q", data)[0], None)
                return b""
            case Op.FLUSH:
                return b""
            case Op.STATFS:
                return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        raise OSError(errno.EROFS if opcode in _CHANGES else errno.ENOSYS, "")

    def _inode(self, name: str) -> int:
        if name not in self._files:
            raise OSError(errno.ENOENT, "")
        inode = self._inodes.setdefault(name, len(self._inodes) + _ROOT + 1)
        self._names[inode] = name
        return inode

    def _file(self, inode: int) -> File:
        try:
            return self._files[self._names[inode]]
        except KeyError:
            raise OSError(errno.ENOENT, "") from None

    def _attributes(self, inode: int) -> bytes:
        if inode == _ROOT:
            size, changed_at, mode, links = 0, 0.0, stat.S_IFDIR | 0o777, 2
        else:
            file = self._file(inode)
            size, changed_at, links = len(file.read()), file.changed_at, 1
            mode = stat.S_IFLNK | 0o777 if file.link else stat.S_IFREG | 0o666
        seconds, nanoseconds = int(changed_at), int(changed_at % 1 * 1e9)
        times = (seconds,) * 3 + (nanoseconds,) * 3
        return _ATTRIBUTES.pack(inode, size, 0, *times, mode, links, 0, 0, 0, 4096, 0)

    def _read(self, inode: int, handle: int) -> bytes:
        content = self._open.get(handle)
        if content is None:
            content = self._file(inode).read()
            if self._names[inode] in _HELD:
                self._open[handle] = content
        return content

    def _list(self, offset: int, size: int) -> bytes:
        listed = [(name, self._inode(name), file) for name, file in self._files.items() if file.listed]
        entries = [(".", _ROOT, stat.S_IFDIR >> 12), ("..", _ROOT, stat.S_IFDIR >> 12)]
        entries += [(name, inode, (stat.S_IFLNK if file.link else stat.S_IFREG) >> 12) for name, inode, file in listed]
        reply = b""
        for index, (name, inode, kind) in enumerate(entries[offset:], offset + 1):
            raw = os.fsencode(name)
            entry = _DIRENT.pack(inode, index, len(raw), kind) + raw
            entry += bytes(-len(entry) % 8)
            if len(reply) + len(entry) > size:
                break
            reply += entry
        return reply


class Readers:
    """Those who read ``-pos`` wait until the node has looked for what was committed before.

    Each waits for a look that began after it came: whoever comes during one waits for the next.
    """

    def __init__(self, asking: socket.socket | None) -> None:
        self.asking = asking
        self._asked: list[bytes] = []
        self._next: list[bytes] = []
        self._looking = False

    def hold(self, files: FileSystem, request: bytes) -> bool:
        """Whether this request has to wait."""
        if self.asking is None or not files.reads_position(request):
            return False
        self._next.append(request)
        self._ask()
        return True

    def looked(self) -> list[bytes]:
        """The node has looked: those who need not wait any longer."""
        free, self._asked, self._looking = self._asked, [], False
        self._ask()
        return free

    def _ask(self) -> None:
        if self.asking is not None and self._next and not self._looking:
            self._asked, self._next, self._looking = self._next, [], True
            self.asking.send(b"?")


class Server:
    """Answers the kernel and the node, until it is told to stop, or the node's process is gone."""

    def __init__(self, point: str, device: int, control: socket.socket, asking: socket.socket | None) -> None:
        self._point = point
        self._device = device
        self._control = control
        self._files = FileSystem()
        self._readers = Readers(asking)
        self._frozen = False
        self._withheld: list[bytes] = []
        self._poll = select.poll()
        for descriptor in (control.fileno(), device, *([asking.fileno()] if asking else [])):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> None:
        """Raises `OSError` with ENODEV where somebody else has unmounted it."""
        going_on = True
        while going_on:
            ready = dict(self._poll.poll())
            if self._control.fileno() in ready:
                going_on = self._obey()
            elif self._device in ready:
                self._take()
            elif self._readers.asking is not None:
                going_on = self._let_read(self._readers.asking)

    def _obey(self) -> bool:
        message = self._control.recv(1 << 20)
        change = json.loads(message) if message else {"do": "stop"}
        if change["do"] == "stop":
            unmount(self._point)
            return False
        if change["do"] == "freeze":
            # Requests stay with the kernel, unread, as they do when LiteFS is stopped: so whoever waits can be killed.
            self._poll.unregister(self._device)
            self._frozen = True
        elif change["do"] == "thaw":
            self._poll.register(self._device, select.POLLIN)
            self._frozen = False
            for request in self._withheld:
                self._answer(request)
            self._withheld.clear()
        else:
            self._files.change(change)
        self._control.send(b"ok")
        return True

    def _take(self) -> None:
        try:
            request = os.read(self._device, _BUFFER)
        except (BlockingIOError, FileNotFoundError):
            return  # it was interrupted before it was read
        if not self._readers.hold(self._files, request):
            self._answer(request)

    def _let_read(self, asking: socket.socket) -> bool:
        if not asking.recv(1):
            unmount(self._point)  # the node's process is gone
            return False
        for request in self._readers.looked():
            if self._frozen:
                self._withheld.append(request)
            else:
                self._answer(request)
        return True

    def _answer(self, request: bytes) -> None:
        reply = self._files.answer(request)
        if reply is not None:
            with contextlib.suppress(FileNotFoundError):  # it was interrupted after it was read
                os.write(self._device, reply)


def main() -> None:
    point, *descriptors = sys.argv[1:]
    control, *asking = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        mount(point, device)
    except OSError as error:
        control.send(f"{error.strerror}".encode())
        raise SystemExit(1) from None
    control.send(b"ok")
    try:
        Server(point, device, control, asking[0] if asking else None).serve()
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


if __name__ == "__main__":
    main()
