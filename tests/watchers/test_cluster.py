"""Other nodes, as a watcher's user meets them: the picture of the cluster, and waiting until others have a position."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from litefs_watch import BlockingWatcher, Cluster, ConfigError, Position, Role, Settings, WaitTimeout, Watcher, WatcherClosed
from litefs_watch.core.readings import TxEvent
from litefs_watch.sources import stream as stream_module
from litefs_watch.testing import SimulatedCluster
from tests.test_import import loaded

PATIENCE = 5.0


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(3, lag=0.0) as made:
        made.execute("CREATE TABLE t (x)")
        yield made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stream_module, "LAST_PAUSE", 0.002)


def settings(cluster: SimulatedCluster, **overrides: Any) -> Settings:
    """The primary's. As one would set them on each node alike, its own address is among its peers'."""
    return cluster["node-a"].settings(peers=[cluster[name].api_url for name in ("node-a", "node-b", "node-c")], **overrides)


def insert(cluster: SimulatedCluster) -> Position:
    return cluster.execute("INSERT INTO t VALUES (1)")


async def until(watcher: Watcher, condition: Any) -> Cluster:
    """The first picture that is so."""
    with anyio.fail_after(PATIENCE), watcher.cluster_changes() as changes:
        if condition(picture := watcher.cluster):
            return picture
        async for picture in changes:
            if condition(picture):
                return picture
    raise AssertionError("the watcher has ended")


def connected(picture: Cluster) -> bool:
    return all(peer.connected for peer in picture.peers) and sum(peer.counts for peer in picture.peers) == 2


async def test_a_position_is_waited_for_until_others_have_it(cluster: SimulatedCluster) -> None:
    """Two nodes, this one not among them though its address is; then the picture shows the same."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        position = insert(cluster)
        assert await watcher.wait_for_replicas(position, 2, timeout=PATIENCE) == 2
        own, *others = watcher.cluster.peers
        assert (own.counts, own.role) == (False, Role.PRIMARY)
        assert "this node itself" in own.detail
        for peer in others:
            assert (peer.connected, peer.role, peer.primary) == (True, Role.REPLICA, "node-a")
            assert peer.positions["app.db"] == position
            assert peer.heard is not None
        await until(watcher, lambda picture: [peer.behind for peer in picture.peers[1:]] == [{"app.db": 0}] * 2)
        with pytest.raises(WaitTimeout, match=r"0 of 1 other nodes had position .* of app\.db within 0 s: .* is at 0000"):
            await watcher.wait_for_replicas(Position(position.txid, 7), timeout=0)
        with pytest.raises(WaitTimeout, match="2 of 3 other nodes had position"):
            await watcher.wait_for_replicas(position, 3, timeout=0)
        assert watcher.statistics().waiters == 0
        assert watcher.statistics().timeouts == 2


async def test_one_that_lags_is_waited_for_and_shown_behind(cluster: SimulatedCluster) -> None:
    """A reader's open transaction stops its replication."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        await watcher.wait_for_replicas(insert(cluster), 2, timeout=PATIENCE)
        reader = cluster.connect("node-c")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        first, second = insert(cluster), insert(cluster)
        assert await watcher.wait_for_replicas(second, timeout=PATIENCE) == 1
        with pytest.raises(WaitTimeout, match="1 of 2 other nodes"):
            await watcher.wait_for_replicas(first, 2, timeout=0)
        await until(watcher, lambda picture: picture.peers[2].behind == {"app.db": 2})
        reader.close()
        assert await watcher.wait_for_replicas(first, 2, timeout=PATIENCE) == 2


async def test_what_a_peer_had_before_its_stream_broke_does_not_count(cluster: SimulatedCluster) -> None:
    """Until it says more, of the same history: then what was before counts again."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        before = insert(cluster)
        await watcher.wait_for_replicas(before, 2, timeout=PATIENCE)
        for name in ("node-b", "node-c"):
            cluster[name].drop_stream()
        await until(watcher, lambda picture: connected(picture) and not any(watcher_has(watcher, before)))
        with pytest.raises(WaitTimeout, match="has not said where it is since it is connected"):
            await watcher.wait_for_replicas(before, timeout=0)
        after = insert(cluster)
        assert await watcher.wait_for_replicas(after, 2, timeout=PATIENCE) == 2
        assert await watcher.wait_for_replicas(before, 2, timeout=PATIENCE) == 2


def watcher_has(watcher: Watcher, position: Position) -> Iterator[bool]:
    assert watcher.run.cluster is not None
    yield watcher.run.cluster.count("app.db", position) > 0


async def test_a_peer_decides_nothing_about_this_node(cluster: SimulatedCluster) -> None:
    """Neither its role nor its positions, whatever others say."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        known = watcher.status.positions
        node = cluster["node-b"]
        node.commit("other.db")
        node.become_primary()
        await until(
            watcher, lambda picture: picture.peers[1].role is Role.PRIMARY and "other.db" in picture.peers[1].positions
        )
        assert watcher.role is Role.PRIMARY
        assert watcher.status.positions == known


async def test_waiting_ends_with_the_watcher_and_leaves_nothing_behind(cluster: SimulatedCluster) -> None:
    """Cancelled or stopped."""
    async with Watcher(settings(cluster)) as watcher:
        with anyio.move_on_after(0.001):
            await watcher.wait_for_replicas(Position(1000, 1))
        assert watcher.statistics().waiters == 0
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(WatcherClosed):
                    await watcher.wait_for_replicas(Position(1000, 1))

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await watcher.stop()
    assert watcher.cluster.peers == ()


def test_threads_wait_and_see_the_same(cluster: SimulatedCluster) -> None:
    """`BlockingWatcher` has the same calls."""
    with BlockingWatcher(settings(cluster)) as watcher, watcher.cluster_changes() as changes:
        while not connected(watcher.cluster):
            changes.take(PATIENCE)
        position = insert(cluster)
        assert watcher.wait_for_replicas(position, 2, timeout=PATIENCE) == 2
        with pytest.raises(WaitTimeout):
            watcher.wait_for_replicas(Position(1000, 1), timeout=0.01)
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                watcher.wait_for_replicas(Position(1000, 1), timeout=PATIENCE)
            except WatcherClosed as error:
                failures.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while not watcher.statistics().waiters:
            pass
        watcher.stop()
        thread.join(PATIENCE)
        assert failures


@pytest.mark.parametrize(
    ("options", "call", "error", "reason"),
    [
        ({}, {"position": Position(1, 1)}, ConfigError, "LITEFS_PEERS"),
        (
            {"peers": "http://127.0.0.1:1"},
            {"position": Position(1, 1), "count": 2},
            ConfigError,
            "2 other nodes are asked for",
        ),
        ({"peers": "http://127.0.0.1:1"}, {"position": 7}, ValueError, "names its history"),
        ({"peers": "http://127.0.0.1:1"}, {"position": Position(1, 1), "count": 0}, ValueError, "1 or more"),
    ],
)
async def test_a_wait_that_cant_work_says_why(
    cluster: SimulatedCluster, options: Any, call: Any, error: type[Exception], reason: str
) -> None:
    """Nobody waits for what never comes."""
    async with Watcher(cluster["node-a"].settings(**options)) as watcher:
        with pytest.raises(error, match=reason):
            await watcher.wait_for_replicas(**call)


async def test_without_peers_the_picture_is_empty_and_nothing_is_loaded() -> None:
    """Nobody pays for what he does not use; standalone a wait is met, by nobody."""
    async with Watcher(Settings(standalone=True, database="app.db", peers="http://127.0.0.1:1")) as watcher:
        assert watcher.cluster == Cluster()
        assert await watcher.wait_for_replicas(Position(1, 1)) == 0
    modules = loaded("from litefs_watch import Settings, Watcher; Watcher(Settings('/nowhere', 'app.db'))")
    assert (
        not {f"litefs_watch.{name}" for name in ("cluster", "core.peers", "fly", "sources.peers", "watchers.cluster")}
        & modules
    )


async def test_a_fault_in_what_is_asked_about_others_is_none_of_this_nodes_stream(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged; the positions come, and what is known of others is less, and not wrong."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        peers = watcher.run.board.peers
        assert peers is not None

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(peers.own, "apply", fail)
        position = insert(cluster)
        await watcher.wait_for_tx(position, timeout=PATIENCE)
        assert await watcher.wait_for_replicas(position, 2, timeout=PATIENCE) == 2
        assert watcher.statistics().restarts == 0
        monkeypatch.undo()
        assert await watcher.wait_for_replicas(insert(cluster), 2, timeout=PATIENCE) == 2


async def test_who_had_it_for_a_moment_does_not_count(cluster: SimulatedCluster) -> None:
    """A peer that says, in one breath, that it has a position and that it went back: the wait goes on."""
    async with Watcher(settings(cluster)) as watcher:
        await until(watcher, connected)
        other, url = watcher.run.cluster, cluster["node-b"].api_url
        assert other is not None
        wanted = Position(1000, 1)
        found: list[int] = []

        async def wait() -> None:
            found.append(await watcher.wait_for_replicas(wanted, timeout=PATIENCE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            other.hear(url, TxEvent(1.0, "app.db", wanted), ("", ""))
            other.hear(url, TxEvent(2.0, "app.db", Position(999, 2)), ("", ""))
            await anyio.wait_all_tasks_blocked()
            assert (found, watcher.statistics().waiters) == ([], 1)
            other.hear(url, TxEvent(3.0, "app.db", wanted), ("", ""))
        assert found == [1]
