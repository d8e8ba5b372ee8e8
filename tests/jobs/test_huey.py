"""Huey, with its own consumer and its own storage in SQLite, on a replica that lags as far as the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litefs_watch import BlockingWatcher
from litefs_watch.jobs.huey import KEYWORD, watch_huey
from litefs_watch.testing import SimulatedCluster
from tests.jobs import huey_app
from tests.jobs.brokers import Results, worker

COMMAND = ["huey.bin.huey_consumer", "tests.jobs.huey_app.huey", "-k", "process", "-w", "2", "-d", "0.01", "-m", "0.01"]


def test_tasks_in_a_real_consumer(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """One that waits runs when its row has come; one whose message says nothing has missed it by then. What does not come in
    time is done as its task says; what writes goes back to the queue until its consumer is on the primary."""
    results, file = Results(tmp_path / "results"), str(tmp_path / "huey.db")
    bare, huey = huey_app.make(file), huey_app.make(file)
    with BlockingWatcher(cluster.primary.settings()) as primary:
        watch_huey(huey, primary)

        def send(to: Any, task: str, *arguments: object, **more: str) -> None:
            kind = to._registry.string_to_task(f"tests.jobs.seen.{task}")
            to.enqueue(kind(arguments, dict(more)))

        with worker(COMMAND, cluster["node-b"], BROKER=file, RESULTS=str(results.path)):
            cluster.pause_replication()
            cluster.execute("INSERT INTO t VALUES (1)")
            send(bare, "look", "before", 1)
            send(huey, "look", "waiting", 1)
            send(huey, "again", "again", 1)
            send(bare, "look", "after", 1)
            results.wait_for("before misses 1", "after misses 1")
            send(huey, "strict", "strict", 1)
            send(huey, "look", "forged", 1, **{KEYWORD: "forged@app.db"})
            send(huey, "hasty", "hasty", 1)
            results.wait_for("hasty misses 1", "strict canceled", "forged canceled")
            assert not {"waiting sees 1", "waiting misses 1", "again sees 1"} & set(results.lines)
            cluster.resume_replication()
            results.wait_for("waiting sees 1", "again sees 1")
            send(huey, "bill", "bill")
            results.wait_for("bill retrying")
            cluster.hand_over("node-b", seconds=0.0)
            results.wait_for("bill writes on node-b")
    assert len(set(results.lines)) == 9
