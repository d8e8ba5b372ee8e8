"""What the integrations of all queues have in common. Each adds where its messages carry text, and how it tries again."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace
from typing import Any, TypedDict, Unpack

from litefs_watch.consistency import Token
from litefs_watch.consistency.options import Secret
from litefs_watch.errors import ConfigError, TokenError, WatcherClosed
from litefs_watch.halt import halt, halted
from litefs_watch.jobs.around import AnyWatcher, Around, Known, around, current_job, run_of, run_of_async
from litefs_watch.jobs.arrival import Arrival, Arriving, OnReplica, OnTimeout, Rules
from litefs_watch.jobs.calls import (
    READ_TIMEOUT,
    in_event_loop,
    pin,
    token_of,
    token_of_async,
    wait_for,
    wait_for_async,
    within,
)
from litefs_watch.jobs.tokens import UNTOLD, decode, encode, pack, secrets_of, unpack
from litefs_watch.printable import did_you_mean
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.watchers.run import Run
from litefs_watch.watchers.runs import running

logger: logging.Logger = logging.getLogger("litefs_watch")

CARRIER = "litefs-token"
"""The header, label or option of a message that carries its tokens."""
REQUEUED = "litefs-requeued"
"""The one that counts how often it was sent back."""

LOOP_LIMIT = 0.25
"""Seconds for the same where a message is sent by a blocking call in an event loop's own thread."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds before a job that was sent back is due again: from the first to twice as long each time, at random. Not for long:
a queue may hold it in the worker that is the next to take it, and that may be the wrong one, too. At random: Celery's
workers ask Redis for a second at a time, and who has asked for longest is served; after one second, that was the one that
had just sent it back, six times before the primary's had it (two, since)."""

WatcherFactory = Callable[[], AnyWatcher]

_PREFIX = "litefs_"
_jitter = random.Random()  # noqa: S311 - no secret; our own, so that an application's seeded numbers stay what they are
_RULES = [each.name for each in fields(Rules)]
TASK_OPTIONS = tuple(f"{_PREFIX}{name}" for name in _RULES)
"""What a task may say for itself."""


class RuleOptions(TypedDict, total=False):
    """`Rules`, for all tasks of a queue; each task may say its own."""

    timeout: float | None
    on_timeout: OnTimeout
    on_replica: OnReplica


class JobOptions(RuleOptions, total=False):
    """What the integrations of all queues take."""

    databases: Sequence[str]
    """Those whose positions a message carries; the watcher's own without."""
    secret: Secret | Sequence[Secret] | None
    """As the middleware's: signs the tokens. Who has one believes no other tokens."""


class Guard:
    """Of one queue. Without a watcher it has one of its own, from the environment, which each process starts for itself with
    its first job. ``watcher`` may be a function that gives it. Raises `ConfigError`."""

    def __init__(
        self,
        watcher: AnyWatcher | WatcherFactory | None = None,
        *,
        databases: Sequence[str] = (),
        secret: Secret | Sequence[Secret] | None = None,
        **rules: Unpack[RuleOptions],
    ) -> None:
        if isinstance(databases, str):
            raise ConfigError(f"databases is a sequence of names, not a single one: write [{databases!r}]")
        self._secret, self._secrets = secret, secrets_of(secret)
        self._databases: tuple[str | None, ...] = tuple(databases) or (None,)
        self._rules = Rules(**rules)
        self._given = BlockingWatcher() if watcher is None else watcher
        if not callable(self._given):
            for database in self._databases:
                self._given.settings.database_or_default(database)

    @property
    def _watcher(self) -> Known:
        given = self._given() if callable(self._given) else self._given
        return given.watcher if isinstance(given, AwaitableWatcher) else given

    def rules(self, given: Mapping[str, Any]) -> Rules:
        """Those of a task that gives any of ``litefs_writes``, ``_timeout``, ``_on_timeout``, ``_on_replica``."""
        own = {name.removeprefix(_PREFIX): value for name, value in given.items() if name.startswith(_PREFIX)}
        for name in own:
            if name not in _RULES:
                raise ConfigError(f"there is no {_PREFIX}{name}{did_you_mean(_PREFIX + name, TASK_OPTIONS)}")
        return replace(self._rules, **own) if own else self._rules

    # Sending.

    def carry(self, carried: object = None) -> str:
        """What a message is to carry, which may carry something already. From any thread: in one that runs an event loop,
        the file is read in another, which is waited for shortly. What can't be told is pinned, never left out."""
        try:
            texts = {} if carried is None else unpack(carried)
            sending = self._sending(texts)
        except TokenError:  # not ours to mend: its worker says what is wrong
            return str(carried)
        for where in sending:
            texts[where.database] = encode(_told(where), where.database, where.secrets)
        return pack(texts)

    def carry_or_say(self, carried: object = None) -> str:
        """As `carry`, where what is raised would be swallowed, and the message sent as if it carried nothing."""
        try:
            return self.carry(carried)
        except Exception:
            logger.exception("a job is sent, and what its sender has written can't be told: it will fail")
            return UNTOLD

    async def carry_async(self, carried: object = None) -> str:
        """The same, without blocking the event loop."""
        try:
            texts = {} if carried is None else unpack(carried)
            sending = self._sending(texts)
        except TokenError:
            return str(carried)
        for where in sending:
            try:
                token = await token_of_async(where, await run_of_async(where.watcher))
            except WatcherClosed as error:
                token = pin(where.database, error)
            texts[where.database] = encode(token, where.database, where.secrets)
        return pack(texts)

    def _sending(self, texts: Mapping[str, str]) -> list[Around]:
        own = self._watcher
        known = next((run for run in running() if run.settings == own.settings), own)  # the application's, where it runs
        sending = []
        for database in self._databases:
            where = around(known, own.settings.database_or_default(database), self._secret)
            if where.database in texts:
                where = where.having(decode(texts[where.database], where.database, where.secrets))
            sending.append(where)
        return sending

    # Arriving.

    def arrive(self, carried: object, given: Mapping[str, Any]) -> Arrival:
        """What becomes of a job whose message carries that (None: nothing), and whose task says that (see `rules`). In a
        thread, after all waits. Raises no `Exception`."""
        arriving = Arriving(self._secrets, carried)
        try:
            watcher = arriving.begin(self._watcher, self.rules(given))
            run = run_of(watcher)
            for wait in arriving.waits(run):
                wait_for(run, *wait)
        except Exception as error:  # noqa: BLE001 - whichever it is, a job does not run as if it had not been
            arriving.end(error)
        return arriving.result

    async def arrive_async(self, carried: object, given: Mapping[str, Any]) -> Arrival:
        """The same in an event loop."""
        arriving = Arriving(self._secrets, carried)
        try:
            watcher = arriving.begin(self._watcher, self.rules(given))
            run = await run_of_async(watcher)
            for wait in arriving.waits(run):
                await wait_for_async(run, *wait)
        except Exception as error:  # noqa: BLE001 - whichever it is, a job does not run as if it had not been
            arriving.end(error)
        return arriving.result

    # Running.

    @contextmanager
    def doing(self, arrival: Arrival) -> Iterator[None]:
        """Around a job: what it sends in turn carries what it has seen, and it holds the HALT locks that it needs. Raises
        `HaltError`."""
        outer = current_job.set(arrival.job)
        try:
            with self._halted(arrival.halting):
                yield
        finally:
            current_job.reset(outer)

    @asynccontextmanager
    async def doing_async(self, arrival: Arrival) -> AsyncIterator[None]:
        """As `doing`, in an event loop."""
        outer = current_job.set(arrival.job)
        try:
            if arrival.halting is None:
                yield
            else:
                async with halt(self._own(arrival.halting), litefs_dir=arrival.halting.settings.litefs_dir):
                    yield
        finally:
            current_job.reset(outer)

    @contextmanager
    def _halted(self, run: Run | None) -> Iterator[None]:
        if run is None:
            yield
            return
        with halted(self._own(run), litefs_dir=run.settings.litefs_dir):
            yield

    def _own(self, run: Run) -> str:
        if len(self._databases) > 1:
            raise ConfigError("on_replica='halt' is for one database: which one of several a task writes is not known here")
        return run.settings.database_or_default(self._databases[0])


def pause(times: int) -> float:
    """Seconds until a job is due that has been sent back so many times before."""
    return _jitter.uniform(FIRST_PAUSE, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(times, 16)))


def say(name: str, arrival: Arrival) -> None:
    """Logs what becomes of a job that does not just run."""
    if arrival.error is not None:
        logger.warning("job %s: %s: %s", name, _WORDS[arrival.what], arrival.error)


_WORDS = {
    "run": "it runs all the same",
    "retry": "it is to be tried again",
    "requeue": "it is sent back to the queue",
    "fail": "it fails",
}


def _told(where: Around) -> Token:
    try:
        if in_event_loop():
            return within(LOOP_LIMIT, where.database, lambda: token_of(where, run_of(where.watcher)))
        run = run_of(where.watcher)
        return within(READ_TIMEOUT, where.database, lambda: token_of(where, run))
    except WatcherClosed as error:
        return pin(where.database, error)
