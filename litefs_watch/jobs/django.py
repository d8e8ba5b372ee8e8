"""Django's tasks (Django 6.0, or django-tasks before it): each sees what was written before it was enqueued.

::

    # shop/tasks_backend.py: in front of the backend that is used, such as that of django-tasks-db
    from django_tasks_db import DatabaseBackend
    from litefs_watch.jobs.django import WatchedTasks

    class Backend(WatchedTasks, DatabaseBackend): ...

    # settings.py
    TASKS = {"default": {"BACKEND": "shop.tasks_backend.Backend", "OPTIONS": {"litefs": {"timeout": 5}}}}

    # shop/tasks.py
    @task
    @litefs(writes=True)                            # this one needs the primary
    def bill(order): ...

A task's message has arguments and nothing else: the token is one of the keyword arguments, which the function does not get.
Nor can it be sent back: a task that is tried again is enqueued anew, and this one's result says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from asgiref.sync import sync_to_async
from django.utils import timezone

from litefs_watch.django.conf import get_watcher, load
from litefs_watch.errors import ConfigError, HaltError, LiteFSWatchError
from litefs_watch.jobs.arrival import Arrival, OnReplica, OnTimeout, Rules
from litefs_watch.jobs.guard import CARRIER, REQUEUED, Guard, JobOptions, pause, say
from litefs_watch.printable import did_you_mean

_MODULES: list[Any] = []
for _name in ("django.tasks", "django_tasks"):  # Django's since 6.0, and what was there before: a backend is of one of them
    try:
        _MODULES.append((import_module(f"{_name}.base"), import_module(f"{_name}.backends.immediate")))
    except ImportError:
        continue
if not _MODULES:
    import_module("django_tasks")  # says that there is none

_TASKS = tuple(base.Task for base, _ in _MODULES)
_IMMEDIATE = tuple(immediate.ImmediateBackend for _, immediate in _MODULES)

KEYWORD, TIMES = (name.replace("-", "_") for name in (CARRIER, REQUEUED))
RETRIES = 10
"""Times that a task is tried again, after 0.1 s and then twice as long up to 1 s, beside what it waits each time: Django's
tasks have no retry of their own."""

F = TypeVar("F", bound=Callable[..., Any])


class EnqueuedAgain(LiteFSWatchError):
    """A task was not run here: it has been enqueued anew, and has a result of its own. Its cause says why."""


class TaskOptions(TypedDict, total=False):
    """What a task says for itself."""

    writes: bool
    timeout: float | None
    on_timeout: OnTimeout
    on_replica: OnReplica


def litefs(**options: Unpack[TaskOptions]) -> Callable[[F], F]:
    """Under ``@task``: what holds for this one. ``writes=True``: it needs the primary. The others as in `WatchedTasks`.
    Raises `ConfigError`."""
    for name in options:
        if name not in TaskOptions.__annotations__:
            raise ConfigError(f"@litefs: there is no {name!r}{did_you_mean(name, sorted(TaskOptions.__annotations__))}")
    Rules(**options)

    def mark(function: F) -> F:
        if isinstance(function, _TASKS):
            raise ConfigError(f"@litefs stands under @task, not over it: the task {function.name} is made already")
        function.__dict__["litefs_watch"] = {f"litefs_{name}": value for name, value in options.items()}
        return function

    return mark


class WatchedTask:
    """A task of a `WatchedTasks` backend, in front of the class of tasks that the backend has: it waits before it runs."""

    __slots__ = ()

    if TYPE_CHECKING:
        func: Any
        name: str
        takes_context: bool
        get_backend: Callable[[], Any]
        using: Callable[..., Any]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        guard, again = self.get_backend().guard, dict(kwargs)
        arrival = guard.arrive(*self._message(kwargs))
        self._check(arrival, args, again)
        with ExitStack() as around:
            try:
                around.enter_context(guard.doing(arrival))
            except HaltError as error:
                self._check(arrival.unlocked(error), args, again)
            return super().call(*args, **kwargs)  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        guard, again = self.get_backend().guard, dict(kwargs)
        arrival = await guard.arrive_async(*self._message(kwargs))
        await sync_to_async(self._check)(arrival, args, again)
        async with AsyncExitStack() as around:
            try:
                await around.enter_async_context(guard.doing_async(arrival))
            except HaltError as error:
                await sync_to_async(self._check)(arrival.unlocked(error), args, again)
            return await super().acall(*args, **kwargs)  # type: ignore[misc]

    def _message(self, kwargs: dict[str, Any]) -> tuple[object, Mapping[str, Any]]:
        """Takes out of the arguments what is ours: what is carried, and what the task says for itself."""
        kwargs.pop(TIMES, None)
        return kwargs.pop(KEYWORD, None), getattr(self.func, "litefs_watch", {})

    def _check(self, arrival: Arrival, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises what is to be raised in place of running; enqueues the task anew before, where that is wanted."""
        say(self.name, arrival)
        if arrival.what == "run":
            return
        backend, times = self.get_backend(), int(kwargs.get(TIMES, 0))
        error = arrival.error or EnqueuedAgain(f"task {self.name}: {arrival.what}")
        given_up = arrival.what == "retry" and times >= RETRIES
        if arrival.what == "fail" or given_up or isinstance(backend, _IMMEDIATE):  # who enqueues there, runs
            raise error
        task: Any = self
        if _defers(backend):
            task = self.using(run_after=timezone.now() + timedelta(seconds=pause(times)))
        else:
            time.sleep(pause(times))
        sent = backend.enqueue_as_it_came(task, args[1:] if self.takes_context else args, {**kwargs, TIMES: times + 1})
        raise EnqueuedAgain(f"task {self.name} was not run here, and is enqueued again as {sent.id}: {error}") from error


def _defers(backend: Any) -> bool:
    """Whether what is enqueued for later is done then: with RQ only where a worker of its runs ``--with-scheduler``."""
    packages = {each.__module__.partition(".")[0] for each in type(backend).__mro__}
    return bool(backend.supports_defer) and "django_tasks_rq" not in packages


class WatchedTasks:
    """In front of a backend of Django's tasks: each carries what its sender has written or seen, and waits for it.

    The watcher is that of ``LITEFS_WATCH``, and so is ``secret``. ``OPTIONS["litefs"]`` may say ``timeout``: seconds that
    are waited; then ``on_timeout``: ``retry`` (`RETRIES` times), ``run`` all the same, or ``fail``. A task that says
    ``@litefs(writes=True)``, on a node that is no primary: ``on_replica``: ``requeue``, for as long as it takes, ``halt``
    (LiteFS's HALT lock), or ``fail``. ``databases``: several.

    Enqueue after the commit. Raises `ConfigError` for an option that can't work, where it does not stand in front of a
    backend, and for a task that was declared for another backend: it would not wait.
    """

    task_class: Any = None

    if TYPE_CHECKING:
        alias: str
        options: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        classes = cls.__mro__[: cls.__mro__.index(WatchedTasks)]
        before = next(
            (each for each in classes if hasattr(each, "validate_task") and not issubclass(each, WatchedTasks)), None
        )
        behind = getattr(super(), "enqueue", None)
        if before is not None or behind is None or getattr(behind, "__isabstractmethod__", False):
            seen = "a backend" if before is None else before.__name__
            raise ConfigError(
                f"class {cls.__name__}: WatchedTasks stands in front of {seen}, or nothing is waited for: "
                f"class {cls.__name__}(WatchedTasks, {'DatabaseBackend' if before is None else seen})"
            )
        made = super().task_class  # type: ignore[misc]
        cls.task_class = type("WatchedTask", (WatchedTask, made), {"__slots__": ()})

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)  # type: ignore[call-arg]
        given = self.options.get("litefs", {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"TASKS[{alias!r}]: OPTIONS['litefs'] is a dictionary, not {given!r}")
        for name in given:
            if name not in JobOptions.__annotations__:
                known = sorted(JobOptions.__annotations__)
                raise ConfigError(f"TASKS[{alias!r}]: OPTIONS['litefs'] has no {name!r}{did_you_mean(name, known)}")
        self.guard: Guard = Guard(get_watcher, **{"secret": load().options.get("secret"), **given})

    def validate_task(self, task: Any) -> None:
        if not isinstance(task, WatchedTask):
            raise ConfigError(
                f"task {task.name} was declared for another backend, and would not wait for what its sender has written: "
                f"declare it with @task(backend={self.alias!r})"
            )
        super().validate_task(task)  # type: ignore[misc]

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        return self.enqueue_as_it_came(task, args, {**kwargs, KEYWORD: self.guard.carry_or_say(kwargs.get(KEYWORD))})

    def enqueue_as_it_came(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Of one that has not run: where its worker is, is nothing that it has seen."""
        return super().enqueue(task, args, kwargs)  # type: ignore[misc]

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        carried = await self.guard.carry_async(kwargs.get(KEYWORD))
        return await super().aenqueue(task, args, {**kwargs, KEYWORD: carried})  # type: ignore[misc]
