"""A simulated cluster replicates real databases as LiteFS does: in order, with a lag, and each TXID is its own state."""

from __future__ import annotations

import http.client
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from litefs_watch import Position
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.testing.sqlite_file import DatabaseFile
from tests.testing.clusters import insert, rows, shown
from tests.testing.leftovers import at_work, end_what_others_left, open_descriptors

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]


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
    """No thread (but those that wait to be lent again), no descriptor, and no file."""
    end_what_others_left()
    threads, descriptors = at_work(), open_descriptors()
    with SimulatedCluster() as cluster:
        directory = cluster["node-a"].directory.parent
        cluster.execute("CREATE TABLE t (x)")
        cluster.hand_over("node-c", seconds=0)
        cluster.kill_primary()
    cluster.stop()
    assert at_work() - threads == set()
    assert open_descriptors() - descriptors == {}
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


def test_whoever_asks_the_api_reads_each_commit_that_returned_afterwards(cluster: SimulatedCluster) -> None:
    """An ordinary directory's ``-pos`` can't know that it is read; but an answer waits until it is up to date."""
    before = shown(cluster.primary).txid
    host = cluster.primary.api_url.removeprefix("http://")
    with closing(sqlite3.connect(cluster.path("node-a"))) as connection, closing(http.client.HTTPConnection(host)) as api:
        for number in range(20):
            with connection:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
            api.request("GET", "/info")
            api.getresponse().read()
            assert shown(cluster.primary).txid == before + number + 1
