"""Celery's signals are of the whole process."""

from __future__ import annotations

from celery import Celery, signals


def unwatch(app: Celery) -> None:
    """What `watch_celery` has connected is heard no more."""
    for signal in (signals.before_task_publish, signals.task_prerun, signals.task_postrun, signals.worker_init):
        signal.disconnect(dispatch_uid=("litefs_watch", id(app)))
