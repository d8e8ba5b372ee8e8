"""The watcher of a thread, awaited from any event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from litefs_watch import BlockingWatcher, Position, Role, Settings, WaitTimeout, WatcherClosed
from litefs_watch.sources.thread import IDLE_NAME
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers.bridge import AwaitableWatcher

SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


@pytest.fixture
def watcher(node: SimulatedNode) -> Iterator[AwaitableWatcher]:
    with BlockingWatcher(node.settings()) as watcher:
        yield AwaitableWatcher(watcher)


async def test_it_starts_without_blocking_the_loop(node: SimulatedNode) -> None:
    """With the first call that waits; the loop goes on meanwhile, though LiteFS does not answer."""
    node.freeze()
    inner = BlockingWatcher(node.settings(start_timeout=5))
    watcher = AwaitableWatcher(inner)
    turned = anyio.Event()
    try:
        async with anyio.create_task_group() as tasks:

            async def start() -> None:
                await watcher.start()
                assert turned.is_set()
                assert inner.running

            tasks.start_soon(start)
            await anyio.lowlevel.checkpoint()
            turned.set()
            node.thaw()
        assert await watcher.wait_for_tx(1, timeout=SOON) == node.position()
    finally:
        await anyio.to_thread.run_sync(inner.stop)


async def test_a_transaction_wakes_its_waiters_and_nobody_else(node: SimulatedNode, watcher: AwaitableWatcher) -> None:
    """No thread waits with them."""
    threads = set(threading.enumerate())
    woken: list[Position] = []
    async with anyio.create_task_group() as tasks:

        async def wait(txid: int) -> None:
            woken.append(await watcher.wait_for_tx(txid, timeout=SOON))

        for txid in (3, 2, 2, 2):
            tasks.start_soon(wait, txid)
        await anyio.wait_all_tasks_blocked()
        assert watcher.watcher.statistics().waiters == 4
        others = {"litefs_watch re-read", "litefs_watch folders", IDLE_NAME}  # who looks may take a second thread
        assert {thread.name for thread in set(threading.enumerate()) - threads} <= others
        second = node.commit()
        while len(woken) < 3:
            await anyio.lowlevel.checkpoint()
        assert woken == [second] * 3
        assert watcher.watcher.statistics().waiters == 1
        third = node.commit()
    assert woken[3] == third
    assert watcher.watcher.statistics().waiters == 0


@pytest.fixture(params=[{}, {"api_url": None}], ids=["stream", "files"])
def patient(node: SimulatedNode, request: pytest.FixtureRequest) -> Iterator[AwaitableWatcher]:
    with BlockingWatcher(node.settings(idle_interval=60, **request.param)) as watcher:
        yield AwaitableWatcher(watcher)


async def test_no_wake_up_is_lost(node: SimulatedNode, patient: AwaitableWatcher) -> None:
    """Commits as quickly as they come, with the stream and without it."""
    found: list[Position] = []

    async def wait(txid: int) -> None:
        found.append(await patient.wait_for_tx(txid, timeout=SOON))

    for _ in range(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, patient.watcher.tx_number() + 1)
            position = node.commit()
        assert found.pop() == position


def test_several_event_loops_share_one_watcher(node: SimulatedNode, watcher: AwaitableWatcher) -> None:
    """As in Django, where each thread may run one of its own, one after the other."""

    def serve(backend: str) -> None:
        found.extend(anyio.run(lambda: watcher.wait_for_tx(2, timeout=SOON), backend=backend) for _ in range(3))

    found: list[Position] = []
    threads = [threading.Thread(target=serve, args=(backend,)) for backend in ("asyncio", "trio", "asyncio")]
    for thread in threads:
        thread.start()
    while watcher.watcher.statistics().waiters < 3:
        pass
    position = node.commit()
    for thread in threads:
        thread.join(SOON)
    assert found == [position] * 9


async def test_a_wait_that_ends_early_leaves_nothing(watcher: AwaitableWatcher) -> None:
    """Timed out, or cancelled."""
    with pytest.raises(WaitTimeout, match=r"app\.db did not reach transaction 9 within 0\.01 s: it is at 1"):
        await watcher.wait_for_tx(9, timeout=0.01)
    with pytest.raises(WaitTimeout, match="within 0 s"):
        await watcher.wait_for_tx(9, timeout=0)
    with pytest.raises(WaitTimeout, match="did not become replica"):
        await watcher.wait_for_role("replica", timeout=0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.wait_for_tx, 9)
        tasks.start_soon(watcher.wait_for_role, Role.REPLICA)
        await anyio.wait_all_tasks_blocked()
        assert watcher.watcher.statistics().waiters == 2
        tasks.cancel_scope.cancel()
    assert watcher.watcher.statistics().waiters == 0


@pytest.mark.parametrize("txid", [-1, 2**64, 1.0, "1", None, True])
async def test_what_is_no_txid_is_a_value_error(watcher: AwaitableWatcher, txid: Any) -> None:
    """As with `Watcher`."""
    with pytest.raises(ValueError, match="whole number"):
        await watcher.wait_for_tx(txid)


async def test_roles(node: SimulatedNode, watcher: AwaitableWatcher) -> None:
    """Met at once, or woken."""
    assert await watcher.wait_for_primary(timeout=SOON) is None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.wait_for_role, Role.REPLICA)
        await anyio.wait_all_tasks_blocked()
        node.set_primary("node-z")
    assert await watcher.wait_for_primary(timeout=SOON) == "node-z"


async def test_read_position_is_straight_from_the_file(node: SimulatedNode, watcher: AwaitableWatcher) -> None:
    """Whatever has been heard; an unreadable one is an error; none is none."""
    position = node.commit(notify=False)
    assert await watcher.read_position() == position
    assert await watcher.read_position("other.db") is None
    (node.litefs_dir / "bad.db-pos").write_text("nonsense")
    with pytest.raises(OSError, match=r"bad\.db-pos"):
        await watcher.read_position("bad.db")


async def test_who_leaves_a_read_takes_it_along(watcher: AwaitableWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives up while LiteFS is frozen leaves nothing in the thread's loop, where it would wait until the thaw."""
    began, ended = threading.Event(), threading.Event()

    async def hang(database: str) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    monkeypatch.setattr(watcher.watcher.run.supervisor, "read_position", hang)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.read_position)
        assert await anyio.to_thread.run_sync(began.wait, SOON)
        tasks.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, SOON)


async def test_stopping_wakes_everybody(watcher: AwaitableWatcher) -> None:
    """With `WatcherClosed`, which whoever asks later gets too."""
    ended: list[str] = []

    async def wait() -> None:
        with pytest.raises(WatcherClosed):
            await watcher.wait_for_tx(9)
        ended.append("tx")

    async def wait_for_role() -> None:
        with pytest.raises(WatcherClosed):
            await watcher.wait_for_role(Role.REPLICA)
        ended.append("role")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait_for_role)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(watcher.watcher.stop)
    assert sorted(ended) == ["role", "tx"]
    for call in (watcher.start, watcher.read_position, watcher.wait_for_primary):
        with pytest.raises(WatcherClosed):
            await call()


@pytest.fixture
def standalone() -> Iterator[AwaitableWatcher]:
    with BlockingWatcher(Settings(standalone=True)) as watcher:
        yield AwaitableWatcher(watcher)


async def test_standalone(standalone: AwaitableWatcher) -> None:
    """Every transaction is here."""
    assert (await standalone.wait_for_tx(2**60)).txid == 2**60
    assert await standalone.wait_for_primary() is None
    assert await standalone.read_position() is None
