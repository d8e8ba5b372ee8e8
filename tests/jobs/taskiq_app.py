"""Taskiq on whatever node and broker the environment says."""

from __future__ import annotations

import os
from typing import Any

from taskiq import SimpleRetryMiddleware, TaskiqMessage, TaskiqMiddleware
from taskiq_redis import ListQueueBroker

from litefs_watch.jobs.taskiq import LiteFSMiddleware
from tests.jobs import seen


class Told(TaskiqMiddleware):
    """Says how a task has ended that has not run."""

    def on_error(self, message: TaskiqMessage, result: object, exception: BaseException) -> None:
        if message.task_name != "again":
            seen.say(f"{message.args[0]} {type(exception).__name__}")


def make(address: str, middleware: LiteFSMiddleware | None) -> ListQueueBroker:
    """Its tasks are named as in the tests of other queues."""
    broker = ListQueueBroker(address, queue_name="jobs")
    broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=1000), Told())
    if middleware is not None:
        broker.add_middlewares(middleware)

    @broker.task("look")
    async def look(name: str, number: int) -> None:
        seen.look(name, number)

    broker.task("hasty", litefs_timeout=0.02, litefs_on_timeout="run")(seen.look)
    broker.task("again", litefs_timeout=0.02, retry_on_error=True)(seen.look)
    broker.task("strict", litefs_timeout=0.02, litefs_on_timeout="fail", retry_on_error=True)(seen.look)

    @broker.task("bill", litefs_writes=True)
    async def bill(name: str) -> None:
        seen.bill(name)

    return broker


async def send(broker: Any, task: str, *arguments: object, **labels: object) -> None:
    await broker.find_task(task).kicker().with_labels(**labels).kiq(*arguments)


if "BROKER" in os.environ:
    broker = make(os.environ["BROKER"], LiteFSMiddleware(timeout=60.0))  # longer than a test waits
