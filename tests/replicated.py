"""A cluster of three whose primary serves, and which can be kept from replicating; for each middleware's tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from litefs_watch import BlockingWatcher, Settings
from litefs_watch.testing import SimulatedCluster

PATIENCE = 5.0


@contextmanager
def three() -> Iterator[SimulatedCluster]:
    """With a table, and no lag."""
    with SimulatedCluster(3, lag=0.0) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        yield cluster


def settings(cluster: SimulatedCluster, **overrides: Any) -> Settings:
    """The primary's: each node is its peer, itself included, which does not count."""
    return cluster["node-a"].settings(peers=[node.api_url for node in map(cluster.__getitem__, NAMES)], **overrides)


NAMES = ("node-a", "node-b", "node-c")


def insert(cluster: SimulatedCluster) -> None:
    """What a handler does."""
    with closing(cluster.connect("node-a")) as connection, connection:
        connection.execute("INSERT INTO t VALUES (1)")


@contextmanager
def stopped(cluster: SimulatedCluster, *names: str) -> Iterator[None]:
    """Readers' open transactions keep those nodes from replicating."""
    readers: list[sqlite3.Connection] = []
    for name in names:
        readers.append(reader := cluster.connect(name))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
    try:
        yield
    finally:
        for reader in readers:
            reader.close()


def wait_until_connected(watcher: BlockingWatcher, others: int = 2) -> None:
    """Both others are heard."""
    with watcher.cluster_changes() as changes:
        while sum(peer.counts for peer in watcher.cluster.peers) < others:
            changes.take(PATIENCE)
