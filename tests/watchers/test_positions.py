"""Waiting for a whole position: its history counts, and on the primary one that is in none any more is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio
import anyio.to_thread
import pytest

from litefs_watch import BlockingWatcher, Position, Role, Settings, TransactionLost, WaitTimeout, Watcher
from litefs_watch.position import Where
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.watchers.bridge import AwaitableWatcher

SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def other(position: Position) -> Position:
    """That of another history."""
    return Position(position.txid, position.checksum ^ 1)


async def test_a_position_that_is_here_is_met(node: SimulatedNode) -> None:
    """At once, and what is waited for wakes."""
    async with Watcher(node.settings()) as watcher:
        first = node.commit()
        assert (await watcher.wait_for_tx(first, timeout=SOON)) == first
        assert watcher.has_tx(first)
        second = node.commit()
        assert (await watcher.wait_for_tx(second, timeout=SOON)) == second
        assert watcher.has_tx(first)
        assert not watcher.has_tx(other(second))


async def test_a_glance_knows_nothing_of_a_watcher_that_does_not_run(node: SimulatedNode) -> None:
    """It says what the watcher says, and before the start and after the end nothing."""
    watcher = Watcher(node.settings())
    assert watcher.glance("app.db") == (Role.UNKNOWN, None)
    async with watcher:
        here = await watcher.wait_for_tx(node.commit(), timeout=SOON)
        assert watcher.glance("app.db") == (watcher.role, here)
        assert watcher.has_position("app.db", here)
        assert not watcher.has_position("app.db", other(here))
    assert watcher.glance("app.db") == (Role.UNKNOWN, None)
    assert not watcher.has_position("app.db", here)


@pytest.mark.parametrize("lost", [other, lambda here: Position(here.txid + 5, 9)], ids=["elsewhere", "ahead"])
async def test_what_is_lost_is_said_on_the_primary(node: SimulatedNode, lost: Callable[[Position], Position]) -> None:
    """At once: no position is known before its transaction is there."""
    async with Watcher(node.settings()) as watcher:
        here = await watcher.wait_for_tx(node.commit(), timeout=SOON)
        with pytest.raises(TransactionLost, match="in no history any more"):
            await watcher.wait_for_tx(lost(here), timeout=SOON)


@pytest.mark.parametrize("lost", [other, lambda here: Position(here.txid + 5, 9)], ids=["elsewhere", "ahead"])
def test_what_is_lost_is_said_to_threads(node: SimulatedNode, lost: Callable[[Position], Position]) -> None:
    """The same for `BlockingWatcher`."""
    with BlockingWatcher(node.settings()) as watcher:
        here = watcher.wait_for_tx(node.commit(), timeout=SOON)
        assert watcher.has_tx(here)
        with pytest.raises(TransactionLost):
            watcher.wait_for_tx(lost(here), timeout=SOON)


def test_what_a_thread_has_read_without_events_is_known(node: SimulatedNode) -> None:
    """At once: the client that gets it comes back with it before a look tells of it."""
    with BlockingWatcher(node.settings(api_url=None)) as watcher:
        for _ in range(20):
            here = node.commit()
            assert watcher.read_position() == here
            assert watcher.has_tx(here)


async def test_a_replica_waits_for_what_is_elsewhere() -> None:
    """It may be the one that is reset; the message says what it has."""
    with SimulatedCluster(size=2, lag=0.0) as cluster:
        async with Watcher(cluster.replicas[0].settings()) as watcher:
            here = await watcher.wait_for_tx(cluster.execute("CREATE TABLE t (x)"), timeout=SOON)
            with pytest.raises(WaitTimeout, match="of another history"):
                await watcher.wait_for_tx(other(here), timeout=0)
            assert (watcher.role, watcher.statistics().waiters) == (Role.REPLICA, 0)


async def test_a_replica_that_becomes_the_primary_says_it_to_who_waits() -> None:
    """The transaction went with the old primary."""
    with SimulatedCluster(size=2, lag=60.0) as cluster:
        new = cluster.replicas[0]
        async with Watcher(new.settings()) as watcher:
            lost = cluster.execute("CREATE TABLE t (x)")
            said: list[str] = []

            async def wait() -> None:
                try:
                    await watcher.wait_for_tx(lost, timeout=SOON)
                except TransactionLost as error:
                    said.append(str(error))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                cluster.kill_primary()
                await anyio.to_thread.run_sync(cluster.elect, new.hostname)
            assert len(said) == 1


async def replaced(node: SimulatedNode, watcher: Watcher) -> Position:
    """The node follows another primary, whose history has gone on. Returns where that is."""
    node.set_primary("node-c")
    async with watcher.changes() as changes:
        while watcher.primary != "node-c":
            await changes.take(SOON)
    return node.commit(txid=node.position().txid + 4)


async def test_what_a_fail_over_may_have_dropped_is_not_here() -> None:
    """Its TXID is reached, in what a new primary has: the wait ends at once, and says who can tell."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(node.settings()) as watcher:
            await watcher.wait_for_role(Role.REPLICA, timeout=SOON)
            wanted = Position(node.position().txid + 2, 0x8000000000000BAD)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(replaced, node, watcher)
                with pytest.raises(WaitTimeout, match=r"may be lost: .*; ask the primary"):
                    await watcher.wait_for_tx(wanted, timeout=SOON)
            assert not watcher.has_tx(wanted)
            with pytest.raises(WaitTimeout, match="may be lost"):
                await watcher.wait_for_tx(wanted, timeout=SOON)
            node.become_primary()
            await watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
            assert await watcher.wait_for_tx(wanted, timeout=SOON) == node.position()


async def test_what_litefs_has_a_file_of_is_here() -> None:
    """It has followed another primary since, which sent it no snapshot: the files are those of its history."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(node.settings()) as watcher:
            wanted = node.commit()
            await watcher.wait_for_tx(wanted, timeout=SOON)
            here = await replaced(node, watcher)
            await watcher.wait_for_tx(here, timeout=SOON)
            assert watcher.run.view("app.db").where(wanted) is Where.DOUBTED
            assert await watcher.wait_for_tx(wanted, timeout=SOON) == here
            with pytest.raises(WaitTimeout, match="may be lost"):  # the files have another one of that number
                await watcher.wait_for_tx(other(wanted), timeout=SOON)


@pytest.mark.parametrize("awaited", [False, True], ids=["threads", "any loop"])
def test_both_are_told_to_threads_and_in_any_loop(awaited: bool) -> None:
    """`BlockingWatcher`, and `AwaitableWatcher` over it."""
    with SimulatedNode(primary="node-b") as node, BlockingWatcher(node.settings()) as watcher:

        def wait(wanted: Position) -> Position:
            if awaited:
                return anyio.run(lambda: AwaitableWatcher(watcher).wait_for_tx(wanted, timeout=SOON))
            return watcher.wait_for_tx(wanted, timeout=SOON)

        known = node.commit()
        wait(known)
        with watcher.changes() as changes:
            node.set_primary("node-c")
            while watcher.primary != "node-c":
                changes.take(SOON)
        here = node.commit(txid=known.txid + 4)
        wait(here)
        assert wait(known) == here
        lost = Position(known.txid + 2, 0x8000000000000BAD)
        assert not watcher.has_tx(lost)
        with pytest.raises(WaitTimeout, match="may be lost"):
            wait(lost)


async def test_standalone_has_every_position() -> None:
    """There are no other nodes."""
    async with Watcher(Settings(standalone=True)) as watcher:
        assert watcher.has_tx(Position(7, 9))
        assert (await watcher.wait_for_tx(Position(7, 9), database="app.db", timeout=SOON)) == Position(7, 9)


@pytest.mark.parametrize("wanted", [Position(-1, 0), Position(2**64, 0), Position(1, 2**64)])
async def test_a_position_beyond_64_bits_is_refused(node: SimulatedNode, wanted: Position) -> None:
    """As a TXID is."""
    async with Watcher(node.settings()) as watcher:
        with pytest.raises(ValueError, match="whole number"):
            await watcher.wait_for_tx(wanted)


async def test_whether_this_is_the_primary_is_looked_at_anew(node: SimulatedNode) -> None:
    """Not taken from what is known; and who is no primary is told without a look."""
    async with Watcher(node.settings(idle_interval=60.0, silence=60.0)) as watcher:
        looks = watcher.statistics().rereads
        assert await watcher.confirm_primary(timeout=SOON)
        assert watcher.statistics().rereads > looks
        with pytest.raises(WaitTimeout, match="nothing told whether this node is the primary"):
            await watcher.confirm_primary(timeout=0)
    with SimulatedCluster(size=2, lag=0.0) as cluster:
        async with Watcher(cluster.replicas[0].settings()) as watcher:
            assert not await watcher.confirm_primary(timeout=SOON)
    async with Watcher(Settings(database="app.db", standalone=True)) as watcher:
        assert await watcher.confirm_primary(timeout=SOON)


def test_it_is_asked_in_threads(node: SimulatedNode) -> None:
    """`BlockingWatcher` has it, too."""
    with BlockingWatcher(node.settings(idle_interval=60.0, silence=60.0)) as watcher:
        assert watcher.confirm_primary(timeout=SOON)


async def test_it_is_asked_from_any_loop(node: SimulatedNode) -> None:
    """And `AwaitableWatcher`."""
    watcher = BlockingWatcher(node.settings(idle_interval=60.0, silence=60.0))
    try:
        assert await AwaitableWatcher(watcher).confirm_primary(timeout=SOON)
    finally:
        await anyio.to_thread.run_sync(watcher.stop)


async def test_a_primary_that_is_one_no_longer_is_found_out(node: SimulatedNode) -> None:
    """Where no event says so: by the look that the question asks for."""
    async with Watcher(node.settings(idle_interval=60.0, silence=60.0, api_url=None)) as watcher:
        await watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        watcher._run.supervisor._files.close()  # type: ignore[union-attr]
        node.set_primary("other")
        assert not await watcher.confirm_primary(timeout=SOON)


async def test_a_position_is_read_with_who_is_the_primary(node: SimulatedNode) -> None:
    """Where no source has noticed: the file may be of another history, which is known before the position is handed out."""
    async with Watcher(node.settings(idle_interval=60.0, silence=60.0, api_url=None)) as watcher:
        await watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        assert watcher.run.supervisor is not None
        watcher.run.supervisor._files.close()
        term = watcher.run.term
        await watcher.read_position()
        assert watcher.run.term == term
        node.set_primary("other")
        await watcher.read_position()
        assert watcher.run.term != term


def test_a_position_is_read_with_who_is_the_primary_in_threads(node: SimulatedNode) -> None:
    """The same, in the thread that reads; the role follows."""
    with BlockingWatcher(node.settings(idle_interval=60.0, silence=60.0, api_url=None)) as watcher:
        watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        assert watcher.run.supervisor is not None
        watcher.run.supervisor._files.close()
        term = watcher.run.term
        node.set_primary("other")
        watcher.read_position()
        assert watcher.run.term != term
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
