"""Huey on whatever node the environment says, with its own storage in SQLite."""

from __future__ import annotations

import os
from typing import Any

from huey import SqliteHuey

from litefs_watch.jobs.huey import watch_huey
from tests.jobs import seen

TASKS: dict[str, dict[str, Any]] = {
    "look": {},
    "hasty": {"litefs_timeout": 0.02, "litefs_on_timeout": "run"},
    "strict": {"litefs_timeout": 0.02, "litefs_on_timeout": "fail", "retries": 9},
    "again": {"litefs_timeout": 0.02, "retries": 100},
    "bill": {"litefs_writes": True},
}


def make(file: str) -> SqliteHuey:
    """Its tasks say when one of them was sent back, or given up."""
    huey = SqliteHuey("jobs", filename=file)
    for name, options in TASKS.items():
        huey.task(name=name, **options)(seen.bill if name == "bill" else seen.look)

    @huey.signal("retrying", "canceled")
    def told(signal: str, task: Any) -> None:
        if task.name != "again":
            seen.say(f"{task.args[0]} {signal}")

    return huey


if "BROKER" in os.environ:
    huey = make(os.environ["BROKER"])
    watch_huey(huey, timeout=60.0)  # longer than a test waits
