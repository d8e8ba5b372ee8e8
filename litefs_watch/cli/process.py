"""Async commands as processes of a shell: signals, and a pipe whose reader has gone."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import stat
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskStatus

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asynchronous(command: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., int]:
    """Run an async command, whose result is the exit status.

    A signal that would end the process cancels it, so that it can tidy up; the status is then 128 and the signal's number.
    A second one ends it at once.
    """

    @functools.wraps(command)
    def run_it(**options: Any) -> int:
        try:
            return anyio.run(_until_signalled, functools.partial(command, **options))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    return run_it


async def _until_signalled(command: Callable[[], Coroutine[Any, Any, int]]) -> int:
    status = 0

    async def listen(*, task_status: TaskStatus[None]) -> None:
        nonlocal status
        heeded = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, or a shell's &
        with anyio.open_signal_receiver(*heeded) as signals:
            task_status.started()
            status = 128 + await anext(aiter(signals))
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        await tasks.start(listen)
        status = await command()
        tasks.cancel_scope.cancel()
    return status


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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
