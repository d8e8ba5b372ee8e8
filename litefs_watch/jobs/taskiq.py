"""Taskiq: each task sees what was written before it was sent.

::

    from litefs_watch.jobs.taskiq import LiteFSMiddleware

    broker = ListQueueBroker(...).with_middlewares(LiteFSMiddleware())      # for senders and workers alike


    @broker.task(litefs_writes=True)                                        # this one needs the primary
    async def bill(order): ...

The token is a label of the message. Waiting is done in ``pre_execute``, before a task's dependencies are resolved. What that
raises would leave the message without an end, so what must not run is stopped where the function is called, which is wrapped
there: a receiver may be any process's, and a task declared after it has started.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, Unpack

import anyio
from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.kicker import AsyncKicker

from litefs_watch.jobs.around import AnyWatcher, Job, current_job
from litefs_watch.jobs.arrival import Arrival
from litefs_watch.jobs.guard import CARRIER, REQUEUED, Guard, JobOptions, WatcherFactory, pause, say


class _Here(NamedTuple):
    """The message that is being handled here."""

    task_id: str
    arrival: Arrival
    around: tuple[_Here | None, Job | None]
    """The one around it, whose task has sent this to a broker that runs it at once."""


_here: ContextVar[_Here | None] = ContextVar("litefs_watch.arrival", default=None)


class LiteFSMiddleware(TaskiqMiddleware):
    """Lets each message carry what its sender has written or seen, and its task wait for it.

    Without ``watcher`` each process has one of its own, from the environment. ``databases``: several. ``secret`` as the web
    middleware's. ``timeout`` seconds are waited; then ``on_timeout``: Taskiq's ``retry`` (that of its retry middlewares,
    where there is one and the task says ``retry_on_error=True``; else it fails), ``run`` all the same, or ``fail``. A task
    with ``litefs_writes=True``, on a node that is no primary: ``on_replica``: ``requeue``, for as long as it takes, ``halt``
    (LiteFS's HALT lock), or ``fail``. A task says its own with ``litefs_timeout`` and so on.

    A worker with ``--use-process-pool`` fails every task of a plain function: it can't be sent to another process. Raises
    `ConfigError` for an option that can't work.
    """

    def __init__(
        self,
        watcher: AnyWatcher | WatcherFactory | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        super().__init__()
        self._guard = Guard(watcher, **options)

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        here = _here.get()
        if here is not None and here.arrival.what != "run" and here.task_id == message.task_id:
            return message  # it has not run, and goes back with what it came with
        message.labels[CARRIER] = await self._guard.carry_async(message.labels.get(CARRIER))
        return message

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        labels: dict[str, Any] = {}
        if (task := self.broker.find_task(message.task_name)) is not None:
            labels = task.labels
            task.original_func = _wrapped(task.original_func, self._guard)
        labels = {name: None if value == "None" else value for name, value in (labels | message.labels).items()}
        arrival = await self._guard.arrive_async(message.labels.get(CARRIER), labels)  # None is a word in a message
        say(message.task_name, arrival)
        around = (_here.get(), current_job.get())
        if around[0] is not None and around[0].arrival.what != "run":  # it has sent this one back
            around = around[0].around
        _here.set(_Here(message.task_id, arrival, around))
        current_job.set(arrival.job)
        if arrival.what == "requeue":
            times = int(message.labels.get(REQUEUED, 0))
            await anyio.sleep(pause(times))
            labels = {**message.labels, REQUEUED: times + 1}
            kicker: AsyncKicker[Any, Any] = AsyncKicker(message.task_name, self.broker, labels).with_task_id(message.task_id)
            await kicker.kiq(*message.args, **message.kwargs)
        if arrival.what in ("requeue", "fail"):
            message.labels["retry_on_error"] = False  # whatever its dependencies raise
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        if (here := _here.get()) is None:
            return
        if here.arrival.what == "requeue":
            result.error = NoResultError()  # it is to come
        outer, job = here.around
        _here.set(outer)
        current_job.set(job)


def _wrapped(function: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    if getattr(function, "litefs_watch", None) is not None:
        return function
    wrapper: Callable[..., Any]
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def in_event_loop(*args: Any, **kwargs: Any) -> Any:
            async with guard.doing_async(_let_in()):
                return await function(*args, **kwargs)

        wrapper = in_event_loop
    else:

        @functools.wraps(function)
        def in_thread(*args: Any, **kwargs: Any) -> Any:
            with guard.doing(_let_in()):
                return function(*args, **kwargs)

        wrapper = in_thread
    wrapper.__dict__["litefs_watch"] = guard
    return wrapper


def _let_in() -> Arrival:
    """Raises what is to be raised in place of running."""
    here = _here.get()
    if here is None:
        return Arrival("run", current_job.get())
    arrival = here.arrival
    if arrival.what == "run":
        _here.set(here._replace(arrival=arrival.entered()))  # where it calls another
        return arrival
    if arrival.what == "requeue":
        raise NoResultError
    raise arrival.error or NoResultError
