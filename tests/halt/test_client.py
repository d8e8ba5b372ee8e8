"""The application's side of a lock, where the other side, or its own, is not as it should be."""

from __future__ import annotations

import gc
import multiprocessing.spawn
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator

import pytest

from litefs_watch.errors import HaltError, HaltExpired, HaltTimeout
from litefs_watch.halt import client, halted, launch
from litefs_watch.testing import SimulatedNode
from tests.holders import application, recorded_holders, says

SOON = 10.0  # seconds: the lock itself would last 30


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if another thread forked whenever a holder is started: somebody keeps both ends of the socket."""
    copies: list[socket.socket] = []
    socketpair = launch.socketpair

    def copying() -> tuple[socket.socket, socket.socket]:
        pair = socketpair()
        copies.extend(end.dup() for end in pair)
        return pair

    monkeypatch.setattr(client, "socketpair", copying)
    yield
    for copy in copies:
        copy.close()


def test_a_fork_while_it_starts_leaves_no_lock(mounted: SimulatedNode, copied: None) -> None:
    """Neither at the end of a block, nor where the lock is granted too late."""
    with (
        halted("app.db", litefs_dir=mounted.litefs_dir),
        pytest.raises(HaltTimeout),
        halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2),
    ):
        pass
    with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=SOON / 2):
        pass


def test_a_fork_while_it_starts(mounted: SimulatedNode, copied: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder's end is seen all the same: a lock that is lost with it is an error, never only a warning."""
    holders = recorded_holders(monkeypatch)
    with (
        pytest.raises(HaltExpired, match="lost before its end: the process that held it was killed"),
        halted("app.db", litefs_dir=mounted.litefs_dir),
    ):
        os.kill(holders[-1], signal.SIGKILL)


def test_a_fork_while_one_starts_that_does_not_come_to_life(
    mounted: SimulatedNode, copied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same: an error as soon as it has ended, not a timeout."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/bin/true")
    with pytest.raises(HaltError, match="ended with status 0 before it had it") as caught:
        halted("app.db", litefs_dir=mounted.litefs_dir).__enter__()
    assert not isinstance(caught.value, HaltTimeout)


@pytest.mark.parametrize("ends", ["pass", "raise KeyError", "raise SystemExit(0)"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_child_that_is_forked_inside(mounted: SimulatedNode, backend: str, ends: str) -> None:
    """It leaves the asynchronous block as well, and at once: the lock is its parent's, and so is the thread."""
    program = f"""
import os, sys, anyio
from litefs_watch.halt import halt
from litefs_watch.sources.thread import CallThread
async def main():
    global child
    try:
        async with halt("app.db", litefs_dir=sys.argv[1]):
            child = os.fork()
            if child:
                print(os.waitpid(child, 0)[1], flush=True)
                await anyio.to_thread.run_sync(sys.stdin.readline)
            else:
                CallThread.run = lambda *_: os._exit(5)
                {ends}
    except BaseException:
        pass
    if not child:
        os._exit(0)
anyio.run(main, backend={backend!r})
"""
    with application(program, mounted.litefs_dir) as process:
        says(process, "0")
        with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
            pass
        process.communicate("\n", timeout=SOON)
        assert process.returncode == 0


@pytest.mark.parametrize("said", ["what is this?", ""])
def test_a_holder_that_ends_otherwise(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Unless it says that it has released the lock, it was lost."""
    program = f"import os; os.write(0, b'held\\n'); os.read(0, 1); os.write(0, b'{said}\\n'); 1 / 0"
    monkeypatch.setattr(launch, "_PROGRAM", ["-c", program])
    with (
        pytest.raises(HaltExpired, match=f"was killed: .*{said}.* division by zero. Later writes failed"),
        halted("app.db", litefs_dir=mounted.litefs_dir),
    ):
        pass


@pytest.mark.parametrize("data", [b"x" * 4096, b"x\n" * 2048])
def test_one_that_never_stops_talking(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Time and memory are limited."""
    monkeypatch.setattr(client.HolderClient, "_receive", lambda *_: data)  # and the socket stays readable
    noisy = client.HolderClient(mounted.litefs_dir, "app.db", 0.5)
    with pytest.raises(HaltTimeout):
        noisy.acquire()
    assert len(noisy._complaint) <= 300
    assert len(noisy._received) <= 4096


def test_abandoned_before_it_begins(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started."""
    holders = recorded_holders(monkeypatch)
    unwanted = client.HolderClient(mounted.litefs_dir, "app.db", SOON)
    unwanted.abandon()
    with pytest.raises(HaltError, match="not wanted any more"):
        unwanted.acquire()
    assert holders == []


def test_abandoned_amid_the_start(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no socket yet to tell the process: it is told afterwards."""
    unwanted = client.HolderClient(mounted.litefs_dir, "app.db", SOON)
    socketpair = launch.socketpair

    def abandoning() -> tuple[socket.socket, socket.socket]:
        unwanted.abandon()
        return socketpair()

    monkeypatch.setattr(client, "socketpair", abandoning)
    with pytest.raises(HaltError, match="before it had it"):
        unwanted.acquire()


def test_nobody_to_wait_for_a_process(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be had: the error is the timeout all the same."""
    monkeypatch.setattr(launch, "_PROGRAM", ["-c", "import os; os.read(0, 1); os.read(0, 1); import time; time.sleep(1)"])
    monkeypatch.setattr(client, "PARTING", 0)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HaltTimeout):
            client.HolderClient(mounted.litefs_dir, "app.db", 0).acquire()
        gc.collect()
