"""LiteFS's mount as a real FUSE file system: inotify is silent on it, reads block while it is frozen, and it can die.

It covers what LiteFS itself shows: ``-pos``, ``.primary``, ``.lag`` and ``-lock``, read through the kernel. A database is a
symbolic link to its ordinary file, so SQLite works on it at full speed, and its own files lie beside its target.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from litefs_watch.testing import fuse_server

_ANSWER_TIMEOUT = 10.0  # seconds; an answer takes 0.1 ms, the start 50 ms


@functools.cache
def fuse_available() -> str | None:
    """None where a FUSE file system can be mounted here, else the reason why not. Tries it, once in a process."""
    if not sys.platform.startswith("linux"):
        return f"FUSE in litefs_watch.testing needs Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "mounting FUSE needs root"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    with tempfile.TemporaryDirectory(prefix="litefs-watch-") as directory:
        mount = FuseMount(Path(directory) / "litefs")
        try:
            mount.start()
        except RuntimeError as error:
            return str(error)
        finally:
            mount.stop()
    return None


class FuseMount:
    """A mount of type ``fuse`` from source ``litefs``, served by a process of its own. Calls come one at a time."""

    def __init__(self, point: Path) -> None:
        self.before_read: Callable[[], object] | None = None
        self._point = str(point)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reading: threading.Thread | None = None

    def start(self) -> None:
        """Mount. Raises `RuntimeError` where that can't be done."""
        self._unmount_dead()
        Path(self._point).mkdir(parents=True, exist_ok=True)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_TIMEOUT)
        with contextlib.ExitStack() as passed:
            passed.enter_context(theirs)
            descriptors = [theirs.fileno()]
            if self.before_read is not None:
                ours, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                passed.enter_context(asking)
                descriptors.append(asking.fileno())
                self._reading = threading.Thread(
                    target=self._answer_readers, args=(ours, self.before_read), name="litefs_watch FUSE reads", daemon=True
                )
                self._reading.start()
            # Its own session: Ctrl-C is for the test, which then unmounts in its own time.
            self._process = subprocess.Popen(  # noqa: S603 - a file of this package
                [sys.executable, "-I", "-S", fuse_server.__file__, self._point, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self._await_ok("mount FUSE")
        except RuntimeError:
            self._end()
            raise

    @staticmethod
    def _answer_readers(asked: socket.socket, before_read: Callable[[], object]) -> None:
        """Somebody reads ``-pos``, and waits until this has been done. Ends when the file system has."""
        with asked, contextlib.suppress(ConnectionError):
            while asked.recv(1):
                before_read()
                asked.send(b"!")

    def show(self, name: str, content: bytes, *, listed: bool = True) -> None:
        self._tell("show", name, content=content.decode("latin-1"), listed=listed)

    def show_lag(self, milliseconds: int, since: float | None) -> None:
        self._tell("lag", ".lag", milliseconds=milliseconds, since=since)

    def link(self, name: str, target: Path) -> None:
        self._tell("link", name, target=str(target))

    def hide(self, name: str) -> None:
        self._tell("hide", name)

    def freeze(self) -> None:
        self._tell("freeze")

    def thaw(self) -> None:
        self._tell("thaw")

    def stop(self) -> None:
        """Unmount, frozen or dead or not. Whoever is blocked in a read gets an error."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(json.dumps({"do": "stop"}).encode())
            self._end(patience=_ANSWER_TIMEOUT)
        self._unmount_dead()

    def kill(self) -> None:
        """SIGKILL the file system: the mount stays, and answers ENOTCONN."""
        self._end()

    def _tell(self, what: str, name: str = "", **details: object) -> None:
        if self._control is None:
            raise RuntimeError(f"nothing serves {self._point}: the simulated FUSE file system is not running")
        self._control.send(json.dumps({"do": what, "name": name, **details}).encode())
        self._await_ok(what)

    def _await_ok(self, what: str) -> None:
        if self._control is None:
            return
        try:
            answer = self._control.recv(4096)
        except TimeoutError:
            answer = b"no answer from the file system's process"
        except ConnectionError as error:
            answer = str(error).encode()
        if answer != b"ok":
            raise RuntimeError(
                f"the simulated FUSE file system can't {what} at {self._point}: {answer.decode() or 'its process has died'}"
            )

    def _end(self, patience: float = 0.0) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            process.kill()
            process.wait()
        if self._control is not None:
            self._control.close()
            self._control = None
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.join()

    def _unmount_dead(self) -> None:
        """Take away what a killed file system left. Twice on the same place is possible, so until nothing is left."""
        while _is_mounted(self._point) and fuse_server.unmount(self._point):
            pass


def _is_mounted(point: str) -> bool:
    """Whether a FUSE file system from ``litefs`` is mounted here. Asks the mount itself nothing: it may be frozen."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    except OSError:
        return False
    escaped = point.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.startswith(f"litefs {escaped} fuse ") for line in mounts.splitlines())
