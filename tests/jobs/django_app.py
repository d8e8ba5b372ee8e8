"""Django's tasks on whatever node the environment says, in a database of their own."""

from __future__ import annotations

from typing import Any

from django_tasks_db import DatabaseBackend

from litefs_watch.jobs.django import WatchedTasks, litefs
from tests.jobs import seen

try:
    from django.tasks import task
    from django.tasks.backends.immediate import ImmediateBackend
except ImportError:
    from django_tasks import task
    from django_tasks.backends.immediate import ImmediateBackend


class Router:
    """All but the tasks' own table is on LiteFS."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "tasks" if model._meta.app_label.startswith("django_tasks") else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "tasks"


class Backend(WatchedTasks, DatabaseBackend):
    """That of django-tasks-db, and ours in front."""


class Immediate(WatchedTasks, ImmediateBackend):
    """Django's own, which runs a task where it is enqueued."""


@task
def look(name: str, number: int) -> None:
    seen.look(name, number)


@task
async def look_async(name: str, number: int) -> None:
    seen.look(name, number)


@task(takes_context=True)
@litefs(timeout=0.02)
def again(context: Any, name: str, number: int) -> None:
    seen.look(name, number)


@task
@litefs(timeout=0.02, on_timeout="run")
def hasty(name: str, number: int) -> None:
    seen.look(name, number)


@task
@litefs(timeout=0.02, on_timeout="fail")
def strict(name: str, number: int) -> None:
    seen.look(name, number)


@task
@litefs(writes=True)
def bill(name: str) -> None:
    seen.bill(name)
