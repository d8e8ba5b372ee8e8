"""Nothing of other tests is around the jobs' ones, and nothing of theirs stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litefs_watch.consistency import current_exchange
from litefs_watch.testing import SimulatedCluster
from litefs_watch.watchers.runs import running


@pytest.fixture(autouse=True)
def nothing_around() -> Iterator[None]:
    """Requests leave theirs in this thread; and a watcher of threads that was dropped goes on watching."""
    outer = current_exchange.set(None)
    stop_all()
    yield
    current_exchange.reset(outer)
    stop_all()


def stop_all() -> None:
    for run in running():
        run.stop()


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    """A primary, node-a, and a replica, node-b, with a table."""
    with SimulatedCluster(2, lag=0.0) as cluster:
        cluster.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        cluster.wait_until_replicated()
        yield cluster
