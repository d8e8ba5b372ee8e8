"""Starts the process that holds the lock: with which Python, which signals, which descriptors.

An application may be anything: a server with Python inside, a daemon without standard streams, one that serves from a zip
archive, that has changed its directory, its environment, or the users' table of descriptors up to its limit.
"""

from __future__ import annotations

import fcntl
import multiprocessing.spawn
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from litefs_watch.halt import holder


def _program() -> list[str]:
    """What Python is to run: the path of `holder`, or its text where the package is in a zip archive."""
    if os.path.isfile(holder.__file__):
        return [os.path.abspath(holder.__file__)]
    text = pkgutil.get_data(holder.__name__.rpartition(".")[0], "holder.py")
    return ["-c", (text or b"").decode()]


_PROGRAM = _program()  # now: the archive's path may be relative to the directory that an application leaves later


def socketpair() -> tuple[socket.socket, socket.socket]:
    """The application's end, and the process's. Raises `OSError`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return _moved(ours), _moved(theirs)


def launch(lock: Path, lifetime: float, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """The process that asks for the lock, at that end of a socket. Raises `OSError` where it does not start."""
    pidfd = holder.NO_PIDFD
    try:
        pidfd = _own_pidfd()
        return _spawn([str(lock), str(lifetime), str(os.getpid()), str(pidfd)], theirs, pidfd)
    finally:
        if pidfd != holder.NO_PIDFD:
            os.close(pidfd)


def _spawn(arguments: list[str], theirs: socket.socket, pidfd: int) -> subprocess.Popen[bytes]:
    # The process inherits this thread's mask of signals, and keeps it: handlers of its own would come too late for a signal
    # that comes before them. Here they wait for some milliseconds. The mask is asked for first, and no context manager
    # stands in between: a handler may raise as soon as it is set, and a thread must not stay deaf for that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return subprocess.Popen(  # noqa: S603 - our own program
            [_python(), "-I", "-S", *_PROGRAM, *arguments],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),  # why Python does not start, for the error's text
            pass_fds=[] if pidfd == holder.NO_PIDFD else [pidfd],
            cwd="/",  # not in a directory that somebody wants to unmount
            start_new_session=True,  # Ctrl-C does not reach it
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def why_not(error: OSError) -> str:
    """Why it did not start, and what to do."""
    where, remedy = "", ""
    if error.filename is not None:
        where, remedy = f"{error.filename!r}: ", "; multiprocessing.set_executable() tells where Python is"
    return f"the process that holds the HALT lock did not start: {where}{error.strerror}{remedy}"


def _python() -> str:
    """The path of Python: what `multiprocessing` starts, where it was told by ``set_executable()``.

    Else `sys.executable`, unless that is no Python (in uWSGI it is the server, which must not be started once more): then
    the one that this Python's library was installed with.
    """
    told = os.fsdecode(multiprocessing.spawn.get_executable() or "")
    if told != (sys.executable or "") or os.path.basename(told).startswith("python"):
        return told
    installed = os.path.join(sys.exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return installed if os.access(installed, os.X_OK) else told


def _own_pidfd() -> int:
    """A pidfd of this process. NO_PIDFD where there is none to be had: Linux before 5.3, seccomp."""
    try:
        return _above_stdio(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return holder.NO_PIDFD


def _moved(end: socket.socket) -> socket.socket:
    return socket.socket(fileno=_above_stdio(end.detach()))


def _above_stdio(descriptor: int) -> int:
    """The same under a number from 3 on; ``descriptor`` itself is closed.

    A process that has closed its standard streams gets 0, 1 and 2 for what it opens next. Its own `print` would then write
    to our socket; and in the process that is started the standard streams would take the place of a descriptor of ours.
    """
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)
