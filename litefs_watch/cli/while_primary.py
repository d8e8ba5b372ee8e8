"""``litefs-watch while-primary``: a process for as long as this node is the primary."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import anyio
import anyio.to_thread
import click

from litefs_watch import LiteFSWatchError, Settings, Watcher
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit, warn
from litefs_watch.cli.process import ProcessGroup, asynchronous
from litefs_watch.cli.run import NOT_EXECUTABLE, NOT_FOUND

PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH)
"""What is for the command; SIGINT, SIGTERM and SIGHUP end both."""
_GLANCE = 1.0  # seconds between two looks for orphans, where this is a container's first process


class CommandFailedError(LiteFSWatchError):
    """It ended with another status than 0."""


@click.command(
    "while-primary",
    short_help="Run a command for as long as this node is the primary.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="From SIGTERM to SIGKILL.",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, grace: float, words: tuple[str, ...]) -> int:
    """Run COMMAND while this node is the primary, and again each time that it becomes it: a scheduler, cron, an exporter.

    When this node is the primary no more, COMMAND and all that it has started get SIGTERM, and after --grace SIGKILL. One
    that ends with another status than 0 is started again after 0.5 s, 1 s, and so on up to a minute; one that ends with 0,
    the next time that this node becomes the primary.

    Ends with a signal only (128 and its number), or where there is no COMMAND (127), or it can't be run (126).
    """
    if (status := await anyio.to_thread.run_sync(problem, words[0])) is not None:
        return status
    runner = Runner(words, grace, as_json=as_json)
    async with Watcher(settings) as watcher, anyio.create_task_group() as tasks:
        if os.getpid() == 1:
            tasks.start_soon(runner.reap)
        with runner.passing_on():
            await watcher.while_primary(runner)
        tasks.cancel_scope.cancel()
    return 0


def problem(word: str) -> int | None:
    """The exit status, as a shell has it, where there is no such command; None where there is one."""
    from shutil import which

    if which(word) is not None:
        return None
    found = os.path.lexists(word) and os.sep in word
    warn(f"{word}: {'it can not be run' if found else 'no such command'}")
    return NOT_EXECUTABLE if found else NOT_FOUND


class Runner:
    def __init__(self, words: tuple[str, ...], grace: float, *, as_json: bool) -> None:
        self._words = words
        self._grace = grace
        self._as_json = as_json
        self._group: ProcessGroup | None = None
        self._own: int | None = None
        """Whom another one waits for; 0: about to start."""
        self._early: list[signal.Signals] = []  # what came for it while it was started
        self.__qualname__ = words[0]  # for the log

    async def __call__(self) -> None:
        """One time, until it ends. Raises `CommandFailedError` where that is with another status than 0."""
        with ProcessGroup() as group:
            process = await self._start()
            group.lead(process.pid)
            self._group, self._own = group, process.pid
            while self._early:
                group.kill(self._early.pop(0))
            self._tell(f"this node is the primary: started {self._words[0]}", type="start", pid=process.pid)
            try:
                status = await process.wait()
            except BaseException:
                group.kill(signal.SIGTERM)
                with anyio.CancelScope(shield=True):
                    with anyio.move_on_after(self._grace):
                        await process.wait()
                        await group.ended()
                    group.kill()  # what is left of it
                    await process.wait()
                    await group.ended()
                self._tell(f"ended {self._words[0]}", type="end", status=process.returncode)
                raise
            finally:
                self._group = self._own = None
                with anyio.CancelScope(shield=True):
                    await process.aclose()
            group.kill()  # what it has left behind
        self._tell(f"{self._words[0]}: status {status}", type="exit", status=status)
        if status:
            raise CommandFailedError(f"status {128 - status if status < 0 else status}")

    async def _start(self) -> anyio.abc.Process:
        self._own = 0
        try:
            with anyio.CancelScope(shield=True):  # cancelled halfway, it would be left behind
                open_process = partial(anyio.open_process, stdin=None, stdout=None, stderr=None, start_new_session=True)
                process = await open_process(list(self._words))
        except BaseException:
            self._own = None
            self._early.clear()  # they were not for the next one
            raise
        return process

    def _tell(self, text: str, **record: object) -> None:
        if self._as_json:
            emit(record)
        else:
            warn(text)

    @contextmanager
    def passing_on(self) -> Iterator[None]:
        """Signals that are for the command reach it; where it does not run, they do nothing."""

        def pass_on(number: int, frame: object) -> None:
            if self._group is not None:
                self._group.kill(signal.Signals(number))
            elif self._own == 0:
                self._early.append(signal.Signals(number))

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def reap(self) -> None:
        """As a container's first process: bury the children of whoever has died before them."""
        while True:
            await anyio.sleep(_GLANCE)
            if self._own != 0:
                bury(self._own)


def bury(own: int | None) -> None:
    """All that have ended, up to ``own``, for whom somebody else waits."""
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid != own:
            os.waitpid(ended.si_pid, os.WNOHANG)
