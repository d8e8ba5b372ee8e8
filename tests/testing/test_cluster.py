"""A simulated cluster replicates real databases as LiteFS does: in order, with a lag, and back in history if need be."""

from __future__ import annotations

import gc
import http.client
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import NoPrimary, Position, WaitTimeout
from litefs_watch.testing import SimulatedCluster, SimulatedNode, fuse_available
from litefs_watch.testing.sqlite_file import DatabaseFile

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(params=["delete", "wal"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster(tmp_path: Path, mode: str) -> Iterator[SimulatedCluster]:
    """Three nodes with a table of one column, in either journal mode, and no lag."""
    with SimulatedCluster(directory=tmp_path, lag=0, regions=("ams", "iad")) as cluster:
        with closing(cluster.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("CREATE TABLE t (x)")
        cluster.wait_until_replicated()
        yield cluster


def insert(cluster: SimulatedCluster, x: int) -> Position:
    return cluster.execute("INSERT INTO t VALUES (?)", (x,))


def rows(cluster: SimulatedCluster, hostname: str) -> list[int]:
    return [x for (x,) in cluster.query(hostname, "SELECT x FROM t ORDER BY x")]


def shown(node: SimulatedNode, database: str = "app.db") -> Position:
    return Position.parse((node.litefs_dir / f"{database}-pos").read_bytes())


def test_the_first_node_starts_as_the_primary_and_all_are_where_it_is() -> None:
    """The others are its replicas; each has its own directory and API, and its region."""
    with SimulatedCluster(2, regions=("ams", "iad"), databases=("a.db", "b.db")) as cluster:
        assert [node.hostname for node in cluster] == ["node-a", "node-b"]
        assert cluster.primary is cluster["node-a"]
        assert cluster.replicas == [cluster["node-b"]]
        assert cluster["node-b"].primary == "node-a"
        assert cluster["node-b"].settings().region == "iad"
        assert len({node.api_url for node in cluster}) == len({node.litefs_dir for node in cluster}) == 2
        for database in ("a.db", "b.db"):
            assert shown(cluster["node-a"], database) == shown(cluster["node-b"], database)
            assert cluster.query("node-b", "SELECT * FROM sqlite_master", database=database) == []
    with pytest.raises(ValueError, match="each hostname once"):
        SimulatedCluster(hostnames=("a", "a"))


def test_nothing_is_left_behind() -> None:
    """No thread, no descriptor, and no file."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    with SimulatedCluster() as cluster:
        directory = cluster["node-a"].directory.parent
        cluster.execute("CREATE TABLE t (x)")
        cluster.hand_over("node-c", seconds=0)
        cluster.kill_primary()
    cluster.stop()
    gc.collect()
    assert set(threading.enumerate()) == threads
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert not directory.exists()


def test_a_txid_shows_before_the_commit_returns(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """With the cluster's own connections, each commit is one TXID, in ``-pos`` and on its way to whoever follows."""
    stream = open_stream(cluster.primary)
    stream.event()
    with closing(cluster.connect()) as connection:
        for number in range(20):
            before = shown(cluster.primary)
            with connection:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
            assert shown(cluster.primary).txid == before.txid + 1
            assert stream.txid() == before.txid + 1


def test_rows_are_there_before_their_txid_is(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """On every replica, once ``-pos`` or an event shows a TXID, a new and an old connection see its rows."""
    streams = {node.hostname: open_stream(node) for node in cluster.replicas}
    old = {hostname: sqlite3.connect(cluster.path(hostname)) for hostname in streams}
    for stream in streams.values():
        stream.event()
    for number in range(30):
        position = insert(cluster, number)
        for hostname, stream in streams.items():
            assert stream.txid() == position.txid
            assert shown(cluster[hostname]) == position
            assert rows(cluster, hostname) == list(range(number + 1))
            assert old[hostname].execute("SELECT max(x) FROM t").fetchone() == (number,)
    for connection in old.values():
        connection.close()


def test_every_txid_is_exactly_its_own_state(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """Of several transactions under way a replica applies one after the other, and tells of each."""
    stream = open_stream(cluster["node-b"])
    stream.event()
    cluster.pause_replication("node-b")
    positions = [insert(cluster, number) for number in range(10)]
    assert rows(cluster, "node-b") == []
    cluster.resume_replication("node-b")
    assert [stream.txid() for _ in positions] == [position.txid for position in positions]


def test_a_transaction_that_has_to_wait_holds_up_the_next_one(
    cluster: SimulatedCluster, open_stream: OpenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are applied in their order, also if what was in the way is gone just before the second is tried."""
    stream = open_stream(cluster["node-b"])
    stream.event()
    cluster.pause_replication()
    positions = [insert(cluster, number) for number in range(2)]
    replace, refused = DatabaseFile.replace, [False]

    def refuse_once(file: DatabaseFile, image: bytes, *, read_only: bool) -> bool:
        if not refused[0]:
            refused[0] = True
            return False
        return replace(file, image, read_only=read_only)

    monkeypatch.setattr(DatabaseFile, "replace", refuse_once)
    cluster.resume_replication("node-b")
    assert [stream.txid() for _ in positions] == [position.txid for position in positions]
    assert refused == [True]


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


def test_commits_of_ordinary_connections_are_noticed(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """Of this process and of others: by themselves within milliseconds, and with `sync` at once."""
    before = shown(cluster.primary)
    with closing(sqlite3.connect(cluster.path("node-a"))) as connection:
        with connection:
            connection.execute("INSERT INTO t VALUES (1)")
        eventually(lambda: shown(cluster.primary).txid == before.txid + 1)
        with connection:
            connection.execute("INSERT INTO t VALUES (2)")
        cluster.sync()
        assert shown(cluster.primary).txid == before.txid + 2
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (3)'); c.commit()"
    subprocess.run([sys.executable, "-c", script, str(cluster.path("node-a"))], check=True)
    cluster.sync()
    assert shown(cluster.primary).txid == before.txid + 3
    cluster.wait_until_replicated()
    assert rows(cluster, "node-c") == [1, 2, 3]


def test_a_replica_refuses_writes(cluster: SimulatedCluster, mode: str) -> None:
    """With LiteFS's error, for any connection of any process; what applications say when they connect still works."""
    with closing(sqlite3.connect(cluster.path("node-b"))) as connection:
        assert connection.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
            connection.execute("INSERT INTO t VALUES (1)")
    with closing(cluster.connect("node-b")) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("CREATE TABLE u (x)")
    insert(cluster, 1)
    cluster.wait_until_replicated()
    with closing(sqlite3.connect(cluster.path("node-b"))) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("INSERT INTO t VALUES (1)")


def test_begin_immediate_begins_a_read_on_a_replica(cluster: SimulatedCluster) -> None:
    """As on LiteFS: Django's ``transaction_mode``, and whoever else takes the lock before knowing whether to write."""
    with closing(cluster.connect("node-b", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
            connection.execute("INSERT INTO t VALUES (1)")


def test_an_open_transaction_stops_replication_of_its_database(cluster: SimulatedCluster) -> None:
    """As on LiteFS; other databases, and other nodes, go on, and its end lets everything in."""
    cluster.create_database("other.db")
    cluster.wait_until_replicated()
    with closing(sqlite3.connect(cluster.path("node-b"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT * FROM t").fetchall() == []
        before = shown(cluster["node-b"])
        insert(cluster, 1)
        cluster.execute("CREATE TABLE u (x)", database="other.db")
        with pytest.raises(WaitTimeout, match="to node-b"):
            cluster.wait_until_replicated(0.1)
        assert shown(cluster["node-b"]) == before
        assert rows(cluster, "node-c") == [1]
        assert cluster.query("node-b", "SELECT * FROM u", database="other.db") == []
        reader.execute("COMMIT")
        cluster.wait_until_replicated()
        assert reader.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_a_hand_over_loses_nothing_and_says_what_litefs_says(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """Everything committed is on the new primary, whatever the lag; the streams pass through LiteFS's values."""
    streams = {node.hostname: open_stream(node) for node in cluster}
    cluster.lag = 3600
    positions = [insert(cluster, number) for number in range(3)]
    cluster.lag = 0
    cluster.set_lag("node-b", 3600)
    cluster.hand_over("node-b", seconds=0.02)
    cluster.set_lag("node-b", None)
    assert cluster.primary is cluster["node-b"]
    assert shown(cluster["node-b"]) == positions[-1]
    position = insert(cluster, 3)
    assert position.txid == positions[-1].txid + 1
    cluster.wait_until_replicated()
    assert [rows(cluster, node.hostname) for node in cluster] == [[0, 1, 2, 3]] * 3
    assert {shown(node) for node in cluster} == {position}
    roles: dict[str, list[tuple[bool, str | None]]] = {hostname: [] for hostname in streams}
    for hostname, stream in streams.items():
        cluster[hostname].raw_event(b'{"type":"end"}\n')
        while (event := stream.event())["type"] != "end":
            if event["type"] != "tx":
                roles[hostname].append((event["data"]["isPrimary"], event["data"].get("hostname")))
    assert roles == {
        "node-a": [(True, None), (False, None), (False, "node-a"), (False, None), (False, "node-b")],
        "node-b": [(False, "node-a"), (False, None), (True, None)],
        "node-c": [(False, "node-a"), (False, None), (False, "node-b")],
    }
    with closing(sqlite3.connect(cluster.path("node-a"))) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("INSERT INTO t VALUES (9)")
    assert (cluster["node-b"].litefs_dir / ".lag").read_bytes() == b"+000000000\n"
    assert not (cluster["node-b"].litefs_dir / ".primary").exists()
    assert (cluster["node-a"].litefs_dir / ".primary").read_bytes() == b"node-b\n"


def test_writers_during_a_hand_over_lose_nothing_that_was_committed(cluster: SimulatedCluster) -> None:
    """Each commit that returned without an error is on all nodes afterwards."""
    committed: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                with closing(sqlite3.connect(cluster.path("node-a"), timeout=10)) as connection, connection:
                    connection.execute("INSERT INTO t VALUES (?)", (number,))
            except sqlite3.OperationalError as error:
                assert "readonly" in str(error)  # noqa: PT017 - in a thread, where it ends the loop
                return
            committed.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(committed) < 20:
            stop.wait(0.001)
        cluster.hand_over("node-b", seconds=0)
    finally:
        thread.join(10)
        stop.set()
    cluster.wait_until_replicated()
    assert rows(cluster, "node-a") == rows(cluster, "node-b") == rows(cluster, "node-c") == committed


def test_a_hand_over_that_can_not_be_changes_nothing(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a node that is down or no candidate, or while somebody keeps a transaction open."""
    cluster["node-b"].candidate = False
    with pytest.raises(RuntimeError, match="no candidate"):
        cluster.hand_over("node-b")
    cluster["node-c"].stop()
    with pytest.raises(RuntimeError, match="down"):
        cluster.hand_over("node-c")
    cluster.restart("node-c")
    monkeypatch.setattr("litefs_watch.testing.engine.PATIENCE", 0.05)
    for hostname in ("node-a", "node-c"):
        with closing(sqlite3.connect(cluster.path(hostname), isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            with pytest.raises(WaitTimeout, match="a transaction on it is open"):
                cluster.hand_over("node-c")
        assert cluster.primary is cluster["node-a"]
        assert cluster["node-a"].is_primary
        insert(cluster, 1)
    cluster.hand_over("node-a")
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == [1, 1]


def test_promote_over_http_hands_over(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """``POST /promote`` answers 200 at once: it has asked for it."""
    insert(cluster, 1)
    connection = http.client.HTTPConnection(cluster["node-c"].api_url.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.request("POST", "/promote")
        assert connection.getresponse().status == 200
    eventually(lambda: cluster["node-c"].is_primary and cluster["node-a"].primary == "node-c")
    insert(cluster, 2)
    cluster.wait_until_replicated()
    assert rows(cluster, "node-a") == [1, 2]


def test_a_fail_over_loses_what_was_not_replicated(cluster: SimulatedCluster, open_stream: OpenStream) -> None:
    """Nobody is primary in between; and the old primary, once it is back, is where the new one is: it went back."""
    insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.lag = 3600
    lost = [insert(cluster, 2), insert(cluster, 3)][-1]
    cluster.kill_primary()
    with pytest.raises(NoPrimary):
        _ = cluster.primary
    assert [node.primary for node in cluster.replicas if node.running] == [None, None]
    cluster.sync()
    cluster.lag = 0
    assert not threading.Event().wait(0.02)  # time for what is on its way to arrive, though it must not
    assert rows(cluster, "node-c") == [1]
    cluster.elect("node-c")
    with pytest.raises(RuntimeError, match="'node-c' is the primary"):
        cluster.elect("node-b")
    position = insert(cluster, 4)
    assert position < lost
    cluster.restart("node-a")
    stream = open_stream(cluster["node-a"])
    assert stream.role() == ("init", False, "node-c")
    cluster.wait_until_replicated()
    assert {shown(node) for node in cluster} == {position}
    assert rows(cluster, "node-a") == rows(cluster, "node-b") == [1, 4]


def test_what_only_a_dead_primary_has_is_gone_when_it_is_back(cluster: SimulatedCluster) -> None:
    """Also what was never a transaction of LiteFS's, beside a position that is the new primary's."""
    position = insert(cluster, 1)
    cluster.wait_until_replicated()
    cluster.kill_primary()
    with closing(sqlite3.connect(cluster["node-a"].database_file())) as connection, connection:
        connection.execute("INSERT INTO t VALUES (2)")
    cluster.elect("node-b")
    cluster.restart("node-a")
    cluster.wait_until_replicated()
    assert shown(cluster["node-a"]) == position
    assert rows(cluster, "node-a") == [1]
    with closing(sqlite3.connect(cluster.path("node-a"))) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("INSERT INTO t VALUES (3)")


def test_a_primary_that_dies_by_itself_is_noticed(cluster: SimulatedCluster, eventually: Eventually) -> None:
    """Also where the node's own `kill` or `stop` is used; without another primary it becomes it again."""
    insert(cluster, 1)
    cluster.primary.kill()
    eventually(lambda: cluster["node-b"].primary is None)
    assert not cluster["node-b"].is_primary
    cluster.restart("node-a")
    assert cluster.primary is cluster["node-a"]
    insert(cluster, 2)
    cluster.wait_until_replicated()
    assert cluster["node-b"].primary == "node-a"
    assert rows(cluster, "node-b") == [1, 2]


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


def test_databases_come_and_go(cluster: SimulatedCluster) -> None:
    """Created, dropped and created again on the primary; the replicas follow, and the TXIDs go on."""
    assert cluster.create_database("new.db").txid == 1
    assert cluster.execute("CREATE TABLE u (x)", database="new.db").txid == 2
    assert cluster.create_database("new.db").txid == 2
    cluster.wait_until_replicated()
    assert cluster.query("node-b", "SELECT * FROM u", database="new.db") == []
    assert cluster.drop_database("new.db") == Position(3, 1 << 63)
    cluster.wait_until_replicated()
    for node in cluster:
        assert shown(node, "new.db") == Position(3, 1 << 63)
        assert not node.path("new.db").exists()
    with pytest.raises(KeyError):
        cluster.drop_database("new.db")
    assert cluster.create_database("new.db").txid == 4
    cluster.hand_over("node-b", seconds=0)
    cluster.execute("CREATE TABLE v (x)", database="new.db")
    cluster.wait_until_replicated()
    assert cluster.query("node-a", "SELECT name FROM sqlite_master", database="new.db") == [("v",)]


def test_many_threads_may_write_and_read(cluster: SimulatedCluster) -> None:
    """Every commit's TXID is there when it returns, and all of it arrives."""
    failures: list[BaseException] = []

    def write(first: int) -> None:
        try:
            for number in range(first, first + 15):
                with closing(cluster.connect(timeout=20)) as connection, connection:
                    connection.execute("INSERT INTO t VALUES (?)", (number,))
                with closing(sqlite3.connect(cluster.path("node-b"), timeout=20)) as replica:
                    replica.execute("SELECT count(*) FROM t").fetchone()
        except sqlite3.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 15, 30, 45)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    cluster.wait_until_replicated()
    assert rows(cluster, "node-b") == rows(cluster, "node-c") == list(range(60))


@pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))
def test_a_cluster_can_have_fuse_mounts(tmp_path: Path) -> None:
    """The same, with positions that are read through the kernel."""
    with SimulatedCluster(2, directory=tmp_path, lag=0, fuse=True) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        position = insert(cluster, 1)
        assert shown(cluster.primary) == position
        cluster.wait_until_replicated()
        assert shown(cluster["node-b"]) == position
        assert rows(cluster, "node-b") == [1]
        cluster.kill_primary()
        with pytest.raises(OSError, match="not connected"):
            shown(cluster["node-a"])
        cluster.elect("node-b")
        cluster.restart("node-a")
        insert(cluster, 2)
        cluster.wait_until_replicated()
        assert rows(cluster, "node-a") == [1, 2]
