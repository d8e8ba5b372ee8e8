"""What becomes of a job that arrives: the rules, and one job on its way through them.

1. A token that is none, or forged, fails the job. A message without one has nothing to wait for.
2. One that writes, and is not on the primary: ``on_replica``. While no primary is known that is waited for.
3. What its message carries is waited for before it runs, and so before its first query.
4. What does not come in time, and a watcher that is stopped: ``on_timeout``. Whatever else goes wrong fails the job.
5. What the primary says is lost will never come: the job fails, unless it is to run all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from litefs_watch.changes import Role
from litefs_watch.consistency import PIN, Token
from litefs_watch.errors import ConfigError, NoPrimary, NotPrimary, TransactionLost, WaitTimeout, WatcherClosed
from litefs_watch.jobs.around import Job, Known
from litefs_watch.jobs.calls import TIMEOUT, Roles
from litefs_watch.jobs.tokens import Secrets, decode, unpack
from litefs_watch.watchers.faces import KNOWN_PRIMARY, require_primary
from litefs_watch.watchers.run import Run

OnTimeout = Literal["retry", "run", "fail"]
OnReplica = Literal["requeue", "halt", "fail"]
What = Literal["run", "retry", "requeue", "fail"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for one task. Raises `ConfigError` for what can't work."""

    writes: bool = False
    """Whether it writes, and so needs the primary."""
    timeout: float | None = TIMEOUT
    """Seconds to wait for what the message carries; None: for ever."""
    on_timeout: OnTimeout = "retry"
    """What becomes of it then: the queue's own ``retry``, ``run`` all the same, or ``fail``."""
    on_replica: OnReplica = "requeue"
    """What becomes of one that writes on a node that is no primary: sent back for another worker, run here under LiteFS's
    HALT lock, or failed."""

    def __post_init__(self) -> None:
        for name, kind in (("on_timeout", OnTimeout), ("on_replica", OnReplica)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ConfigError(f"{name} is one of {', '.join(map(repr, get_args(kind)))}, not {value!r}")
        if self.timeout is not None and (type(self.timeout) not in (int, float) or not self.timeout >= 0):
            raise ConfigError(f"timeout is a number of seconds, zero or more, or None, not {self.timeout!r}")


class Arrival(NamedTuple):
    """What becomes of a job."""

    what: What
    job: Job | None = None
    """What it is done in."""
    error: Exception | None = None
    """Why, where it does not just run."""
    halting: Run | None = None
    """The node whose HALT lock it needs …"""
    without: What = "fail"
    """… and what becomes of it where there is none to be had."""

    def unlocked(self, error: Exception) -> Arrival:
        """There is none."""
        return self._replace(what=self.without, error=error)

    def entered(self) -> Arrival:
        """It is held already."""
        return self._replace(halting=None)


class Arriving:
    """One job. Iterate over `waits`, wait for each, tell `end` of what that raises; `result` is what becomes of it."""

    def __init__(self, secrets: Secrets, carried: object) -> None:
        self._secrets = secrets
        self._carried = carried
        self._rules = Rules()
        self._job: Job | None = None
        self._error: Exception | None = None
        self._for_primary = False
        self._halting: Run | None = None

    def begin(self, watcher: Known, rules: Rules) -> Known:
        """Where, and by which rules. Returns the watcher."""
        self._job, self._rules = Job(watcher, self._secrets, {}), rules
        return watcher

    def waits(self, run: Run) -> Iterator[tuple[str, Token | Roles, float | None]]:
        """What to wait for: in which database, for what, and for how many seconds. Raises `NotPrimary`, `NoPrimary`, and
        `TokenError`."""
        timeout = self._rules.timeout
        until = None if timeout is None else time.monotonic() + timeout
        tokens = self._tokens()
        self._see(tokens)
        if self._rules.writes:
            self._for_primary = True
            yield "", KNOWN_PRIMARY, timeout
            self._need_primary(run)
            self._for_primary = False
        for database, token in tokens.items():
            if token == PIN and self._halting is not None and database == run.settings.database:
                continue  # before it grants the lock, LiteFS brings this node to where the primary is
            yield database, token, None if until is None else max(0.0, round(until - time.monotonic(), 3))
        if self._rules.writes:
            self._need_primary(run)  # while it waited, another one may have taken over

    def _tokens(self) -> Mapping[str, Token]:
        if self._carried is None:
            return {}
        texts = unpack(self._carried)
        return {database: decode(text, database, self._secrets) for database, text in texts.items()}

    def _see(self, tokens: Mapping[str, Token]) -> None:
        if self._job is not None:
            self._job = self._job._replace(seen=tokens)

    def _need_primary(self, run: Run) -> None:
        if self._rules.on_replica != "halt":
            require_primary(run.standing, run)
        elif run.standing.role is not Role.PRIMARY:
            self._halting = run

    def end(self, error: Exception) -> None:
        """A wait, or `waits` itself, has raised that."""
        self._error = error

    @property
    def result(self) -> Arrival:
        """When all is waited for, or has ended early."""
        error, rules = self._error, self._rules
        what: What = "run"
        late = isinstance(error, WaitTimeout | WatcherClosed)
        if isinstance(error, NoPrimary | NotPrimary) or (late and self._for_primary):
            what = rules.on_timeout if rules.on_replica == "halt" else rules.on_replica
        elif isinstance(error, TransactionLost):
            what = "run" if rules.on_timeout == "run" else "fail"
            self._see({})  # nobody is to wait for it again
        elif late:
            what = rules.on_timeout
        elif error is not None:
            what = "fail"
        without: What = "retry" if rules.on_timeout == "retry" else "fail"
        return Arrival(what, self._job, error, self._halting if what == "run" else None, without)
