"""Async commands as processes of a shell: signals, and a pipe whose reader has gone."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import anyio
from anyio.lowlevel import current_token

from litefs_watch.sources.thread import call_soon

_GLANCE = 0.05  # seconds between two looks whether a group has ended
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asynchronous(command: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., int]:
    """Run an async command, whose result is the exit status.

    A signal that would end the process cancels it, so that it can tidy up; the status is then 128 and the signal's number.
    A second one ends it at once, and first whatever runs in a `ProcessGroup`.
    """

    @functools.wraps(command)
    def run_it(**options: Any) -> int:
        with _Ending() as ending:
            try:
                status = anyio.run(_until_signalled, functools.partial(command, **options), ending)
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        return 128 + ending.signal if ending.signal else status

    return run_it


async def _until_signalled(command: Callable[[], Coroutine[Any, Any, int]], ending: _Ending) -> int:
    with anyio.CancelScope() as scope:
        ending.cancels(scope)
        return await command()
    return 0  # the signal tells


class _Ending:
    """Heeds the signals that end a process, for as long as it is entered.

    Handlers of Python's own, not the event loop's: none is lost where the loop ends just then, and `run` must not go on to
    start the application after one.
    """

    def __init__(self) -> None:
        self.signal = 0
        """The first that came; 0: none."""
        self._cancel: Callable[[], object] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def cancels(self, scope: anyio.CancelScope) -> None:
        """From now on a signal cancels that scope, of the event loop that is running; at once if one has come."""
        token = current_token()
        self._cancel = lambda: call_soon(token, scope.cancel)
        if self.signal:
            scope.cancel()

    def _end(self, number: int, frame: object) -> None:
        if self.signal:
            self._end_at_once(number)
        else:
            self.signal = number
            self._cancel()

    def _end_at_once(self, number: int) -> None:
        """With status 128 and the number, by `os._exit`: a container's first process is immune to its own signals.

        Until then the handlers stay: the default action would end this process alone, and leave its groups behind.
        """
        if ProcessGroup.kill_all():
            os._exit(128 + number)
        ProcessGroup.then = lambda: self._end_at_once(number)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __enter__(self) -> _Ending:
        for number in ENDING:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):  # nohup, or a shell's &; or of nobody knows whom
                self._before[number] = before
                signal.signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()


class ProcessGroup:
    """What a second signal ends with this process: ``with ProcessGroup() as group: group.lead(process.pid)``.

    It is entered *before* the process is started: a signal that comes in between waits until it is known whom to kill. On
    the main thread, whose signal handlers these are.
    """

    _entered: ClassVar[set[ProcessGroup]] = set()
    then: ClassVar[Callable[[], object] | None] = None
    """What a second signal has left to do, as soon as no group is about to start."""

    def __init__(self) -> None:
        self._leader: int | None = None

    def lead(self, leader: int) -> None:
        """It has started: the process ``leader`` and what that starts."""
        self._leader = leader
        self._go_on()

    @classmethod
    def kill_all(cls) -> bool:
        """SIGKILL to each. False, and nothing done, while one is about to start."""
        if any(group._leader is None for group in cls._entered):
            return False
        for group in cls._entered:
            group.kill()
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._leader is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._leader, number)

    async def ended(self) -> None:
        """Wait until all of it has ended, not the leader alone."""
        while self._lives():  # noqa: ASYNC110 - nothing tells of the end of processes that are not one's own
            await anyio.sleep(_GLANCE)

    def _lives(self) -> bool:
        """By proc(5). To kill(2) those that nobody has reaped are alive: for ever, where LiteFS is the first process."""
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ValueError):  # it has just ended
                state, _, group, *_ = file.read_text(errors="replace").rpartition(")")[2].split()
                if int(group) == self._leader and state not in ("Z", "X"):
                    return True
        return False

    @classmethod
    def _go_on(cls) -> None:
        if cls.then is not None:
            cls.then()

    def __enter__(self) -> ProcessGroup:
        self._entered.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.discard(self)
        self._go_on()


async def end_with_reader() -> None:
    """Where stdout is a pipe: raise `BrokenPipeError` as soon as nobody reads it, not only at the next line. Else return.

    For commands that may have nothing to say for hours: ``litefs-watch watch | head -1``.
    """
    try:
        descriptor = sys.stdout.fileno()
        write_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError, ValueError):  # closed, or not a file
        return
    if is_pipe and write_only:
        await anyio.wait_readable(descriptor)  # the writing end of a pipe is 'readable' only in that it is broken
        raise BrokenPipeError


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Out of however many groups."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
