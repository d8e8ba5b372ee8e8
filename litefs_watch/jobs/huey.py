"""Huey: each task sees what was written before it was sent; with its storages of Redis, SQLite and files alike.

::

    from litefs_watch.jobs.huey import watch_huey

    huey = SqliteHuey(filename="/var/lib/huey.db")      # on a disk of its own, not on LiteFS's
    watch_huey(huey)                                    # for senders and consumers alike


    @huey.task(litefs_writes=True)                      # this one needs the primary
    def bill(order): ...

A message of Huey has no headers: the token is one of the task's keyword arguments, which the function does not get. Huey's
signals tell when it is sent, and when it is about to be executed; what a receiver raises is swallowed, and so what must not
run is stopped in the task's ``execute``.
"""

from __future__ import annotations

from typing import Any, Unpack

from huey import signals
from huey.api import Huey, Task
from huey.exceptions import CancelExecution, RetryTask

from litefs_watch.jobs.around import AnyWatcher
from litefs_watch.jobs.guard import CARRIER, LONGEST_PAUSE, Guard, JobOptions, WatcherFactory, say

KEYWORD = CARRIER.replace("-", "_")


def watch_huey(
    huey: Huey,
    watcher: AnyWatcher | WatcherFactory | None = None,
    **options: Unpack[JobOptions],
) -> None:
    """Let each message carry what its sender has written or seen, and each task of ``huey`` wait for it before it runs.

    Without ``watcher`` each process has one of its own, from the environment. ``databases``: several. ``secret`` as the
    middleware's. ``timeout`` seconds are waited; then ``on_timeout``: Huey's ``retry`` (as often, and after as long, as the
    task's ``retries``, ``retry_delay`` and ``retry_backoff`` say; none without them), ``run`` all the same, or ``fail``. A
    task with ``litefs_writes=True``, on a node that is no primary: ``on_replica``: ``requeue``, for as long as it takes,
    ``halt`` (LiteFS's HALT lock), or ``fail``. A task says its own with ``litefs_timeout`` and so on.

    Set up the consumers before the senders: a task that knows nothing of the token gets it as an argument. Raises
    `ConfigError` for an option that can't work.
    """
    guard = Guard(watcher, **options)

    def send(signal: str, task: Task) -> None:
        task.kwargs[KEYWORD] = guard.carry_or_say(task.kwargs.get(KEYWORD))

    def arrive(signal: str, task: Task) -> None:
        task.execute = lambda: _execute(guard, task)  # of this one only

    huey.signal(signals.SIGNAL_ENQUEUED)(send)
    huey.signal(signals.SIGNAL_EXECUTING)(arrive)


def _execute(guard: Guard, task: Task) -> Any:
    kind = type(task)
    carried = task.kwargs.pop(KEYWORD, None)
    arrival = guard.arrive(carried, {name: getattr(kind, name) for name in dir(kind) if name.startswith("litefs_")})
    say(task.name, arrival)
    try:
        if arrival.what == "run":
            with guard.doing(arrival):
                return kind.execute(task)
        if arrival.what == "requeue":
            raise RetryTask(str(arrival.error), delay=LONGEST_PAUSE)
        if arrival.what == "fail":
            raise CancelExecution(retry=False) from arrival.error
        raise arrival.error or CancelExecution
    finally:
        if carried is not None:
            task.kwargs[KEYWORD] = carried  # where it is tried again
