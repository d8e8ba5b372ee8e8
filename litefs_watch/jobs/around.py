"""What a call is made in: which node's watcher, which database, and what the request or the job has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from litefs_watch.consistency import PIN, Exchange, Token, current_exchange
from litefs_watch.consistency.options import Secret
from litefs_watch.consistency.tokens import txid_of
from litefs_watch.errors import ConfigError, WatcherClosed
from litefs_watch.jobs.tokens import NOTHING, Secrets, secrets_of
from litefs_watch.sources.thread import CallThread
from litefs_watch.watchers import why
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.watchers.run import Run
from litefs_watch.watchers.runs import running
from litefs_watch.watchers.watcher import Watcher

AnyWatcher = Watcher | BlockingWatcher | AwaitableWatcher
Known = Watcher | BlockingWatcher | Run


class Job(NamedTuple):
    """A job that is being done."""

    watcher: Known
    secrets: Secrets
    seen: Mapping[str, Token]
    """By database: what its sender had written or seen."""


current_job: ContextVar[Job | None] = ContextVar("litefs_watch.job", default=None)
"""The one that is being done here."""


class Around(NamedTuple):
    """What a call is made in."""

    watcher: Known
    database: str
    secrets: Secrets
    token: Token | None = None
    """What the job, or the request, has from who sent it, if this node may not have it …"""
    exchange: Exchange | None = None
    """… and the request."""

    def seen(self, run: Run) -> Token | None:
        """What the token must not be behind. What was written where the node has followed another primary since may be of
        another history: the middleware pins its client, too."""
        exchange = self.exchange
        followed = exchange is not None and exchange.wrote and exchange.term != run.term
        return PIN if followed else self.token

    def having(self, token: Token) -> Around:
        """The same, with another token that must not be gone behind."""
        both = (token, self.token or NOTHING)
        return self._replace(token=max(both, key=txid_of))


def around(
    watcher: AnyWatcher | Run | None = None, database: str | None = None, secret: Secret | Sequence[Secret] | None = None
) -> Around:
    """What this very call is made in; what is given counts more. Raises `ConfigError` where nothing tells the watcher."""
    given = watcher.watcher if isinstance(watcher, AwaitableWatcher) else watcher
    if database is None and given is not None:
        database = given.settings.database  # its own, whichever the request's middleware is of
    secrets = secrets_of(secret)
    if (job := current_job.get()) is not None:
        known = given or job.watcher
        name = known.settings.database_or_default(database)
        return Around(known, name, secrets or job.secrets, job.seen.get(name))
    exchange = _exchange_of(database)
    policy = None if exchange is None else exchange.policy
    if exchange is not None and policy is not None and (given is None or _is_same(given, policy.watcher)):
        token = exchange.token if exchange.stale else None
        return Around(policy.watcher, policy.database, secrets or policy.options.secrets, token, exchange)
    known = given or _only_one()
    return Around(known, known.settings.database_or_default(database), secrets)


def _exchange_of(database: str | None) -> Exchange | None:
    """The request's, for the database that is meant. None, too, where that has been over for so long that its watcher is."""
    exchange = current_exchange.get()
    while exchange is not None:
        own = None
        for each in exchange.each or (exchange,):
            if each.policy is None or not _is_usable(each.policy.watcher):
                continue
            name = each.policy.database
            if name == (database or each.policy.watcher.settings.database):
                return each
            own = own or each
        if database is None and own is not None:
            return own
        exchange = exchange.outer
    return None


def _is_usable(watcher: Known) -> bool:
    return watcher.running or (isinstance(watcher, BlockingWatcher) and not watcher.stopped)


def _is_same(watcher: Known, other: Known) -> bool:
    """Whether both are of the same node."""
    return watcher is other or watcher.settings.litefs_dir == other.settings.litefs_dir


def _only_one() -> Run:
    """The one that runs in this process. Several of the same node and database are as good as one."""
    runs = running()
    if not runs:
        raise ConfigError(
            "which node? No watcher runs in this process: start one (in the application's lifespan, or BlockingWatcher()), "
            "or give it: watcher="
        )
    if any(run.settings != runs[0].settings for run in runs):
        nodes = ", ".join(sorted({f"{run.settings.database} in {run.settings.litefs_dir}" for run in runs}))
        raise ConfigError(f"which node? Several watchers run in this process ({nodes}): say which one with watcher=")
    return runs[0]


def run_of(watcher: Known) -> Run:
    """Its run, started if it starts by itself. Raises `WatcherClosed`."""
    run = watcher if isinstance(watcher, Run) else watcher.run
    if not run.running:
        raise WatcherClosed(why.idle(run) or why.NOT_RUNNING)
    return run


async def run_of_async(watcher: Known) -> Run:
    """The same, without blocking the event loop."""
    if isinstance(watcher, BlockingWatcher) and not watcher.running:
        return await CallThread("litefs_watch start").run(lambda: run_of(watcher))
    return run_of(watcher)
