"""Dramatiq: each actor sees what was written before its message was sent.

::

    from litefs_watch.jobs.dramatiq import LiteFSMiddleware

    broker = RedisBroker(...)
    broker.add_middleware(LiteFSMiddleware())       # before the actors; for senders and workers alike


    @dramatiq.actor(litefs_writes=True)             # this one needs the primary
    def bill(order): ...

The token is an option of the message. Of what a middleware raises, Dramatiq heeds its own errors only: ours are such.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, Unpack

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage

from litefs_watch.jobs.around import AnyWatcher, current_job
from litefs_watch.jobs.guard import CARRIER, REQUEUED, TASK_OPTIONS, Guard, JobOptions, WatcherFactory, pause, say

AS_IT_CAME = "litefs-as-it-came"
"""The option of a message that a worker has until it is due: what it carries stays as it is."""


class NotHere(MiddlewareError):
    """A message was not processed: what it waits for has not come. Its cause says what. Dramatiq tries it again."""


class LiteFSMiddleware(Middleware):
    """Lets each message carry what its sender has written or seen, and its actor wait for it.

    Without ``watcher`` each process has one of its own, from the environment. ``databases``: several. ``secret`` as the web
    middleware's. ``timeout`` seconds are waited; then ``on_timeout``: Dramatiq's ``retry`` (its ``Retries``, with their
    pauses), ``run`` all the same, or ``fail`` (to the dead letters). An actor with ``litefs_writes=True``, on a node that is
    no primary: ``on_replica``: ``requeue``, for as long as it takes, ``halt`` (LiteFS's HALT lock), or ``fail``. An actor
    says its own with ``litefs_timeout``, ``litefs_on_timeout``, ``litefs_on_replica``.

    Middlewares that query the database before a message is processed belong behind this one. Raises `ConfigError` for an
    option that can't work.
    """

    def __init__(
        self,
        watcher: AnyWatcher | WatcherFactory | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        self._guard = Guard(watcher, **options)
        self._here = threading.local()

    @property
    def actor_options(self) -> set[str]:
        return set(TASK_OPTIONS)

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        waiting = self._here.__dict__.get("message") == message.message_id  # it has not run, and is sent again
        if not message.options.pop(AS_IT_CAME, False) and not waiting:
            message.options[CARRIER] = self._guard.carry_or_say(message.options.get(CARRIER))

    def before_delay_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Whichever worker has it until it is due, and puts it into its queue then."""
        message.options[AS_IT_CAME] = True

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        try:
            self._let_in(broker, message)
        except MiddlewareError:
            raise
        except Exception as error:  # which Dramatiq would log, and go on
            raise NotHere(str(error)) from error

    def _let_in(self, broker: dramatiq.Broker, message: Any) -> None:
        self._here.message = message.message_id  # until it runs
        given = broker.get_actor(message.actor_name).options | message.options
        arrival = self._guard.arrive(message.options.get(CARRIER), given)
        say(message.actor_name, arrival)
        current_job.set(arrival.job)
        if arrival.what == "retry":
            raise NotHere(str(arrival.error)) from arrival.error
        if arrival.what == "requeue":
            times = message.options.get(REQUEUED, 0)
            message.options[REQUEUED] = times + 1
            broker.enqueue(message, delay=round(pause(times) * 1000))
            message.options["store_results"] = False  # it has none yet
            raise SkipMessage(str(arrival.error))
        if arrival.what == "fail":
            message.fail()
            raise SkipMessage(str(arrival.error)) from arrival.error
        with ExitStack() as around:
            around.enter_context(self._guard.doing(arrival))
            self._here.message = None
            self._here.around = around.pop_all()

    def after_process_message(
        self, broker: dramatiq.Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        around: ExitStack | None = self._here.__dict__.pop("around", None)
        if around is not None:
            around.close()

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        """Another middleware has skipped it."""
        self.after_process_message(broker, message)

    def after_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Until now, other middlewares have sent messages for it: those of pipelines, and of groups."""
        current_job.set(None)
        self._here.message = None

    after_nack = after_ack
