"""What the simulated nodes and clusters say, and who checks what they have recorded."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import Operation, SimulatedCluster, SimulatedNode, check_sessions
from litefs_watch.testing.fuse import FuseMount
from tests.messages.provoking import Case, Provoke, calling, case


def within(call: Callable[[SimulatedCluster], Any], **options: Any) -> Provoke:
    """A call of a cluster."""

    def provoke() -> None:
        with SimulatedCluster(2, fuse=False, **options) as cluster:
            call(cluster)

    return provoke


def frozen(call: Callable[[SimulatedCluster], Any]) -> Provoke:
    def freeze_first(cluster: SimulatedCluster) -> None:
        cluster.freeze("node-b")
        try:
            call(cluster)
        finally:
            cluster.thaw("node-b")

    return within(freeze_first)


def headless(cluster: SimulatedCluster) -> None:
    cluster.kill_primary()
    cluster.execute("CREATE TABLE t (x)")


def cut_off(cluster: SimulatedCluster) -> None:
    cluster.cut_off("node-b")
    cluster.hand_over("node-b")


def cut_off_twice(cluster: SimulatedCluster) -> None:
    cluster.cut_off("node-b")
    cluster.flap("node-b")


def never_replicated(cluster: SimulatedCluster) -> None:
    cluster.pause_replication()
    cluster.execute("CREATE TABLE t (x)")
    cluster.wait_until_replicated(0.01)


def in_a_transaction() -> None:
    with pytest.MonkeyPatch.context() as patch, SimulatedCluster(2, fuse=False) as cluster:
        patch.setattr("litefs_watch.testing.engine.PATIENCE", 0.05)
        connection = cluster.connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            cluster.hand_over("node-b")
        finally:
            connection.close()


def elsewhere() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        SimulatedCluster()


def twice() -> None:
    with SimulatedNode() as node:
        node.start()


def unserved() -> None:
    FuseMount(Path("/nowhere")).hide("app.db")


def refused_by_fuse() -> None:
    """Its process says why it can't."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mount = FuseMount(Path("/nowhere"))
    mount._control = ours
    with ours, theirs:
        theirs.send(b"mount: Operation not permitted")
        mount.hide("app.db")


def failed() -> None:
    """Through a fault of its own thread's."""
    cluster = SimulatedCluster(2, fuse=False)
    cluster._failure = KeyError("a fault")
    with cluster:
        pass


def no_streams() -> None:
    with SimulatedNode() as node:
        node.wait_for_streams(1, timeout=0.01)


OPERATION: dict[str, Any] = {"session": "s", "start": 0.0, "end": 1.0}

CASES: list[Case] = [
    case(elsewhere, "darwin"),
    case(calling(SimulatedCluster, 2, hostnames=["node-a", "node-a"]), "'node-a'"),
    case(within(lambda cluster: cluster.drop_database("ap.db")), "ap.db"),
    case(within(lambda cluster: cluster["node-z"]), "node-z", "node-a, node-b"),
    case(within(headless)),
    case(within(cut_off), "'node-b'"),
    case(within(cut_off_twice), "'node-b'"),
    case(within(lambda cluster: cluster.flap("node-a")), "'node-a'"),
    case(within(lambda cluster: cluster.elect("node-b")), "'node-a'"),
    case(within(lambda cluster: cluster.fail_over("node-a")), "'node-a'"),
    case(frozen(lambda cluster: cluster.hand_over("node-b")), "'node-b'"),
    case(frozen(lambda cluster: cluster.fail_over("node-b")), "'node-b'"),
    case(frozen(lambda cluster: cluster.reset("node-b")), "'node-b'"),
    case(within(never_replicated), "node-b", "0.01 s"),
    case(in_a_transaction),
    case(calling(SimulatedNode(databases=()).position), "'node-a'"),
    case(twice, "'node-a'"),
    case(no_streams, "0.01 s"),
    case(failed, "a fault"),
    case(unserved, "/nowhere"),
    case(refused_by_fuse, "/nowhere", "Operation not permitted"),
    case(calling(Operation, **{**OPERATION, "end": -1.0}), "-1.0"),
    case(calling(Operation, **OPERATION, answer="no"), "'no'"),
    case(calling(Operation, **OPERATION, read="x"), "'x'"),
    case(calling(check_sessions, [Operation(**OPERATION, written="x"), Operation(**OPERATION, written="x")], ["x"]), "'x'"),
]
