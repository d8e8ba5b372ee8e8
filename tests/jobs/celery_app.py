"""A Celery application on whatever node and broker the environment says. Its tasks say what they see, in a file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from celery import Celery

from litefs_watch.jobs.celery import watch_celery


def make(broker: str) -> Celery:
    """On Redis, or in a directory: Celery's own transport through files."""
    app = Celery("tests.jobs.celery_app", broker=broker if "://" in broker else "filesystem://")
    app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1, result_backend=None)
    if "://" not in broker:
        folders = {"data_folder_in": broker, "data_folder_out": broker, "control_folder": f"{broker}/control"}
        app.conf.broker_transport_options = folders | {"polling_interval": 0.02}

    def say(words: object) -> None:
        with Path(os.environ["RESULTS"]).open("a") as results:
            results.write(f"{words}\n")

    def rows(number: int) -> bool:
        path = Path(os.environ["LITEFS_DIR"], "app.db")
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT 1 FROM t WHERE id = ?", (number,)).fetchone() is not None

    @app.task(name="look", bind=True)
    def look(self: Any, name: str, number: int) -> None:
        say(f"{name} {'sees' if rows(number) else 'misses'} {number}")

    @app.task(name="hasty", litefs_timeout=0.02, litefs_on_timeout="run")
    def hasty(name: str, number: int) -> None:
        look.run(name, number)

    @app.task(name="strict", litefs_timeout=0.02, litefs_on_timeout="fail", on_failure=lambda *about: failed(*about))
    def strict(name: str, number: int) -> None:
        look.run(name, number)

    @app.task(name="again", litefs_timeout=0.02, default_retry_delay=0, max_retries=None)
    def again(name: str, number: int) -> None:
        look.run(name, number)

    @app.task(name="bill", litefs_writes=True, on_retry=lambda *about: say("bill is sent back"))
    def bill(name: str) -> None:
        say(f"{name} writes on {os.environ['FLY_MACHINE_ID']}")

    def failed(self: Any, error: Exception, task_id: str, args: Any, kwargs: Any, info: Any) -> None:
        say(f"{args[0]} fails: {type(error).__name__}")

    return app


if "BROKER" in os.environ:
    app = make(os.environ["BROKER"])
    watch_celery(app)
