"""HALT: write from any node. LiteFS stops the primary's writes, and sends ours there with each commit.

The lock is byte 72 of the file ``DB-lock`` in LiteFS's mount, and belongs to one opening of that file (``F_OFD_SETLKW``;
LiteFS's ``fuse/lock_node.go``). LiteFS releases it as soon as *any* descriptor of that opening is closed, and a process that
is forked has such a descriptor and closes it when it ends or execs. Within the application, any subprocess started inside
would lose the lock. So a small process of our own holds it: nothing that the application starts can inherit it, and it ends
with the application.

LiteFS frees an overdue lock on the primary only, 30 to 35 s after it was granted, and does not tell the replica. Measured on
0.5.14: once the primary has written, the replica's database stays locked, and even giving the lock back hangs. So it is
given back here when its 30 s are over, before that can happen.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing.spawn
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from litefs_watch.core.readings import Mount
from litefs_watch.errors import HaltError, HaltExpired, HaltTimeout
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.directory import current_mount_kind
from litefs_watch.sources.thread import CallThread

if TYPE_CHECKING:
    from litefs_watch.watchers.blocking import BlockingWatcher
    from litefs_watch.watchers.watcher import Watcher

logger = logging.getLogger("litefs_watch")

LIFETIME = 30.0  # seconds; LiteFS's DefaultHaltLockTTL (store.go)
ACQUIRE_LIMIT = 10.0  # seconds; LiteFS's DefaultHaltAcquireTimeout (store.go)
_GIVEN_UP = 9.5  # seconds after which LiteFS's EIO means that its 10 s are over; it says the same for every refusal
_PARTING = 0.25  # seconds in which a lock that is no longer wanted may still be granted and released
_END_LIMIT = 1.0  # seconds for a process to end that has nothing more to do
_RELEASE_LIMIT = 5.0  # seconds to hear that the lock is released: a frozen LiteFS must not hold the application

# What holds the lock. It says 'held', 'primary' or an errno when it knows, and 'released', 'lost' or 'expired' at its end.
# It gives the lock back when it is asked, at the application's end, or when its time is over. It is never killed, and heeds
# no signal that a service manager sends to all processes of a service: LiteFS often misses the release by a process that
# dies, and then nobody can write for 35 s. Who no longer wants a lock asks for its release, even before it is granted.
# 36, 37 and 38 are F_OFD_GETLK, F_OFD_SETLK and F_OFD_SETLKW of <linux/fcntl.h>; the struct is fcntl(2)'s.
_HOLDER = """\
import fcntl, os, select, signal, struct, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
flock = struct.Struct("@hhqqi4x")
def lock(command, kind):
    return flock.unpack(fcntl.fcntl(file, command, flock.pack(kind, os.SEEK_SET, 72, 1, 0)))[0]
def held():
    try:
        return lock(36, fcntl.F_WRLCK) != fcntl.F_UNLCK
    except OSError:
        return False
def say(word):
    try:
        os.write(1, word + b"\\n")
    except OSError:
        pass
ends = time.monotonic() + float(sys.argv[2])
try:
    file = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
    lock(38, fcntl.F_WRLCK)
    forwarded = held()
except OSError as error:
    say(b"%d" % error.errno)
    os._exit(0)
say(b"held" if forwarded else b"primary")
asked = select.select([0], [], [], max(0, ends - time.monotonic()))[0]
answer = b"lost" if forwarded and not held() else b"released"
try:
    lock(37, fcntl.F_UNLCK)
except OSError:
    pass
say(answer if asked or not forwarded else b"expired")
"""


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


@asynccontextmanager
async def halt(
    database: str | None = None,
    *,
    litefs_dir: str | Path | None = None,
    timeout: float = ACQUIRE_LIMIT,
    watcher: Watcher | BlockingWatcher | None = None,
) -> AsyncIterator[Halt]:
    """Hold the HALT lock, so that this node can write, be it a replica: ``async with halt("app.db"): ...``.

    On the primary it does nothing, as LiteFS itself decides at that moment; with a ``watcher`` (whose settings then count)
    that says PRIMARY, and where ``LITEFS_STANDALONE`` is set, LiteFS is not asked. ``database`` and ``litefs_dir`` come from
    the environment where they are not given, as for `Settings`.

    Hold it shortly: meanwhile nobody else writes, and on the primary a new connection can't even read (``database is
    locked``, ``locking protocol``). It takes as long as a request to the primary and some 20 ms, and at most ``timeout``
    seconds; LiteFS itself gives up after 10. It lives for 30 s, counted from when it was asked for: `Halt.remaining`.

    It stays while subprocesses of any kind run inside, and they write as well. It is lost with this process, with LiteFS on
    this node, and with another primary. Where it is cancelled while it waits, the lock is released as soon as it is granted.

    Raises `HaltTimeout` (a `TimeoutError`) when it is not granted in time, and `HaltError` where there can be none: an
    ordinary directory (nothing is created there), no such database, no primary in reach. At the end it raises `HaltExpired`
    when the lock was gone before: later writes failed, or went nowhere. An error from inside passes, with that as a note.
    """
    name, holder = _prepare(database, litefs_dir, timeout, watcher)
    if holder is None:
        yield Halt(name, forwarded=False, ends=0)
        return
    thread = CallThread("litefs_watch halt")
    try:
        try:
            held = await thread.run(holder.acquire)
        except BaseException:
            holder.abandon()
            with anyio.move_on_after(_PARTING, shield=True):  # it may have been granted at the last moment
                await thread.run(partial(holder.reap, _PARTING))
            raise
        try:
            yield held
        except BaseException as error:
            holder.ask()
            with anyio.move_on_after(_RELEASE_LIMIT, shield=True):
                await thread.run(partial(holder.note, error))
            raise
        holder.ask()
        with anyio.CancelScope(shield=True):  # bounded by itself
            await thread.run(holder.finish)
    finally:
        thread.close()


@contextmanager
def halted(
    database: str | None = None,
    *,
    litefs_dir: str | Path | None = None,
    timeout: float = ACQUIRE_LIMIT,
    watcher: Watcher | BlockingWatcher | None = None,
) -> Iterator[Halt]:
    """`halt` for synchronous code: ``with halted("app.db"): ...``. The same limits, and the same errors."""
    name, holder = _prepare(database, litefs_dir, timeout, watcher)
    if holder is None:
        yield Halt(name, forwarded=False, ends=0)
        return
    held = holder.acquire()
    try:
        yield held
    except BaseException as error:
        holder.ask()
        holder.note(error)
        raise
    holder.ask()
    holder.finish()


def _prepare(
    database: str | None, litefs_dir: str | Path | None, timeout: float, watcher: Watcher | BlockingWatcher | None
) -> tuple[str, _Holder | None]:
    """The database, and what will hold the lock; None where no lock is needed."""
    check_timeout(timeout)
    if watcher is not None:
        settings = watcher.settings
    else:
        settings = Settings.from_env() if litefs_dir is None else Settings.from_env(litefs_dir=litefs_dir)
    name = settings.database_or_default(database)
    if settings.standalone or settings.litefs_dir is None or (watcher is not None and watcher.is_primary):
        return name, None
    return name, _Holder(settings.litefs_dir, name, timeout)


class _Holder:
    """The process that holds the lock, at the other end of a socket. Blocking calls, but for `ask` and `abandon`, which any
    thread may make."""

    def __init__(self, directory: Path, database: str, timeout: float) -> None:
        self._directory = directory
        self._database = database
        self._timeout = min(timeout, ACQUIRE_LIMIT)
        self._abandoned = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers = b""
        self._began = 0.0
        self._owner = os.getpid()

    def acquire(self) -> Halt:
        self._began = time.monotonic()
        if current_mount_kind(self._directory) is not Mount.LITEFS:
            raise HaltError(
                f"{self._directory} is not a mount of LiteFS, so there is no HALT lock: is LiteFS running, and is "
                "LITEFS_DIR its 'fuse.dir'? To develop without LiteFS, set LITEFS_STANDALONE=1"
            )
        try:
            process = self._start()
            answer = self._read(self._began + self._timeout)
        except BaseException:
            self.abandon()
            self.reap()
            raise
        if answer in ("held", "primary"):
            return Halt(self._database, forwarded=answer == "held", ends=self._began + LIFETIME)
        took = time.monotonic() - self._began
        if answer is None:
            self.abandon()
        self.reap(_PARTING if answer is None else _END_LIMIT)
        if answer is None or (answer == str(errno.EIO) and took > _GIVEN_UP):
            raise HaltTimeout(
                f"LiteFS did not grant the HALT lock on {self._database} within {took:.1f} s: another node or another call "
                "holds it, or a transaction is open on the primary"
            )
        raise HaltError(self._refusal(answer, process.returncode))

    def _start(self) -> subprocess.Popen[bytes]:
        # The interpreter that multiprocessing starts: `sys.executable` is the server in uWSGI, say.
        python = os.fsdecode(multiprocessing.spawn.get_executable() or "")
        command = [python, "-I", "-S", "-c", _HOLDER, str(self._directory / f"{self._database}-lock"), str(LIFETIME)]
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                # A session of its own, so that Ctrl-C does not reach it.
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise HaltError(
                    f"the process that holds the HALT lock did not start: {python!r}: {error.strerror}; "
                    "multiprocessing.set_executable() tells where Python is"
                ) from error
        if self._abandoned:  # meanwhile
            self.abandon()
        return self._process

    def _refusal(self, answer: str, status: int | None) -> str:
        number = int(answer) if answer.isdecimal() else None
        if number == errno.ENOENT:
            return f"there is no database {self._database} in {self._directory}"
        if number == errno.EIO:
            return f"LiteFS refused the HALT lock on {self._database}: no primary is in reach; its log says more"
        if number is not None:
            return f"LiteFS refused the HALT lock on {self._database}: {os.strerror(number)}"
        return f"the process that holds the HALT lock ended with status {status} before it had it"

    def ask(self) -> None:
        """Have the lock released."""
        self._shut(socket.SHUT_WR)

    def abandon(self) -> None:
        """Never mind the lock: whoever waits for it returns, and it is released as soon as it is granted."""
        self._abandoned = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        # Not `close`: a forked child of the application has a copy of the descriptor.
        if self._socket is not None and os.getpid() == self._owner:
            with suppress(OSError):  # the process has ended already
                self._socket.shutdown(how)

    def finish(self) -> None:
        """Wait for the release. Raises `HaltExpired` where the lock was gone before."""
        if os.getpid() != self._owner:
            return  # the lock is the parent's
        try:
            answer = self._read(time.monotonic() + _RELEASE_LIMIT)
        finally:
            self.reap()
        if answer is None:
            logger.warning(
                "LiteFS did not release the HALT lock on %s within %g s: the primary can't write for up to 35 s",
                self._database,
                _RELEASE_LIMIT,
            )
        elif answer == "expired":
            raise HaltExpired(
                f"the HALT lock on {self._database} expired {LIFETIME:g} s after it had been asked for, and was needed for "
                f"{time.monotonic() - self._began:.1f} s: later writes failed. Do less at once, or promote this node"
            )
        elif answer in ("lost", ""):
            what = "LiteFS was restarted, or the primary changed" if answer else "the process that held it was killed"
            raise HaltExpired(f"the HALT lock on {self._database} was lost before its end: {what}. Later writes failed")

    def note(self, error: BaseException) -> None:
        """As `finish`, where an error ends the block: what would be raised becomes its note."""
        try:
            self.finish()
        except HaltExpired as expired:
            error.add_note(str(expired))

    def _read(self, deadline: float) -> str | None:
        """The next line; empty where the process has ended, None where it says nothing until ``deadline``."""
        if self._socket is None:
            return ""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while b"\n" not in self._answers:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            try:
                data = self._socket.recv(64)
            except ConnectionError:  # the process was killed
                data = b""
            if not data:
                return ""
            self._answers += data
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()

    def reap(self, patience: float = _END_LIMIT) -> None:
        """Be rid of the process, which ends by itself: within ``patience`` seconds, or when LiteFS answers it."""
        if self._socket is not None:
            self._socket.close()
        if (process := self._process) is None:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            threading.Thread(target=process.wait, name="litefs_watch halt", daemon=True).start()
