"""A fail-over of a simulated cluster loses what real ones lose, and who comes back with it is a node of another history."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import NoPrimary, Position, WaitTimeout
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.testing.clusters import insert, rows, shown

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]
FailOver = Callable[[SimulatedCluster], None]


def by_kill(cluster: SimulatedCluster) -> None:
    cluster.kill("node-a")
    cluster.elect("node-b")
    insert(cluster, 3)
    cluster.restart("node-a", connect=False)


def by_freeze(cluster: SimulatedCluster) -> None:
    cluster.freeze("node-a")
    cluster.fail_over("node-b", connect=False)
    insert(cluster, 3)
    cluster.thaw("node-a")


def by_lease(cluster: SimulatedCluster) -> None:
    cluster.fail_over("node-b", connect=False)
    insert(cluster, 3)


def parted(cluster: SimulatedCluster, fail_over: FailOver) -> Position:
    """Commit 1, and 2 which nobody else gets, before a fail-over, and 3 after it. Returns where the old primary is."""
    insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.pause_replication()
    lost = insert(cluster, 2)
    fail_over(cluster)
    cluster.resume_replication()
    return lost


def ltx_ends(node: SimulatedNode) -> dict[str, tuple[int, int]]:
    """The checksums before and after, of each LTX file."""
    folder = node.data_dir / "dbs" / "app.db" / "ltx"
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {
        name: (struct.unpack_from(">Q", raw, 40)[0], struct.unpack_from(">Q", raw, -16)[0]) for name, raw in contents.items()
    }


def info(node: SimulatedNode) -> Any:
    connection = http.client.HTTPConnection(node.api_url.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.request("GET", "/info")
        return json.loads(connection.getresponse().read())


fail_overs = pytest.mark.parametrize("fail_over", [by_kill, by_freeze, by_lease])


@fail_overs
def test_an_old_primary_keeps_a_history_of_its_own(cluster: SimulatedCluster, fail_over: FailOver) -> None:
    """The same TXID with another checksum, in ``-pos`` and on its disk, and other rows; and it knows of no primary."""
    lost = parted(cluster, fail_over)
    old, new = cluster["node-a"], cluster["node-b"]
    assert shown(old) == old.position() == lost
    assert shown(new).txid == lost.txid
    assert shown(new).checksum != lost.checksum
    assert (rows(cluster, "node-a"), rows(cluster, "node-b")) == ([1, 2], [1, 3])
    name = f"{lost.txid:016x}-{lost.txid:016x}.ltx"
    assert ltx_ends(old)[name][0] == ltx_ends(new)[name][0]
    assert (ltx_ends(old)[name][1], ltx_ends(new)[name][1]) == (lost.checksum, shown(new).checksum)


@fail_overs
def test_it_knows_of_no_primary_until_it_is_connected(
    cluster: SimulatedCluster, fail_over: FailOver, open_stream: OpenStream
) -> None:
    """Neither its files, nor its stream, nor its API say anything else, and nobody can write there."""
    parted(cluster, fail_over)
    old = cluster["node-a"]
    assert not (old.litefs_dir / ".primary").exists()
    assert (old.litefs_dir / ".lag").read_bytes() == b"+2147483647\n"
    assert open_stream(old).role() == ("init", False, None)
    assert (info(old)["isPrimary"], info(old)["primary"]["hostname"]) == (False, "")
    with (
        closing(sqlite3.connect(cluster.path("node-a"))) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("INSERT INTO t VALUES (9)")


@fail_overs
def test_it_is_reset_when_the_test_says_so(cluster: SimulatedCluster, fail_over: FailOver, open_stream: OpenStream) -> None:
    """At once, whatever the lag: the new history's position, rows and checksums, and nothing of the old one."""
    lost = parted(cluster, fail_over)
    old = cluster["node-a"]
    stream = open_stream(old)
    stream.event()
    cluster.lag = 3600
    cluster.reset("node-a")
    position = shown(cluster["node-b"])
    assert shown(old) == old.position() == position
    assert rows(cluster, "node-a") == [1, 3]
    assert ltx_ends(old) == {f"{1:016x}-{position.txid:016x}.ltx": (0, position.checksum)}
    assert (old.litefs_dir / ".primary").read_bytes() == b"node-b\n"
    assert 0 < int((old.litefs_dir / ".lag").read_bytes()) < 1000
    assert stream.role() == ("primaryChange", False, "node-b")
    event = stream.event()["data"]
    assert (event["txID"], event["postApplyChecksum"]) == tuple(str(position).split("/"))
    assert lost.txid == position.txid
    cluster.lag = 0
    later = insert(cluster, 4)
    cluster.wait_until_replicated()
    assert [shown(node) for node in cluster] == [later] * 3


@fail_overs
def test_it_names_the_primary_before_it_is_reset(cluster: SimulatedCluster, fail_over: FailOver) -> None:
    """As LiteFS does: ``.primary`` is there, and replication has not begun, as ``.lag`` says."""
    lost = parted(cluster, fail_over)
    old = cluster["node-a"]
    cluster.pause_replication("node-a")
    cluster.reconnect("node-a")
    assert (old.litefs_dir / ".primary").read_bytes() == b"node-b\n"
    cluster.sync()
    assert not old.heartbeats
    assert (old.litefs_dir / ".lag").read_bytes() == b"+2147483647\n"
    assert (shown(old), rows(cluster, "node-a")) == (lost, [1, 2])
    cluster.resume_replication("node-a")
    cluster.wait_until_replicated()
    assert (shown(old), rows(cluster, "node-a")) == (shown(cluster["node-b"]), [1, 3])


def test_a_frozen_primary_shows_nothing_of_its_fall_before_it_is_thawed(cluster: SimulatedCluster) -> None:
    """It is what it was for whoever reads an ordinary directory's files; the others go on with another one."""
    insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.freeze("node-a")
    cluster.fail_over("node-b")
    assert (cluster["node-a"].litefs_dir / ".lag").read_bytes() == b"+000000000\n"
    assert not (cluster["node-a"].litefs_dir / ".primary").exists()
    position = insert(cluster, 2)
    cluster.thaw("node-a")
    cluster.wait_until_replicated()
    assert (shown(cluster["node-a"]), cluster["node-a"].primary) == (position, "node-b")


def test_replication_has_begun_only_when_all_databases_are_reset(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """A process that has just started says so in ``.lag``: what arrives first doesn't change that."""
    cluster.create_database("other.db")
    cluster.wait_until_replicated()
    cluster.pause_replication()
    insert(cluster, 1)
    cluster.execute("CREATE TABLE u (x)", database="other.db")
    by_kill(cluster)
    cluster.resume_replication()
    cluster.block("node-a", "other.db")
    cluster.reconnect("node-a")
    eventually(lambda: shown(cluster["node-a"]) == shown(cluster["node-b"]))
    assert shown(cluster["node-a"], "other.db") > shown(cluster["node-b"], "other.db")
    assert (cluster["node-a"].litefs_dir / ".lag").read_bytes() == b"+2147483647\n"
    cluster.unblock("node-a")
    cluster.wait_until_replicated()
    assert shown(cluster["node-a"], "other.db") == shown(cluster["node-b"], "other.db")
    eventually(lambda: 0 < int((cluster["node-a"].litefs_dir / ".lag").read_bytes()) < 1000)


def test_a_replica_that_had_more_than_the_new_primary_is_reset_too(
    cluster: SimulatedCluster, eventually: Eventually
) -> None:
    """Until then it names the new primary, with a ``.lag`` that is a number, and has what is gone."""
    cluster.pause_replication("node-b")
    lost = insert(cluster, 1)
    eventually(lambda: shown(cluster["node-c"]) == lost)
    cluster.kill("node-a")
    cluster.pause_replication("node-c")
    cluster.elect("node-b")
    replica = cluster["node-c"]
    assert (replica.litefs_dir / ".primary").read_bytes() == b"node-b\n"
    assert 0 < int((replica.litefs_dir / ".lag").read_bytes()) < 2147483647
    assert (shown(replica), rows(cluster, "node-c")) == (lost, [1])
    cluster.resume_replication("node-c")
    cluster.wait_until_replicated()
    assert shown(replica) == shown(cluster["node-b"]) < lost
    assert rows(cluster, "node-c") == []
    assert list(ltx_ends(replica)) == [f"{1:016x}-{shown(replica).txid:016x}.ltx"]


def test_a_replica_of_the_same_history_gets_each_transaction_it_lacks(
    cluster: SimulatedCluster, open_stream: OpenStream, eventually: Eventually
) -> None:
    """From a new primary, too: they are of one history, so nothing is replaced by a snapshot."""
    cluster.pause_replication("node-c")
    stream = open_stream(cluster["node-c"])
    stream.event()
    positions = [insert(cluster, number) for number in range(3)]
    eventually(lambda: shown(cluster["node-b"]) == positions[-1])
    cluster.kill("node-a")
    cluster.elect("node-b")
    cluster.resume_replication("node-c")
    assert [stream.role()[2] for _ in range(2)] == [None, "node-b"]
    assert [stream.txid() for _ in positions] == [position.txid for position in positions]
    last = ltx_ends(cluster["node-c"])[f"{positions[2].txid:016x}-{positions[2].txid:016x}.ltx"]
    assert last == (positions[1].checksum, positions[2].checksum)


@pytest.mark.parametrize("directly", [False, True])
def test_each_commit_that_returned_is_in_a_dead_primarys_history(
    cluster: SimulatedCluster, directly: bool, eventually: Eventually
) -> None:
    """Also those of connections that know nothing of the cluster; and no more can be made."""
    before = insert(cluster, 1)
    cluster.wait_until_replicated()
    with closing(sqlite3.connect(cluster.path("node-a"))) as connection:
        cluster.pause_replication()
        with connection:
            connection.execute("INSERT INTO t VALUES (2)")
        if directly:
            cluster["node-a"].kill()
            eventually(lambda: cluster["node-b"].primary is None)
        else:
            cluster.kill_primary()
        assert cluster["node-a"].position().txid == before.txid + 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (3)")
    cluster.elect("node-b")
    cluster.resume_replication()
    cluster.restart("node-a", connect=False)
    assert shown(cluster["node-a"]) == cluster["node-a"].position()
    assert rows(cluster, "node-a") == [1, 2]
    assert ltx_ends(cluster["node-a"])[f"{before.txid + 1:016x}-{before.txid + 1:016x}.ltx"][0] == before.checksum


def test_who_comes_back_with_more_may_be_the_primary_again(cluster: SimulatedCluster) -> None:
    """Then it is the others that go to its history, and nothing of it was lost."""
    cluster.pause_replication()
    position = insert(cluster, 1)
    cluster.kill("node-a")
    cluster.resume_replication()
    with pytest.raises(NoPrimary):
        cluster.reset("node-b")
    cluster.restart("node-a", connect=False)
    assert cluster["node-a"].primary is None
    assert not cluster["node-a"].is_primary
    cluster.elect("node-a")
    cluster.wait_until_replicated()
    assert [shown(node) for node in cluster] == [position] * 3


def test_a_fail_over_that_can_not_be_changes_nothing(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the primary itself, to a frozen node, or while somebody keeps a transaction open: not even a TXID is new."""
    position = insert(cluster, 1)
    cluster.wait_until_replicated()
    with pytest.raises(ValueError, match="the primary already"):
        cluster.fail_over("node-a")
    cluster.freeze("node-b")
    with pytest.raises(RuntimeError, match="frozen"):
        cluster.fail_over("node-b")
    cluster.thaw("node-b")
    monkeypatch.setattr("litefs_watch.testing.engine.PATIENCE", 0.05)
    cluster.block("node-a")
    with pytest.raises(WaitTimeout, match="a transaction on it is open"):
        cluster.fail_over("node-b")
    cluster.unblock("node-a")
    assert cluster.primary is cluster["node-a"]
    cluster.block("node-b")
    insert(cluster, 2)
    with pytest.raises(WaitTimeout, match="a transaction on it is open"):
        cluster.hand_over("node-b")
    cluster.unblock("node-b")
    cluster.wait_until_replicated()
    cluster.sync()
    assert shown(cluster["node-a"]).txid == position.txid + 1
    assert insert(cluster, 3).txid == position.txid + 2


def test_only_replicas_that_run_can_be_reset(cluster: SimulatedCluster) -> None:
    """The primary is what others are reset to; one that is down or frozen can't be."""
    with pytest.raises(ValueError, match="is the primary"):
        cluster.reset("node-a")
    cluster.freeze("node-b")
    with pytest.raises(RuntimeError, match="down or frozen"):
        cluster.reset("node-b")
    cluster.kill("node-c")
    with pytest.raises(RuntimeError, match="down or frozen"):
        cluster.reset("node-c")


def test_a_node_without_a_cluster_can_come_back_and_be_reset(tmp_path: Path, open_stream: OpenStream) -> None:
    """Killed at TXID 8 as the primary, back with it and without a primary, then reset to 3 of another history."""
    with SimulatedNode(tmp_path, databases={"app.db": Position(7, 1 << 63 | 7)}) as node:
        lost = node.commit()
        node.kill()
        node.lose_primary()
        node.restart()
        stream = open_stream(node)
        assert stream.role() == ("init", False, None)
        assert shown(node) == lost == Position(8, lost.checksum)
        assert (node.litefs_dir / ".lag").read_bytes() == b"+2147483647\n"
        node.set_primary("node-b")
        position = node.commit(txid=3)
        assert (shown(node), stream.role()[2], stream.txid()) == (position, "node-b", 3)
        assert os.listdir(node.data_dir / "dbs" / "app.db" / "ltx") == [f"{1:016x}-{3:016x}.ltx"]
