"""The primary of a simulated cluster hands over, dies and is replaced as LiteFS's does."""

from __future__ import annotations

import http.client
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from litefs_watch import NoPrimary, WaitTimeout
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.testing.sqlite_file import DatabaseFile
from tests.testing.clusters import insert, rows, shown

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]


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
    file = cluster["node-a"].database_file()
    with closing(DatabaseFile(file)) as unlocked:
        assert unlocked.mark(read_only=False)
    with closing(sqlite3.connect(file)) as connection, connection:
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


def test_what_is_committed_as_soon_as_a_node_is_the_primary_is_a_transaction(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon: by who saw it become the primary before the cluster had looked at its database."""
    new, become_primary = cluster["node-b"], cluster["node-b"].become_primary

    def become_primary_and_write() -> None:
        become_primary()
        with closing(sqlite3.connect(cluster.path("node-b"))) as connection, connection:
            connection.execute("INSERT INTO t VALUES (1)")

    monkeypatch.setattr(new, "become_primary", become_primary_and_write)
    before = new.position()
    cluster.hand_over("node-b", seconds=0)
    assert new.position().txid == before.txid + 1
    cluster.wait_until_replicated()
    assert [rows(cluster, node.hostname) for node in cluster] == [[1]] * 3
