"""What goes wrong in a simulated cluster goes wrong as on LiteFS, and is over when the test says so."""

from __future__ import annotations

import http.client
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from litefs_watch import NoPrimary, WaitTimeout
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.testing.commits import CommitWatch
from tests.testing.clusters import insert, rows, shown

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]


def test_an_open_transaction_stops_replication_of_its_database(cluster: SimulatedCluster) -> None:
    """And, as on LiteFS, of all others that come behind it in the node's one stream; its end lets everything in."""
    cluster.create_database("other.db")
    cluster.wait_until_replicated()
    with closing(sqlite3.connect(cluster.path("node-b"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT * FROM t").fetchall() == []
        before = shown(cluster["node-b"]), shown(cluster["node-b"], "other.db")
        insert(cluster, 1)
        other = cluster.execute("CREATE TABLE u (x)", database="other.db")
        with pytest.raises(WaitTimeout, match="to node-b"):
            cluster.wait_until_replicated(0.1)
        assert (shown(cluster["node-b"]), shown(cluster["node-b"], "other.db")) == before
        assert not cluster["node-b"].heartbeats
        assert rows(cluster, "node-c") == [1]
        assert cluster.query("node-c", "SELECT * FROM u", database="other.db") == []
        reader.execute("COMMIT")
        cluster.wait_until_replicated()
        assert reader.execute("SELECT x FROM t").fetchall() == [(1,)]
        assert shown(cluster["node-b"], "other.db") == other


def test_a_replica_that_was_down_catches_up(cluster: SimulatedCluster) -> None:
    """While it is down nobody waits for it."""
    cluster["node-b"].stop()
    position = insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.restart("node-b")
    cluster.wait_until_replicated()
    assert shown(cluster["node-b"]) == position
    assert rows(cluster, "node-b") == [1]


def test_a_replica_that_is_cut_off_names_its_primary_now_and_then(
    cluster: SimulatedCluster, open_stream: OpenStream
) -> None:
    """As LiteFS does, about once a second, and nothing arrives until it is connected again."""
    stream = open_stream(cluster["node-b"])
    stream.event()
    cluster.cut_off("node-b")
    before = shown(cluster["node-b"])
    position = insert(cluster, 1)
    assert [stream.role()[2] for _ in range(5)] == [None, "node-a", None, "node-a", None]
    assert shown(cluster["node-b"]) == before
    assert rows(cluster, "node-c") == [1]
    cluster.reconnect("node-b")
    cluster.wait_until_replicated()
    assert shown(cluster["node-b"]) == position
    assert cluster["node-b"].primary == "node-a"
    with pytest.raises(ValueError, match="is the primary"):
        cluster.cut_off("node-a")


def test_a_cut_off_replica_follows_whoever_is_primary_when_it_is_back(cluster: SimulatedCluster) -> None:
    """Though it has heard nothing of the election."""
    cluster.cut_off("node-b")
    insert(cluster, 1)
    cluster.hand_over("node-c", seconds=0)
    assert cluster["node-b"].primary is None
    cluster.reconnect("node-b")
    cluster.wait_until_replicated()
    assert cluster["node-b"].primary == "node-c"
    assert rows(cluster, "node-b") == [1]


def test_a_frozen_node_goes_on_where_it_was(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """A frozen replica applies nothing; what is committed on a frozen primary counts from the thaw on."""
    cluster["node-b"].freeze()
    before = shown(cluster["node-b"])
    position = insert(cluster, 1)
    eventually(lambda: shown(cluster["node-c"]) == position)
    assert shown(cluster["node-b"]) == before
    assert rows(cluster, "node-b") == []
    cluster["node-b"].thaw()
    cluster.wait_until_replicated()
    cluster["node-a"].freeze()
    with closing(cluster.connect("node-a")) as connection, connection:
        connection.execute("INSERT INTO t VALUES (2)")
    assert shown(cluster["node-a"]) == position
    eventually(lambda: not cluster["node-b"].heartbeats)
    assert shown(cluster["node-b"]) == position
    assert rows(cluster, "node-b") == [1]
    cluster["node-a"].thaw()
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [1, 2]


def test_the_lag_is_what_one_sets(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """A replica is that much later than the primary; its own lag wins, and a change counts at once."""
    cluster.lag = 0.1
    cluster.set_lag("node-c", 3600)
    began = time.monotonic()
    position = insert(cluster, 1)
    assert shown(cluster["node-b"]) < position
    assert rows(cluster, "node-b") == []
    eventually(lambda: shown(cluster["node-b"]) == position)
    assert 0.1 <= time.monotonic() - began < 1
    assert shown(cluster["node-c"]) < position
    cluster.set_lag("node-c", 0)
    eventually(lambda: shown(cluster["node-c"]) == position)
    cluster.set_lag("node-c", None)
    cluster.lag = 3600
    insert(cluster, 2)
    with pytest.raises(WaitTimeout, match="node-b, node-c"):
        cluster.wait_until_replicated(0.05)
    cluster.lag = 0
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == rows(cluster, "node-c") == [1, 2]


def test_whoever_writes_on_a_frozen_primary_waits(cluster: SimulatedCluster) -> None:
    """And readers of what is there do not; what was committed before is a transaction, and the thaw lets writers go on."""
    before = insert(cluster, 1)
    with closing(sqlite3.connect(cluster.path("node-a"), timeout=0)) as connection:
        with connection:
            connection.execute("INSERT INTO t VALUES (2)")
        cluster.freeze("node-a")
        assert cluster["node-a"].position().txid == before.txid + 1
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("INSERT INTO t VALUES (3)")
        assert connection.execute("SELECT x FROM t ORDER BY x").fetchall() == [(1,), (2,)]
        cluster.thaw("node-a")
        with connection:
            connection.execute("INSERT INTO t VALUES (4)")
    cluster.wait_until_replicated()
    assert [rows(cluster, node.hostname) for node in cluster] == [[1, 2, 4]] * 3


def test_a_node_frozen_by_the_cluster_may_be_thawed_by_itself(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """Or killed and restarted: who writes there does not wait for ever."""

    def written() -> bool:
        try:
            with closing(sqlite3.connect(cluster.path("node-a"), timeout=0)) as connection, connection:
                connection.execute("INSERT INTO t VALUES (1)")
        except sqlite3.OperationalError:
            return False
        return True

    cluster.freeze("node-a")
    assert not written()
    cluster["node-a"].thaw()
    eventually(written)
    cluster.freeze("node-a")
    cluster.kill("node-a")
    cluster.restart("node-a")
    eventually(written)


def test_a_write_that_goes_on_keeps_a_primary_from_being_frozen(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is either before, as a transaction, or after; not both."""
    monkeypatch.setattr("litefs_watch.testing.engine.PATIENCE", 0.05)
    with closing(sqlite3.connect(cluster.path("node-a"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(WaitTimeout, match="freeze 'node-a'"):
            cluster.freeze("node-a")
        assert not cluster["node-a"].frozen
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [1]


def test_a_node_can_be_blocked_and_unblocked(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """As by an application's open read transaction, while other nodes go on."""
    cluster.block("node-b")
    cluster.block("node-b")
    before = shown(cluster["node-b"])
    position = insert(cluster, 1)
    eventually(lambda: shown(cluster["node-c"]) == position)
    with pytest.raises(WaitTimeout, match="to node-b"):
        cluster.wait_until_replicated(0.05)
    assert shown(cluster["node-b"]) == before
    cluster.unblock("node-b")
    cluster.unblock("node-b")
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [1]
    cluster.block("node-c")  # is closed with the cluster


def test_a_replica_can_flap(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """It names its primary, and nobody, and in the end is connected again, with what came meanwhile."""
    stream = open_stream(cluster["node-b"])
    stream.event()
    cluster.flap("node-b", times=2)
    assert [stream.role()[2] for _ in range(6)] == [None, "node-a", None, "node-a", None, "node-a"]
    insert(cluster, 1)
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [1]
    with pytest.raises(ValueError, match="is the primary"):
        cluster.flap("node-a")
    cluster.cut_off("node-b")
    with pytest.raises(RuntimeError, match="no primary to lose"):
        cluster.flap("node-b")


def test_any_node_can_be_killed(cluster: SimulatedCluster) -> None:
    """A replica, too; the others go on, and it catches up when it is back."""
    cluster.kill("node-b")
    assert not cluster["node-b"].running
    position = insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.restart("node-b")
    cluster.wait_until_replicated()
    assert (shown(cluster["node-b"]), rows(cluster, "node-b")) == (position, [1])


def test_a_primary_with_an_open_transaction_is_killed_all_the_same(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some patience, as the test that keeps it open may be the one that kills."""
    monkeypatch.setattr("litefs_watch.testing.engine.PATIENCE", 0.05)
    cluster.block("node-a")
    cluster.kill("node-a")
    assert not cluster["node-a"].running
    with pytest.raises(NoPrimary):
        _ = cluster.primary
    cluster.unblock("node-a")
    cluster.restart("node-a")
    insert(cluster, 1)


def test_what_was_committed_while_a_node_was_cut_off_comes_one_by_one(
    cluster: SimulatedCluster, open_stream: OpenStream
) -> None:
    """And after it has been stopped and started by itself, too, whatever has happened meanwhile."""
    stream = open_stream(cluster["node-b"])
    stream.event()
    cluster.cut_off("node-b")
    positions = [insert(cluster, number) for number in range(3)]
    cluster.reconnect("node-b")
    while (event := stream.event())["type"] != "tx":
        pass
    assert [int(event["data"]["txID"], 16), stream.txid(), stream.txid()] == [position.txid for position in positions]
    cluster["node-b"].stop()
    cluster.fail_over("node-c")
    insert(cluster, 3)
    cluster["node-b"].start()
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [0, 1, 2, 3]


@pytest.mark.parametrize("part", ["_publish", "_feel"])
def test_a_fault_of_the_cluster_s_own_is_told(
    part: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for replication then is told, and the next call, and the stop, once; a new start is a whole one."""
    cluster = SimulatedCluster(2, lag=60, fuse=False).start()
    cluster.execute("CREATE TABLE t (x)")
    wait_for, waiting = cluster._changed.wait_for, threading.Event()
    woken: list[object] = []

    def wait(condition: Callable[[], object], timeout: float) -> object:
        waiting.set()  # with the lock held, which the cluster's thread gets when this waits
        woken.append(wait_for(condition, timeout))
        return woken[0]

    def fail(*_: object) -> bool:
        if waiting.is_set():
            raise ZeroDivisionError("a fault")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(cluster._changed, "wait_for", wait)
        patch.setattr(cluster, part, fail)
        with pytest.raises(RuntimeError, match="has failed, and replicates no more: ZeroDivisionError") as told:
            cluster.wait_until_replicated()
    assert isinstance(told.value.__cause__, ZeroDivisionError)
    assert woken == [True]
    for call in (cluster.connect, cluster.sync, cluster.kill_primary, lambda: cluster["node-b"], cluster.stop):
        with pytest.raises(RuntimeError, match="has failed"):
            call()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert not any(node.running for node in cluster)
    cluster.stop()
    cluster.lag = 0
    with cluster:
        cluster.execute("CREATE TABLE t (x)")
        cluster.wait_until_replicated()


def test_a_fault_while_somebody_asks_a_node_is_told(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node answers all the same: who asked can't be told."""
    with monkeypatch.context() as patch:
        patch.setattr(CommitWatch, "image_if_touched", lambda _: None)  # the cluster's own thread has no part in it
        patch.setattr(CommitWatch, "image", lambda _: 1 / 0)
        with closing(http.client.HTTPConnection(cluster.primary.api_url.removeprefix("http://"), timeout=10)) as connection:
            connection.request("GET", "/info")
            assert connection.getresponse().status == 200
    with pytest.raises(RuntimeError, match="has failed, and replicates no more: ZeroDivisionError"):
        cluster.sync()
    with pytest.raises(RuntimeError, match="has failed"):
        cluster.stop()
