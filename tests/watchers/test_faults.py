"""Faults of our own, at random, while transactions and roles change: in the end all is as if there had been none."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litefs_watch import Role, Watcher, WatcherClosed
from litefs_watch.sources import files as files_module
from litefs_watch.sources import rounds as rounds_module
from litefs_watch.sources import supervisor as supervisor_module
from litefs_watch.sources import thread as thread_module
from litefs_watch.sources.directory import Directory
from litefs_watch.sources.event_decoder import EventDecoder
from litefs_watch.sources.files import FolderWatch
from litefs_watch.sources.reread import Reread
from litefs_watch.sources.stream import EventStream
from litefs_watch.sources.thread import IDLE_NAME, CallThread
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers.run import Run
from tests.testing.leftovers import end_what_others_left, open_descriptors

SOON = 20.0

# What can fail once: any part of a source, what it calls, a thread's start, a file.
PLACES: dict[str, tuple[Any, str, type[Exception]]] = {
    "the look's head": (Directory, "begin_look", ZeroDivisionError),
    "the look's rest": (Directory, "go_on", KeyError),
    "a file": (Directory, "_position", OSError),
    "the directory": (Directory, "_mount", OSError),
    "the re-read's plan": (Reread, "_delay", ZeroDivisionError),
    "what a look found": (Reread, "_note_faults", KeyError),
    "the stream's session": (EventStream, "_session", KeyError),
    "an event": (EventStream, "_take_in", ZeroDivisionError),
    "the decoder": (EventDecoder, "next_event", KeyError),
    "inotify's plan": (FolderWatch, "_plan", OSError),
    "inotify's callback": (FolderWatch, "_changed", ZeroDivisionError),
    "a call in a thread": (CallThread, "run", RuntimeError),
    "a thread": (threading.Thread, "start", RuntimeError),
    "publishing": (Run, "publish", ZeroDivisionError),
}


def failing(real: Callable[..., Any], name: str, error: type[Exception], faults: Counter[str]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **options: Any) -> Any:
        if faults[name] > 0 and (not isinstance(self, threading.Thread) or self.name.startswith("litefs_watch")):
            faults[name] -= 1
            raise error(f"a fault of ours: {name}")
        return real(self, *args, **options)

    return call


@contextmanager
def injected(faults: Counter[str]) -> Iterator[None]:
    """Each place fails as often as ``faults`` says: but only what belongs to the watcher."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, attribute, error) in PLACES.items():
            patch.setattr(owner, attribute, failing(getattr(owner, attribute), name, error, faults))
        for module in (supervisor_module, files_module):
            patch.setattr(module, "FIRST_PAUSE", 0.002)
            patch.setattr(module, "LAST_PAUSE", 0.02)
        patch.setattr(rounds_module, "IDLE_LIMIT", 0.01)  # what is left behind is seen soon, not five seconds later
        yield


def ours() -> set[threading.Thread]:
    """Those that are at something: one that is idle waits for whoever comes next, and that of the rounds serves all
    watchers, of which an earlier test may have left one (its own end is tested with it)."""
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("litefs_watch")}
    return {thread for thread in threads if thread.name not in (IDLE_NAME, rounds_module._THREAD)}


STEPS = st.one_of(
    st.tuples(st.just("fail"), st.sampled_from(sorted(PLACES)), st.integers(1, 3)),
    st.tuples(st.sampled_from(["commit", "commit quietly", "drop stream", "replica", "primary", "nobody", "pause"])),
)


async def provoke(watcher: Watcher, node: SimulatedNode, faults: Counter[str], name: str) -> None:
    """Do what comes to that place, until it has failed; not for ever, since what is down can't fail."""
    supervisor = watcher._run.supervisor
    assert supervisor is not None
    with anyio.move_on_after(0.1):
        while faults[name]:
            supervisor.look_at(0.0)
            supervisor._files.stir()
            node.commit(notify=True)
            if name in ("the stream's session", "the decoder", "a thread"):
                node.drop_stream()
                supervisor._files._check_at = 0.0
            if name == "a thread":
                thread_module._cache = thread_module._Cache()  # nobody has one to spare
            await anyio.sleep(0.002)


async def live(node: SimulatedNode, steps: list[tuple[Any, ...]], faults: Counter[str]) -> None:
    watcher = Watcher(node.settings(idle_interval=0.02, silence=SOON))
    awake: list[int] = []
    woken = anyio.Event()

    async def wait(txid: int) -> None:
        try:
            awake.append((await watcher.wait_for_tx(txid)).txid - txid)
        except WatcherClosed:
            awake.append(-1)
        nonlocal woken
        was, woken = woken, anyio.Event()
        was.set()

    role = Role.PRIMARY
    async with anyio.create_task_group() as tasks:
        await watcher.start()
        waiters = 0
        for step in steps:
            match step[0]:
                case "fail":
                    faults[step[1]] += step[2]
                    await provoke(watcher, node, faults, step[1])
                case "commit" | "commit quietly":
                    tasks.start_soon(wait, node.position().txid + 1)
                    waiters += 1
                    await anyio.lowlevel.checkpoint()
                    node.commit(notify=step[0] == "commit")
                case "drop stream":
                    node.drop_stream()
                case "replica":
                    node.set_primary("node-b")
                    role = Role.REPLICA
                case "primary":
                    node.become_primary()
                    role = Role.PRIMARY
                case "nobody":
                    node.lose_primary()
                    role = Role.UNKNOWN
                case _:
                    await anyio.sleep(0.005)
        faults.clear()  # what has not happened by now does not happen
        if role is Role.UNKNOWN:
            await watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
            node.set_primary("node-c")
            role = Role.REPLICA
        await watcher.wait_for_role(role, timeout=SOON)
        with anyio.fail_after(SOON):
            while len(awake) < waiters:
                await woken.wait()
        assert -1 not in awake
        assert all(late >= 0 for late in awake)
        position = node.commit()
        assert await watcher.wait_for_tx(position.txid, timeout=SOON) == position
        with anyio.fail_after(SOON):
            assert await watcher.read_position() == position
        assert watcher.statistics().waiters == 0
        await watcher.stop()


@pytest.fixture(scope="module", autouse=True)
def nobody_else() -> None:
    end_what_others_left()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_fails_once_all_is_right_in_the_end(backend: str, steps: list[tuple[Any, ...]]) -> None:
    """Every waiter whose transaction is there is awake, the role is the true one, and nothing is left behind."""
    faults: Counter[str] = Counter()
    with SimulatedNode() as node:
        before, opened = ours(), open_descriptors(collect=False)
        with injected(faults):
            anyio.run(live, node, steps, faults, backend=backend)
            gc.collect()
            deadline = time.monotonic() + SOON
            while (left := ours() - before) and time.monotonic() < deadline:
                threading.Event().wait(0.001)
        assert not left, left
        while open_descriptors(collect=False) - opened and time.monotonic() < deadline:
            threading.Event().wait(0.001)  # the node's side of a stream ends in its own time
        assert open_descriptors(collect=False) - opened == {}
