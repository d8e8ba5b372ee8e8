"""What is said of Django's tasks, by those of Django 6.0 and by django-tasks alike."""

from __future__ import annotations

from collections.abc import Callable

from django.test import override_settings

from litefs_watch.jobs.django import KEYWORD, WatchedTasks, litefs
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure
from tests.messages.provoking import Case, case

try:
    from django.tasks import task
    from django.tasks.backends.dummy import DummyBackend
except ImportError:
    from django_tasks import task
    from django_tasks.backends.dummy import DummyBackend

AHEAD = "00000000000000ff/80000000000000ff@app.db"


class Backend(WatchedTasks, DummyBackend):  # type: ignore[misc]
    """Keeps what is enqueued."""


@litefs(timeout=0)
def notify(order: int) -> None:
    """A task's function."""


def within(wrong: Callable[[], object]) -> Callable[[], None]:
    """In a project with such tasks."""

    def provoke() -> None:
        configure()
        with SimulatedNode(hostname="node-b", primary="node-a") as node:
            named = {"litefs_dir": str(node.litefs_dir), "api_url": node.api_url, "database": "app.db"}
            tasks = {"default": {"BACKEND": f"{__name__}.Backend"}, "other": {"BACKEND": f"{__name__}.DummyBackend"}}
            with override_settings(LITEFS_WATCH=named, TASKS=tasks):
                wrong()

    return provoke


CASES: list[Case] = [
    case(within(lambda: litefs(write=True)), "'write'", "'writes'"),  # type: ignore[call-arg]
    case(within(lambda: litefs(writes=True)(task(notify))), "notify"),
    case(within(lambda: Backend("x", {"OPTIONS": {"litefs": {"timout": 1}}})), "'x'", "'timout'", "'timeout'"),
    case(within(lambda: Backend("x", {"OPTIONS": {"litefs": 5}})), "'x'", "not 5"),
    case(within(lambda: task(notify, backend="other").using(backend="default")), "notify", "'default'"),
    case(lambda: type("Mine", (DummyBackend, WatchedTasks), {}), "Mine", "DummyBackend"),
    case(within(lambda: task(notify).call(1, **{KEYWORD: AHEAD})), "notify", "app.db"),
]
