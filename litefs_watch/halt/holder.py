"""The program that holds one HALT lock: ``python -I -S holder.py FILE SECONDS PID PIDFD``.

Its standard input is a socket whose other end is the application's. It says a word a line there: `HELD` or `PRIMARY` when
LiteFS has answered, or the number of LiteFS's error; and `RELEASED`, `LOST` or `EXPIRED` at its end. It is told one thing
only, that there is nothing more to read: this is how the application asks for the release.

Why a process of its own: the package's docstring. Why it is as it is:

**It is never killed, and it ends only when LiteFS has answered.** LiteFS hears of the end of a lock by an unlock, or by
FUSE's FLUSH when the file is closed. A process that a signal kills sends that FLUSH as well, but the kernel interrupts it at
once, for there is a fatal signal pending; LiteFS then cancels its own request to the primary (``unlockHalt`` in
``fuse/lock_node.go``), and the primary can't write until the lock has expired, 30 to 35 s. A request for the lock that is
cut off in the middle may have been granted on the primary already: the same. So the lock is always given back by an unlock
that nothing can interrupt, also where it was granted to an application that no longer wants it.

**All signals are blocked, by whoever starts it** (the mask is inherited): a service manager's SIGTERM goes to all processes
of a service, while the application may still be at work inside its block. It is not done here, since a signal could come
before, and since ``import signal`` would take 6 ms of the 20 that the whole start takes.

**It ends with the application, which it watches itself.** That the socket has ended is not enough: a child that the
application has forked keeps a copy of its end for as long as it lives, so after a SIGKILL there would be no end to see. A
*pidfd* becomes readable when the process has ended, all of its threads, reaped or not. The application opens it of itself
and hands it down: only there is it certain whose id that is. An id that is opened here could be another process's by then.
(``PR_SET_PDEATHSIG`` would be simpler, and wrong: it fires when the *thread* ends that has started this process.)

**Without a pidfd** (Linux before 5.3, seccomp's EPERM, gVisor) it asks again and again who its parent is. The parent is the
application for as long as that lives, whichever of its threads may end; when it has ended this process is handed to init or
to a subreaper, so that the answer is another process, and never the application's id: it still belongs to the application
until this process has been handed on.

**It needs no thread to watch while it waits for the lock.** That wait can't be cut short anyhow, see above, and what has
happened meanwhile (the end of the socket, of the application) stays to be seen when LiteFS has answered.
"""

import fcntl
import os
import select
import struct
import sys
import time

HELD, PRIMARY = "held", "primary"  # granted: the primary is halted, or this node is the primary and there is nothing to hold
RELEASED, LOST, EXPIRED = "released", "lost", "expired"
WORDS = frozenset((HELD, PRIMARY, RELEASED, LOST, EXPIRED))
NO_PIDFD = -1

_SOCKET = 0
_HALT_BYTE = 72  # LiteFS's LockTypeHalt (litefs.go)
_FLOCK = struct.Struct("@hhqqi4x")  # fcntl(2): l_type, l_whence, l_start, l_len, l_pid; the last is 0 for these locks
_GLANCE = 0.25  # seconds between two questions who the parent is


class HaltLock:
    """Byte 72 of the file ``DB-lock``. Each call asks LiteFS, and raises `OSError` where that refuses."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # never created

    def acquire(self) -> None:
        """Wait for it: up to 10 s. LiteFS answers the call that does not wait (``F_OFD_SETLK``) with ENOSYS."""
        self._control(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK)

    def stands(self) -> bool:
        """Whether this node holds it. LiteFS shows a node its own lock as somebody else's, so that it can be asked for."""
        try:
            return self._control(fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK
        except OSError:
            return False

    def release(self) -> None:
        """Give it back. An error means that LiteFS has gone, and the lock with it."""
        try:  # noqa: SIM105 - contextlib takes longer to import than all that is imported here
            self._control(fcntl.F_OFD_SETLK, fcntl.F_UNLCK)
        except OSError:
            pass

    def _control(self, command: int, kind: int) -> int:
        answer: int = _FLOCK.unpack(
            fcntl.fcntl(self._file, command, _FLOCK.pack(kind, os.SEEK_SET, _HALT_BYTE, 1, 0)),
        )[0]
        return answer


class Application:
    """Who wants the lock: the process ``pid``, at the other end of a socket."""

    def __init__(self, socket: int, pid: int, pidfd: int) -> None:
        self._socket = socket
        self._pid = pid
        self._glances = pidfd == NO_PIDFD
        self._poll = select.poll()
        self._poll.register(socket, select.POLLIN)
        if not self._glances:
            self._poll.register(pidfd, select.POLLIN)

    def is_done(self, deadline: float = 0.0) -> bool:
        """True as soon as it asks for the release or has ended; False at ``deadline``, of the monotonic clock."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            if self._poll.poll((min(left, _GLANCE) if self._glances else left) * 1000):
                return True
            if self._glances and os.getppid() != self._pid:
                return True
            if left == 0:
                return False

    def hear(self, word: str) -> None:
        try:  # noqa: SIM105 - as above
            os.write(self._socket, word.encode() + b"\n")
        except OSError:
            pass  # it has ended, or does not listen


def hold(path: str, application: Application, deadline: float) -> None:
    """Hold the lock for as long as the application wants it, at most until ``deadline``."""
    if application.is_done():  # already: the primary need not be halted at all
        return
    try:
        lock = HaltLock(path)
        lock.acquire()
    except OSError as error:
        application.hear(str(error.errno))
        return
    word = RELEASED
    try:
        forwarded = lock.stands()
        application.hear(HELD if forwarded else PRIMARY)
        asked = application.is_done(deadline)
        if forwarded:  # it is asked for before it is given back
            word = EXPIRED if not asked else RELEASED if lock.stands() else LOST
    finally:
        lock.release()
    application.hear(word)


def main() -> None:
    path, seconds, pid, pidfd = sys.argv[1:]
    deadline = time.monotonic() + float(seconds)
    hold(path, Application(_SOCKET, int(pid), int(pidfd)), deadline)


if __name__ == "__main__":
    main()
    os._exit(0)  # the interpreter's own end takes longer than all of the above, and the application may wait for it
