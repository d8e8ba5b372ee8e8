"""The application's side of one lock: it asks the process that holds it (`holder`), and is rid of it again."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from litefs_watch.core.readings import Mount
from litefs_watch.errors import HaltError, HaltExpired, HaltTimeout
from litefs_watch.halt import holder
from litefs_watch.halt.launch import launch, socketpair, why_not
from litefs_watch.printable import safe
from litefs_watch.sources.directory import mount_kind

logger: logging.Logger = logging.getLogger("litefs_watch")

LIFETIME = 30.0  # seconds; LiteFS's DefaultHaltLockTTL (store.go)
ACQUIRE_LIMIT = 10.0  # seconds; LiteFS's DefaultHaltAcquireTimeout (store.go)
PARTING = 0.25  # seconds in which a lock that is no longer wanted may still be granted and released
RELEASE_LIMIT = 5.0  # seconds to hear that the lock is released: a frozen LiteFS must not hold the application
_GIVEN_UP = 9.5  # seconds after which LiteFS's EIO means that its 10 s are over; it says the same for every refusal
_END_LIMIT = 1.0  # seconds for a process to end that has nothing more to do
_GLANCE = 0.1  # seconds between two looks whether the process lives, while it says nothing
_RECEIVE_LIMIT = 4096  # bytes
_COMPLAINT_LIMIT = 300  # characters of what a process says that did not start: the end of it, where the reason stands


class Halt:
    """The HALT lock on one database, while it is held; what `halt` and `halted` give."""

    def __init__(self, database: str, *, forwarded: bool, ends: float) -> None:
        self.database = database
        self.forwarded = forwarded
        """Whether this is a replica, whose commits go to the primary. On the primary there is nothing to hold."""
        self._ends = ends

    @property
    def remaining(self) -> float:
        """Seconds until the lock expires, at least 0; infinite on the primary."""
        return max(0.0, self._ends - time.monotonic()) if self.forwarded else float("inf")


class HolderClient:
    """One lock: the process that holds it, at the other end of a socket.

    The calls block, but for `ask`, `abandon` and `drop`. One of them runs at a time, in whichever thread; those three come
    from any thread at any moment, also before there is a process.
    """

    def __init__(self, directory: Path, database: str, timeout: float) -> None:
        self._directory = directory
        self._database = database
        self._timeout = min(timeout, ACQUIRE_LIMIT)
        self._owner = os.getpid()
        self._turn = threading.Lock()
        self._abandoned = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._received = b""
        self._complaint = ""
        self._began = 0.0

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that has asked for the lock, and not a child that was forked inside the block."""
        return os.getpid() == self._owner

    def acquire(self) -> Halt:
        """Wait for the lock. Where it raises, all is tidied up."""
        with self._turn:
            try:
                return self._acquire()
            except BaseException:
                self.abandon()
                self._reap(PARTING)
                raise

    def _acquire(self) -> Halt:
        self._began = time.monotonic()
        self._check_mount()
        self._start()
        answer = self._next_word(self._began + self._timeout)
        if answer in (holder.HELD, holder.PRIMARY):
            return Halt(self._database, forwarded=answer == holder.HELD, ends=self._began + LIFETIME)
        took = time.monotonic() - self._began
        if answer is None or (answer == str(errno.EIO) and took > _GIVEN_UP):
            raise HaltTimeout(
                f"LiteFS did not grant the HALT lock on {self._database} within {took:.1f} s: another node or another call "
                "holds it, or a transaction is open on the primary"
            )
        raise HaltError(self._refusal(answer))

    def _check_mount(self) -> None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError as error:  # the table of descriptors is full, say
            raise HaltError(f"whether {self._directory} is a mount of LiteFS can't be told: {error}") from error
        if mount_kind(self._directory, mountinfo) is not Mount.LITEFS:
            raise HaltError(
                f"{self._directory} is not a mount of LiteFS, so there is no HALT lock: is LiteFS running, and is "
                "LITEFS_DIR its 'fuse.dir'? To develop without LiteFS, set LITEFS_STANDALONE=1"
            )

    def _start(self) -> None:
        if self._abandoned:  # before its turn came
            raise HaltError("the HALT lock is not wanted any more")
        try:
            self._socket, theirs = socketpair()  # first: whatever happens after it, the process can be told
            with theirs:
                self._process = launch(self._directory / f"{self._database}-lock", LIFETIME, theirs)
        except OSError as error:
            raise HaltError(why_not(error)) from error
        if self._abandoned:  # meanwhile, when there was no socket to say so
            self.abandon()

    def _refusal(self, answer: str) -> str:
        number = int(answer) if answer else 0
        if number == errno.ENOENT:
            return f"there is no database {self._database} in {self._directory}"
        if number == errno.EIO:
            return f"LiteFS refused the HALT lock on {self._database}: no primary is in reach; its log says more"
        if number:
            return f"LiteFS refused the HALT lock on {self._database}: {os.strerror(number)}"
        status = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = self._process.wait(_END_LIMIT)
        return f"the process that holds the HALT lock ended with status {status} before it had it{self._complained()}"

    def _complained(self) -> str:
        complaint = " ".join(self._complaint.split())
        return f": {safe(complaint)}" if complaint else ""

    def ask(self) -> None:
        """Have the lock released."""
        self._shut(socket.SHUT_WR)

    def abandon(self) -> None:
        """Never mind the lock: whoever waits for it returns, and it is released as soon as it is granted."""
        self._abandoned = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        # Not `close`: a forked child of the application has a copy of the descriptor.
        if self._socket is not None and self.is_ours:
            with suppress(OSError):  # the process has ended already
                self._socket.shutdown(how)

    def settle(self) -> None:
        """Tidy up what was abandoned: wait for an `acquire` that is still at work, and be rid of a lock that it has got."""
        with self._turn:
            self._reap(PARTING)

    def drop(self) -> None:
        """The same as far as it goes without waiting: in the end, whatever went wrong. Any thread may; nothing blocks."""
        self.abandon()
        if self.is_ours and self._turn.acquire(blocking=False):  # else it is tidied up where it is taken
            try:
                self._reap(0)
            finally:
                self._turn.release()

    def finish(self) -> None:
        """Wait for the release. Raises `HaltExpired` where the lock was gone before."""
        if not self.is_ours:
            return  # the lock is the parent's
        with self._turn:
            try:
                answer = self._next_word(time.monotonic() + RELEASE_LIMIT)
            finally:
                self._reap(_END_LIMIT)
        if answer is None:
            logger.warning(
                "LiteFS did not release the HALT lock on %s within %g s: the primary can't write for up to 35 s",
                self._database,
                RELEASE_LIMIT,
            )
        elif answer == holder.EXPIRED:
            raise HaltExpired(
                f"the HALT lock on {self._database} expired {LIFETIME:g} s after it had been asked for, and was needed for "
                f"{time.monotonic() - self._began:.1f} s: later writes failed. Do less at once, or promote this node"
            )
        elif answer != holder.RELEASED:
            what = "LiteFS was restarted, or the primary changed"
            if answer != holder.LOST:
                what = f"the process that held it was killed{self._complained()}"
            raise HaltExpired(f"the HALT lock on {self._database} was lost before its end: {what}. Later writes failed")

    def note(self, error: BaseException) -> None:
        """As `finish`, where an error ends the block: what would be raised becomes its note."""
        try:
            self.finish()
        except HaltExpired as expired:
            error.add_note(str(expired))

    def _next_word(self, deadline: float) -> str | None:
        """What the process says next; empty where it has ended, None where it says nothing until ``deadline``.

        It is looked for as well. A child that is forked while the process is started keeps the process's end of the socket
        for as long as it lives, and then the socket does not end with the process.
        """
        if self._socket is None or self._process is None:
            return ""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        ended = late = False
        while (word := self._received_word()) is None and not late:
            left = max(0.0, deadline - time.monotonic())
            late = left == 0  # a last look; also at one that never stops talking
            if poll.poll(0 if ended else min(left, _GLANCE) * 1000):
                data = self._receive(self._socket)
                if not data:
                    return ""
                self._received = (self._received + data)[-_RECEIVE_LIMIT:]
            elif ended:
                return ""
            else:
                ended = self._process.poll() is not None
        return word

    @staticmethod
    def _receive(ours: socket.socket) -> bytes:
        try:
            return ours.recv(_RECEIVE_LIMIT)
        except ConnectionError:  # the process was killed
            return b""

    def _received_word(self) -> str | None:
        """The next of the holder's words in what was received. Other lines are what Python complains of."""
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            word = line.decode(errors="replace")
            if word in holder.WORDS or word.isdecimal():
                return word
            self._complaint = f"{self._complaint} {word}"[-_COMPLAINT_LIMIT:]
        return None

    def _reap(self, patience: float) -> None:
        """Be rid of the process, which ends by itself: within ``patience`` seconds, or when LiteFS answers it."""
        if self._socket is not None:
            self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            with suppress(RuntimeError):  # no more threads: `subprocess` sees to it when it starts another
                threading.Thread(target=process.wait, name="litefs_watch halt", daemon=True).start()
