"""Celery, with its own workers: prefork, in processes of their own, on a replica that lags as far as the test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from litefs_watch import BlockingWatcher
from litefs_watch.jobs.celery import watch_celery
from litefs_watch.jobs.guard import CARRIER
from litefs_watch.testing import SimulatedCluster
from tests.jobs import celery_app
from tests.jobs.brokers import Results, has_redis, redis_server, worker
from tests.jobs.signals import unwatch

WORKER = ["celery", "-A", "tests.jobs.celery_app:app", "worker", "--loglevel", "WARNING"]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


@contextmanager
def watched(app: Celery, *arguments: Any, **options: Any) -> Iterator[None]:
    """While this lasts."""
    watch_celery(app, *arguments, **options)
    try:
        yield
    finally:
        unwatch(app)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Redis, where there is one; else Celery's own transport through SQLite."""
    with redis_server() if has_redis() else nullcontext(str(tmp_path / "broker")) as address:
        yield address


def write(cluster: SimulatedCluster, number: int) -> None:
    cluster.execute("INSERT INTO t VALUES (?)", (number,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy 2.1, whose past Kombu's transport uses
def test_tasks_in_real_workers(cluster: SimulatedCluster, broker: str, tmp_path: Path) -> None:
    """One that waits runs when its row has come; one whose message says nothing has missed it by then. What does not come in
    time is done as its task says; what writes goes back to the queue until its worker is on the primary."""
    results = Results(tmp_path / "results")
    app = celery_app.make(broker)
    environment = {"BROKER": broker, "RESULTS": str(results.path)}
    primary = BlockingWatcher(cluster.primary.settings())
    command = [*WORKER, *QUIET, "-P", "prefork", "-c", "2"]
    with worker(command, cluster["node-b"], **environment):
        cluster.pause_replication()
        write(cluster, 1)
        app.send_task("look", ("before", 1))
        with watched(app, primary):
            app.send_task("look", ("waiting", 1))
            app.send_task("again", ("again", 1))
        app.send_task("look", ("after", 1))
        results.wait_for("before misses 1", "after misses 1")  # the messages of the others were taken before that one
        with watched(app, primary):
            app.send_task("hasty", ("hasty", 1))
            app.send_task("strict", ("strict", 1))
            app.send_task("strict", ("forged", 1), headers={CARRIER: "forged@app.db"})
        results.wait_for("hasty misses 1", "strict fails: WaitTimeout", "forged fails: TokenError")
        assert not {"waiting sees 1", "waiting misses 1", "again sees 1"} & set(results.lines)
        cluster.resume_replication()
        results.wait_for("waiting sees 1", "again sees 1")
        app.send_task("bill", ("bill",))
        results.wait_for("bill is sent back")
        cluster.hand_over("node-b", seconds=0.0)
        results.wait_for("bill writes on node-b")
    results.path.write_text("\n".join(line for line in results.lines if line != "bill is sent back"))
    assert len(results.lines) == 8
