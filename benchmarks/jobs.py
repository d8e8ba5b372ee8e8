"""A task that is sent right after a write, to a worker on a replica that lags: does it see the row?

Each write is followed by two messages to the same worker processes: one that says nothing, and one that carries what its
sender has written. The next write waits until both are done, so that no queue gives the replica time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import django
from anyio.from_thread import start_blocking_portal

from benchmarks.table import show
from litefs_watch import BlockingWatcher
from litefs_watch.jobs.celery import watch_celery
from litefs_watch.jobs.dramatiq import LiteFSMiddleware as Dramatiq
from litefs_watch.jobs.huey import watch_huey
from litefs_watch.jobs.taskiq import LiteFSMiddleware as Taskiq
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.jobs import celery_app, dramatiq_app, huey_app, taskiq_app
from tests.jobs.brokers import Results, has_redis, redis_server, worker
from tests.jobs.django_sending import COMMAND, sender
from tests.jobs.signals import unwatch

TIMES = 500
LAG = 0.05
"""Seconds: several times what a task needs to get to its worker."""

Send = Callable[[str, int], object]
Queue = tuple[list[list[str]], Send, Send]
"""The commands of its workers; what sends a message with what its sender has written, and one without."""


@contextmanager
def celery(broker: str, watcher: BlockingWatcher, node: SimulatedNode) -> Iterator[Queue]:
    app = celery_app.make(broker)

    def send(name: str, number: int) -> None:
        watch_celery(app, watcher)
        app.send_task("look", (name, number))
        unwatch(app)

    command = ["celery", "-A", "tests.jobs.celery_app:app", "worker", "--loglevel", "ERROR", "-P", "prefork", "-c", "2"]
    yield [command], send, lambda name, number: app.send_task("look", (name, number))


@contextmanager
def dramatiq(broker: str, watcher: BlockingWatcher, node: SimulatedNode) -> Iterator[Queue]:
    bare, ours = (dramatiq_app.make(broker, each)["look"].send for each in (None, Dramatiq(watcher)))
    yield [["dramatiq", "tests.jobs.dramatiq_app", "--processes", "2", "--threads", "1"]], ours, bare


@contextmanager
def taskiq(broker: str, watcher: BlockingWatcher, node: SimulatedNode) -> Iterator[Queue]:
    with start_blocking_portal() as portal:
        made = [taskiq_app.make(broker, each) for each in (None, Taskiq(watcher))]
        for each in made:
            portal.call(each.startup)
        bare, ours = (partial(portal.call, taskiq_app.send, each, "look") for each in made)
        yield [["taskiq", "worker", "tests.jobs.taskiq_app:broker", "--workers", "2", "--log-level", "ERROR"]], ours, bare
        for each in made:
            portal.call(each.shutdown)


@contextmanager
def huey(broker: str, watcher: BlockingWatcher, node: SimulatedNode) -> Iterator[Queue]:
    bare, ours = huey_app.make(broker), huey_app.make(broker)
    watch_huey(ours, watcher)

    def send(to: Any, name: str, number: int) -> None:
        to.enqueue(to._registry.string_to_task("tests.jobs.seen.look")((name, number)))

    consumer = [
        "huey.bin.huey_consumer",
        "tests.jobs.huey_app.huey",
        "-k",
        "process",
        "-w",
        "2",
        "-d",
        "0.002",
        "-m",
        "0.002",
    ]
    yield [consumer], partial(send, ours), partial(send, bare)


@contextmanager
def django_tasks(broker: str, watcher: BlockingWatcher, node: SimulatedNode) -> Iterator[Queue]:
    """Those of django-tasks-db; sent by a process of their project."""
    with sender(node, BROKER=broker) as project:
        ours, bare = (lambda name, number, way=way: project.send(way, "look", name, number) for way in ("", "bare"))
        yield [COMMAND, COMMAND], ours, bare


NAMES = {django_tasks: f"Django {django.VERSION[0]}.{django.VERSION[1]}'s tasks"}
"""Before 6.0 they are those of django-tasks: the same, and the same integration."""


def main() -> None:
    queues = [(huey, "sqlite"), (django_tasks, "sqlite")]
    if has_redis():
        queues = [(celery, "redis"), (dramatiq, "redis"), (taskiq, "redis"), *queues]
    else:
        print("celery, dramatiq and taskiq are skipped: there is no redis-server on PATH")
    rows = [(f"{NAMES.get(queue, queue.__name__)}, {kind}", *measure(queue, kind)) for queue, kind in queues]
    show(
        f"{TIMES} tasks, each sent right after a write, to two worker processes on a replica that lags {LAG * 1e3:g} ms",
        ["", "with it, row seen", "without it, row seen", "both done: median", "99th"],
        rows,
    )


def measure(queue: Callable[..., Any], kind: str) -> list[str]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(redis_server()) if kind == "redis" else str(home / "broker")
        cluster = stack.enter_context(SimulatedCluster(2, lag=LAG, fuse=False))
        cluster.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        watcher = stack.enter_context(BlockingWatcher(cluster.primary.settings()))
        commands, ours, bare = stack.enter_context(queue(broker, watcher, cluster.primary))
        results = Results(home / "results")
        for command in commands:
            stack.enter_context(worker(command, cluster.replicas[0], BROKER=broker, RESULTS=str(results.path)))
        connection = stack.enter_context(cluster.connect())
        for number in range(-4, 0):  # the workers have started
            ours("warm", number)
        wait_for_lines(results, 4)
        took = []
        for number in range(1, TIMES + 1):
            began = time.monotonic()
            with connection:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
            bare("bare", number)
            ours("ours", number)
            wait_for_lines(results, 4 + 2 * number)
            took.append(time.monotonic() - began)
        lines = results.lines
    seen = [sum(line.startswith(f"{name} sees") for line in lines) for name in ("ours", "bare")]
    ordered = sorted(took)
    spent = [f"{value * 1e3:.1f} ms" for value in (statistics.median(ordered), ordered[int(len(ordered) * 0.99)])]
    return [*(f"{count} of {TIMES}" for count in seen), *spent]


def wait_for_lines(results: Results, count: int) -> None:
    until = time.monotonic() + 60
    while len(results.lines) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{count - len(results.lines)} results are missing")
        time.sleep(0.001)
