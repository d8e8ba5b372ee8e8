"""pytest's fixtures for tests against simulated LiteFS nodes; the package's entry point ``litefs_watch`` registers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The simulators are imported when a fixture is used: every run of pytest loads this file, and few need them.
if TYPE_CHECKING:
    from litefs_watch.testing import SimulatedCluster, SimulatedNode


@pytest.fixture
def litefs_node(tmp_path: Path) -> Iterator[SimulatedNode]:
    """A started `SimulatedNode`: the primary, with the database ``app.db``, in an ordinary directory."""
    from litefs_watch.testing import SimulatedNode

    with SimulatedNode(tmp_path / "litefs-node") as node:
        yield node


@pytest.fixture
def litefs_cluster(tmp_path: Path) -> Iterator[SimulatedCluster]:
    """A started `SimulatedCluster` of three nodes with the database ``app.db``, and a replication lag of 50 ms."""
    from litefs_watch.testing import SimulatedCluster

    with SimulatedCluster(directory=tmp_path / "litefs-cluster", lag=0.05) as cluster:
        yield cluster


@pytest.fixture
def litefs_fuse_node(tmp_path: Path) -> Iterator[SimulatedNode]:
    """A started `SimulatedNode` with a FUSE mount, on which inotify is silent. Skips where FUSE can't be mounted."""
    from litefs_watch.testing import SimulatedNode, fuse_available

    reason = fuse_available()
    if reason is not None:
        pytest.skip(reason)
    with SimulatedNode(tmp_path / "litefs-node", fuse=True) as node:
        yield node
