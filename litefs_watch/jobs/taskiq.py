"""Taskiq: each task sees what was written before it was sent.

::

    from litefs_watch.jobs.taskiq import LiteFSMiddleware

    broker = ListQueueBroker(...).with_middlewares(LiteFSMiddleware())      # for senders and workers alike


    @broker.task(litefs_writes=True)                                        # this one needs the primary
    async def bill(order): ...

The token is a label of the message. Waiting is done in ``pre_execute``, before a task's dependencies are resolved. What that
raises would leave the message without an end, so what must not run is stopped where the function is called: those of a
worker are wrapped when it starts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Unpack

import anyio
from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError
from taskiq.kicker import AsyncKicker

from litefs_watch.jobs.around import AnyWatcher, Job, current_job
from litefs_watch.jobs.arrival import Arrival
from litefs_watch.jobs.guard import CARRIER, REQUEUED, Guard, JobOptions, WatcherFactory, pause, say

_arrival: ContextVar[tuple[Arrival, Job | None] | None] = ContextVar("litefs_watch.arrival", default=None)
"""Of the message that is being handled here, and the job around it."""


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

    def startup(self) -> None:
        if self.broker.is_worker_process:
            for task in self.broker.get_all_tasks().values():
                task.original_func = _wrapped(task.original_func, self._guard)

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        message.labels[CARRIER] = await self._guard.carry_async(message.labels.get(CARRIER))
        return message

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        task = self.broker.find_task(message.task_name)
        labels = (task.labels if task is not None else {}) | message.labels
        arrival = await self._guard.arrive_async(message.labels.get(CARRIER), labels)
        say(message.task_name, arrival)
        if arrival.what == "requeue":
            times = int(message.labels.get(REQUEUED, 0))
            await anyio.sleep(pause(times))
            labels = {**message.labels, REQUEUED: times + 1}
            kicker: AsyncKicker[Any, Any] = AsyncKicker(message.task_name, self.broker, labels).with_task_id(message.task_id)
            await kicker.kiq(*message.args, **message.kwargs)
        elif arrival.what == "fail":
            message.labels["retry_on_error"] = False
        _arrival.set((arrival, current_job.get()))
        current_job.set(arrival.job)
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        if (found := _arrival.get()) is not None:
            current_job.set(found[1])
            _arrival.set(None)


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
    found = _arrival.get()
    arrival = Arrival("run", current_job.get()) if found is None else found[0]
    if arrival.what == "run":
        return arrival
    if arrival.what == "requeue":
        raise NoResultError
    raise arrival.error or NoResultError
