"""A Celery application on whatever node and broker the environment says. Its tasks say what they see, in a file."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from celery import Celery

from litefs_watch.jobs.celery import watch_celery
from tests.jobs import seen


def make(broker: str) -> Celery:
    """On Redis; or in SQLite, with Kombu's own transport."""
    app = Celery("tests.jobs.celery_app", broker=broker if "://" in broker else f"sqla+sqlite:///{broker}")
    app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1, result_backend=None)
    if "://" not in broker:
        import_module("kombu.transport.sqlalchemy").Transport.polling_interval = 0.02  # it knows no option for that

    @app.task(shared=False, name="look", bind=True)
    def look(self: Any, name: str, number: int) -> None:
        seen.look(name, number)

    @app.task(shared=False, name="hasty", litefs_timeout=0.02, litefs_on_timeout="run")
    def hasty(name: str, number: int) -> None:
        seen.look(name, number)

    @app.task(
        shared=False, name="strict", litefs_timeout=0.02, litefs_on_timeout="fail", on_failure=lambda *about: failed(*about)
    )
    def strict(name: str, number: int) -> None:
        seen.look(name, number)

    @app.task(shared=False, name="again", litefs_timeout=0.02, default_retry_delay=0, max_retries=None)
    def again(name: str, number: int) -> None:
        seen.look(name, number)

    @app.task(shared=False, name="bill", litefs_writes=True, on_retry=lambda *about: seen.say("bill is sent back"))
    def bill(name: str) -> None:
        seen.bill(name)

    def failed(self: Any, error: Exception, task_id: str, args: Any, kwargs: Any, info: Any) -> None:
        seen.say(f"{args[0]} fails: {type(error).__name__}")

    return app


if "BROKER" in os.environ:
    app = make(os.environ["BROKER"])
    watch_celery(app, timeout=60.0)  # longer than a test waits
