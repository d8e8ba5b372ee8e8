"""Whatever fails, and wherever it is cut off: nobody keeps the lock, nothing is left, and the right error passes."""

from __future__ import annotations

import asyncio
import gc
import linecache
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import anyio
import pytest

import litefs_watch.halt
from litefs_watch.errors import HaltTimeout
from litefs_watch.halt import client, halt, halted
from litefs_watch.sources.thread import CallThread
from litefs_watch.testing import SimulatedNode
from tests.contract.real import until
from tests.holders import recorded_holders

T = TypeVar("T")

SOON = 10.0  # seconds: the lock itself would last 30
PACKAGE = str(Path(litefs_watch.halt.__file__).parent)


def can_fail(line: str) -> bool:
    """Not where Python executes nothing; nor where the mask of signals is set back, and so none can come."""
    return line != "try:" and "SIG_SETMASK" not in line


class InjectedError(BaseException):
    """What no code of ours expects."""


@contextmanager
def injected_at(step: int) -> Iterator[list[str]]:
    """Raises `InjectedError` at that line of all that the package executes in this thread; tells which it was."""
    seen: list[str] = []
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and can_fail(linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()):
            left -= 1
            if left == 0:
                seen.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                raise InjectedError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def is_free(node: SimulatedNode) -> bool:
    try:
        with halted("app.db", litefs_dir=node.litefs_dir, timeout=SOON / 2):
            return True
    except HaltTimeout:
        return False


def test_one_exception_at_any_line(mounted: SimulatedNode) -> None:
    """Before, amid and after the granting, also where what is raised is kept: the lock is free, and no signal blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    step, kept = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a socket that was not yet in anybody's hands
        while True:
            step += 1
            try:
                with injected_at(step) as seen, halted("app.db", litefs_dir=mounted.litefs_dir):
                    pass
            except InjectedError as error:
                kept.append(error)
            if not seen:
                break
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before, seen
            assert is_free(mounted), seen
        kept.clear()
        gc.collect()
    assert step > 100


async def test_one_exception_at_any_line_of_the_task(mounted: SimulatedNode) -> None:
    """The same for the asynchronous block, in the event loop's thread."""
    step = 0
    while True:
        step += 1
        seen: list[str] = []
        try:
            with injected_at(step) as seen:
                async with halt("app.db", litefs_dir=mounted.litefs_dir):
                    pass
        except InjectedError:
            pass
        if not seen:
            break
        assert await in_thread(lambda: is_free(mounted)), seen
    assert step > 20


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


class Moments:
    """Where `halt` awaits something: each call in its thread, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: Callable[[str, str], None] = lambda when, what: None
        self.calls: list[str] = []
        run, abandon = CallThread.run, client.HolderClient.abandon

        async def observed(thread: CallThread, function: Callable[[], T]) -> T:
            what = getattr(function, "func", function).__name__
            self.calls.append(what)
            self.at("before", what)
            result = await run(thread, function)
            self.at("after", what)
            return result

        def abandoning(self_: client.HolderClient) -> None:
            self.calls.append("abandon")
            abandon(self_)

        monkeypatch.setattr(CallThread, "run", observed)
        monkeypatch.setattr(client.HolderClient, "abandon", abandoning)


@pytest.mark.parametrize(("anyio_backend", "cancels"), [("asyncio", "scope"), ("asyncio", "task"), ("trio", "scope")])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["acquire", "finish", "note"])
async def test_cancelled_at_each_await(
    mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch, anyio_backend: str, cancels: str, when: str, what: str
) -> None:
    """By a scope, or by asyncio, which heeds no shield: the lock is free, its process has ended, an error inside passes."""
    holders = recorded_holders(monkeypatch)
    moments = Moments(monkeypatch)
    passed: list[BaseException] = []
    cancelled: list[bool] = []

    async def application() -> None:
        try:
            async with halt("app.db", litefs_dir=mounted.litefs_dir):
                if what == "note":
                    raise KeyError
        except BaseException as error:
            passed.append(error)
            if not isinstance(error, KeyError):
                raise

    async with anyio.create_task_group() as tasks:

        def cancel(now: str, call: str) -> None:
            if (now, call) == (when, what):
                task = asyncio.current_task() if cancels == "task" else None
                cancelled.append(task.cancel() if task else True)
                tasks.cancel_scope.cancel()

        moments.at = cancel
        tasks.start_soon(application)
    assert cancelled == [True]
    assert [type(error) for error in passed] in ([], [KeyError], [anyio.get_cancelled_exc_class()])
    if (when, what, cancels) == ("before", "acquire", "scope"):
        assert moments.calls[:3] == ["acquire", "abandon", "settle"]  # when this is left, the lock is given back
    if what == "note" and cancels == "scope":
        assert isinstance(passed[0], KeyError)
    await in_thread(lambda: until(lambda: all(gone(pid) for pid in holders), "its process has ended"))
    assert await in_thread(lambda: is_free(mounted))


async def in_thread(function: Callable[[], T]) -> T:
    with anyio.fail_after(SOON):
        return await anyio.to_thread.run_sync(function)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", [1, 2])
async def test_no_more_threads(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch, fails: bool, call: int) -> None:
    """At the beginning or the end: that is the error; one from inside passes, with that as a note. The lock is free."""
    moments = Moments(monkeypatch)
    calls = 0

    def refuse(when: str, _: str) -> None:
        nonlocal calls
        calls += when == "before"
        if calls >= call:
            raise RuntimeError("can't start new thread")

    moments.at = refuse
    with pytest.raises(KeyError if fails and call == 2 else RuntimeError) as caught:  # noqa: PT012
        async with halt("app.db", litefs_dir=mounted.litefs_dir):
            if fails:
                raise KeyError
    assert "can't start new thread" in [str(caught.value), *getattr(caught.value, "__notes__", ())][-1]
    assert await in_thread(lambda: is_free(mounted))
