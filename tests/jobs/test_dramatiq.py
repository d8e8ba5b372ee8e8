"""Dramatiq, with its own worker process and a Redis of our own, on a replica that lags as far as the test says."""

from __future__ import annotations

from pathlib import Path

from litefs_watch import BlockingWatcher
from litefs_watch.jobs.dramatiq import LiteFSMiddleware
from litefs_watch.jobs.guard import CARRIER
from litefs_watch.testing import SimulatedCluster
from tests.jobs import dramatiq_app
from tests.jobs.brokers import Results, redis_server, wait_until, worker

COMMAND = ["dramatiq", "tests.jobs.dramatiq_app", "--processes", "1", "--threads", "2"]


def test_actors_in_a_real_worker(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """One that waits runs when its row has come; one whose message says nothing has missed it by then. What does not come in
    time is done as its actor says; what writes goes back to the queue until its worker is on the primary."""
    results = Results(tmp_path / "results")
    with redis_server() as address, BlockingWatcher(cluster.primary.settings()) as primary:
        bare = dramatiq_app.make(address, None)
        actors = dramatiq_app.make(address, LiteFSMiddleware(primary))
        with worker(COMMAND, cluster["node-b"], BROKER=address, RESULTS=str(results.path)):
            cluster.pause_replication()
            cluster.execute("INSERT INTO t VALUES (1)")
            bare["look"].send("before", 1)
            actors["look"].send("waiting", 1)
            actors["again"].send("again", 1)
            bare["look"].send("after", 1)
            results.wait_for("before misses 1", "after misses 1")
            actors["strict"].send("strict", 1)
            actors["look"].send_with_options(args=("forged", 1), **{CARRIER: "forged@app.db"})
            actors["hasty"].send("hasty", 1)
            results.wait_for("hasty misses 1")
            dead = actors["look"].broker.client
            wait_until(lambda: dead.zcard("dramatiq:jobs.XQ") == 2)
            assert not {"waiting sees 1", "waiting misses 1", "again sees 1"} & set(results.lines)
            cluster.resume_replication()
            results.wait_for("waiting sees 1", "again sees 1")
            actors["bill"].send("bill")
            wait_until(lambda: b"litefs-requeued" in b"".join(dead.hvals("dramatiq:jobs.DQ.msgs")))
            cluster.hand_over("node-b", seconds=0.0)
            results.wait_for("bill writes on node-b")
        assert len(results.lines) == 6
        for each in (bare, actors):
            each["look"].broker.client.connection_pool.disconnect()
