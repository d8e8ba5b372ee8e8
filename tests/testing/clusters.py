"""What tests of simulated clusters ask for: rows, and what a node shows."""

from __future__ import annotations

from litefs_watch import Position
from litefs_watch.testing import SimulatedCluster, SimulatedNode


def insert(cluster: SimulatedCluster, x: int) -> Position:
    """Commit a row on the primary."""
    return cluster.execute("INSERT INTO t VALUES (?)", (x,))


def rows(cluster: SimulatedCluster, hostname: str) -> list[int]:
    """The rows that a node has."""
    return [x for (x,) in cluster.query(hostname, "SELECT x FROM t ORDER BY x")]


def shown(node: SimulatedNode, database: str = "app.db") -> Position:
    """What ``-pos`` says."""
    return Position.parse((node.litefs_dir / f"{database}-pos").read_bytes())
