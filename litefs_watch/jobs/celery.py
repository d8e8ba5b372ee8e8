"""Celery: each task sees what was written before it was sent.

::

    from litefs_watch.jobs.celery import watch_celery

    app = Celery("shop", broker=...)
    watch_celery(app)                       # in the module that makes it, for senders and workers alike


    @app.task(litefs_writes=True)           # this one needs the primary
    def bill(order): ...

The token is a header of the message, put there when it is published. Waiting is done in ``task_prerun``, before anything of
the task's runs. What raises there is swallowed by Celery, so that a task which must not run is stopped where its function is
called: each task's ``run`` is wrapped when a worker starts, as Celery itself does for ``autoretry_for``.
"""

from __future__ import annotations

import functools
import logging
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Unpack, cast

from celery import Celery, signals
from celery.exceptions import Retry
from celery.local import Proxy
from celery.utils.time import get_exponential_backoff_interval

from litefs_watch.errors import HaltError
from litefs_watch.jobs.around import AnyWatcher, current_job
from litefs_watch.jobs.arrival import Arrival
from litefs_watch.jobs.guard import CARRIER, REQUEUED, Guard, JobOptions, WatcherFactory, pause, say

logger: logging.Logger = logging.getLogger("litefs_watch")

_OURS = "litefs_watch_arrival"

_again: ContextVar[dict[str, Any] | None] = ContextVar("litefs_watch.again", default=None)
"""What the message has come with that is sent again just now, and has not run."""


def watch_celery(
    app: Celery,
    watcher: AnyWatcher | WatcherFactory | None = None,
    **options: Unpack[JobOptions],
) -> None:
    """Let each message carry what its sender has written or seen, and each task of ``app`` wait for it before it runs.

    Without ``watcher`` each process has one of its own, from the environment, which starts with its first task: after the
    fork. ``databases``: several. ``secret`` as the middleware's. The others are a task's own where it says so, as
    ``litefs_timeout``, ``litefs_on_timeout``, ``litefs_on_replica``; ``litefs_writes=True`` is said there alone.

    ``timeout`` seconds are waited; then ``on_timeout``: Celery's ``retry``, after 1, 2, 4 … s and up to the task's
    ``max_retries`` times, ``run`` all the same, or ``fail``. What becomes of a task that writes, on a node that is no
    primary, is ``on_replica``: ``requeue``, for as long as it takes, ``halt`` (LiteFS's HALT lock), or ``fail``.

    Raises `ConfigError` for an option that can't work.
    """
    guard = Guard(watcher, **options)
    if isinstance(app, Proxy):  # celery.current_app; each task knows the application itself
        app = app._get_current_object()

    def publish(headers: dict[str, Any] | None = None, **_: Any) -> None:
        if headers is None:
            return
        if (again := _again.get()) is None:
            headers[CARRIER] = guard.carry_or_say(headers.get(CARRIER))
        else:
            headers.update(again)

    def arrive(task: Any = None, **_: Any) -> None:
        request = task.request
        if task.app is not app or request.is_eager:  # an eager task runs within the request that sends it
            return
        setattr(request, _OURS, None)  # until it is known: a time limit may end this at any moment
        arrival = guard.arrive(_header(request, CARRIER), _options_of(task))
        say(task.name, arrival)
        if arrival.what != "run" and not hasattr(task.run, _OURS):
            logger.error("job %s can't be held back: the task was registered after its worker had started", task.name)
        setattr(request, _OURS, (arrival, current_job.set(arrival.job)))

    def leave(task: Any = None, **_: Any) -> None:
        if (found := getattr(task.request, _OURS, None)) is not None:
            current_job.reset(found[1])

    def wrap(sender: Any = None, **_: Any) -> None:
        if sender is None or sender.app is app:
            for task in app.tasks.values():
                _wrap(task, guard)

    for signal, receiver in (
        (signals.before_task_publish, publish),
        (signals.task_prerun, arrive),
        (signals.task_postrun, leave),
        (signals.worker_init, wrap),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=("litefs_watch", id(app)))


def _header(request: Any, name: str) -> Any:
    """Of its message. In Celery's older protocol (``task_protocol = 1``) they are beside the request's own."""
    found = getattr(request, name, None)
    return (request.headers or {}).get(name) if found is None else found


def _options_of(task: Any) -> dict[str, Any]:
    return {name: getattr(task, name) for name in dir(type(task)) if name.startswith("litefs_")}


def _wrap(task: Any, guard: Guard) -> None:
    run = task.run
    if hasattr(run, _OURS):
        return

    @functools.wraps(run)
    def run_where_it_may(*args: Any, **kwargs: Any) -> Any:
        if not hasattr(task.request, _OURS):  # called as a function, or eager
            return run(*args, **kwargs)
        if (found := getattr(task.request, _OURS)) is None:
            raise RuntimeError("the wait for what this task's sender has written was interrupted")
        arrival: Arrival = found[0]
        if arrival.what != "run":
            raise _instead(task, arrival)
        with ExitStack() as around:
            try:
                around.enter_context(guard.doing(arrival))
            except HaltError as error:
                raise _instead(task, arrival.unlocked(error)) from error
            setattr(task.request, _OURS, (arrival.entered(), found[1]))  # where it calls itself
            return run(*args, **kwargs)

    setattr(run_where_it_may, _OURS, True)
    task.run = run_where_it_may


def _instead(task: Any, arrival: Arrival) -> Exception:
    """What is raised in place of running. A retry has been sent by then."""
    error = arrival.error or RuntimeError("it must not run")
    if arrival.what == "fail":
        return error
    came = {name: value for name in (CARRIER, REQUEUED) if (value := _header(task.request, name)) is not None}
    times = int(came.get(REQUEUED, 0))
    outer = _again.set(came if arrival.what == "retry" else {**came, REQUEUED: times + 1})
    try:
        return _retry(task, error) if arrival.what == "retry" else _send_back(task, error, pause(times))
    finally:
        _again.reset(outer)


def _retry(task: Any, error: Exception) -> Exception:
    seconds = get_exponential_backoff_interval(
        factor=int(max(1, getattr(task, "retry_backoff", 1))),
        retries=task.request.retries,
        maximum=int(getattr(task, "retry_backoff_max", task.default_retry_delay)),
        full_jitter=getattr(task, "retry_jitter", False),
    )
    return cast("Exception", task.retry(exc=error, countdown=seconds, throw=False))


def _send_back(task: Any, error: Exception, seconds: float) -> Exception:
    """A retry that does not count: nothing has been tried."""
    signature = task.signature_from_request(task.request, countdown=seconds, retries=task.request.retries)
    signature.apply_async()
    return cast("Exception", Retry(exc=error, when=seconds, sig=signature))
