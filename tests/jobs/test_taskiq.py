"""Taskiq, with its own worker process and a Redis of our own, on a replica that lags as far as the test says."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from litefs_watch import Watcher
from litefs_watch.jobs.guard import CARRIER
from litefs_watch.jobs.taskiq import LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster
from tests.jobs.brokers import Results, redis_server, worker
from tests.jobs.taskiq_app import make, send

COMMAND = ["taskiq", "worker", "tests.jobs.taskiq_app:broker", "--workers", "1", "--log-level", "INFO"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # Taskiq knows no other
async def test_tasks_in_a_real_worker(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """One that waits runs when its row has come; one whose message says nothing has missed it by then. What does not come in
    time is done as its task says; what writes goes back to the queue until its worker is on the primary."""
    results = Results(tmp_path / "results")

    async def wait_for(*lines: str) -> None:
        await anyio.to_thread.run_sync(results.wait_for, *lines)

    with redis_server() as address:
        async with Watcher(cluster.primary.settings()) as primary:
            bare, broker = make(address, None), make(address, LiteFSMiddleware(primary))
            await bare.startup()
            await broker.startup()
            with worker(COMMAND, cluster["node-b"], BROKER=address, RESULTS=str(results.path)):
                cluster.pause_replication()
                cluster.execute("INSERT INTO t VALUES (1)")
                await send(bare, "look", "before", 1)
                await send(broker, "look", "waiting", 1)
                await send(broker, "again", "again", 1)
                await send(bare, "look", "after", 1)
                await wait_for("before misses 1", "after misses 1")
                await send(broker, "strict", "strict", 1)
                await send(broker, "look", "forged", 1, **{CARRIER: "forged@app.db"})
                await send(broker, "hasty", "hasty", 1)
                await wait_for("hasty misses 1", "strict WaitTimeout", "forged TokenError")
                assert not {"waiting sees 1", "waiting misses 1", "again sees 1"} & set(results.lines)
                cluster.resume_replication()
                await wait_for("waiting sees 1", "again sees 1")
                await send(broker, "bill", "bill")
                await wait_for("bill NoResultError")
                await anyio.to_thread.run_sync(lambda: cluster.hand_over("node-b", seconds=0.0))
                await wait_for("bill writes on node-b")
            await broker.shutdown()
            await bare.shutdown()
    assert len(set(results.lines)) == 9
