"""Jobs on real LiteFS nodes, from the binary that LITEFS_BIN names."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litefs_watch import BlockingWatcher
from litefs_watch.jobs import current_token, wait_for_token
from litefs_watch.jobs.guard import Guard
from tests.contract.real import RealNode, RealPair, reason_against_real

pytestmark = pytest.mark.litefs
TIMES = 50


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RealPair]:
    if reason := reason_against_real():
        pytest.skip(reason)
    with RealPair(tmp_path) as pair:
        yield pair


def write(node: RealNode, value: int) -> None:
    with closing(sqlite3.connect(node.litefs_dir / "app.db")) as connection, connection:
        connection.execute("INSERT INTO t VALUES (?)", [value])


def has(node: RealNode, value: int) -> bool:
    with closing(sqlite3.connect(node.litefs_dir / "app.db")) as connection:
        return connection.execute("SELECT 1 FROM t WHERE x = ?", [value]).fetchone() is not None


def test_a_job_on_a_replica_sees_what_was_written_before_it_was_sent(pair: RealPair) -> None:
    """Each time. On loopback it mostly is there by itself; where it lags is shown by ``python -m benchmarks jobs``."""
    with BlockingWatcher(pair.primary.settings()) as here, BlockingWatcher(pair.replica.settings()) as there:
        for number in range(2, TIMES):
            write(pair.primary, number)
            token = current_token(watcher=here)
            assert token == str(pair.primary.position())
            wait_for_token(token, watcher=there)
            assert has(pair.replica, number)


def test_a_job_that_writes_runs_on_a_replica_under_the_halt_lock(pair: RealPair) -> None:
    """And what it sends in turn carries what it has written."""
    with BlockingWatcher(pair.primary.settings()) as here, BlockingWatcher(pair.replica.settings()) as there:
        there.wait_for_role("replica", timeout=15)
        queue = Guard(there, on_replica="halt")
        write(pair.primary, 7)
        arrival = queue.arrive(Guard(here).carry(), {"litefs_writes": True})
        with queue.doing(arrival):
            assert has(pair.replica, 7)
            write(pair.replica, 8)
            carried = queue.carry()
        assert carried == f"{pair.primary.position()}@app.db"
        assert has(pair.primary, 8)
        assert Guard(here).arrive(carried, {"litefs_on_timeout": "fail"}).what == "run"
