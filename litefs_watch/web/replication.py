"""A write's response that waits until other nodes have it, as ``replicated_to`` asks. Decides; the gates do the waiting.

1. **Only what acknowledges a write waits**: one that was let in on the primary, whose position has moved since, and that is
   answered with less than 400. A read never does.
2. **What can't be met is not waited for**: while fewer other nodes are connected, or were a moment ago, than are asked for.
   One that comes back tells with the next transaction that it has this one, too.
3. **Waiting takes no server's last thread**: beyond ``max_waiting`` at once, each further one waits a tenth of its time.
4. **What is said is what is known**: how many have that very position when the response goes. A write whose position is not
   known, or that is committed after its response has started, is known of nobody else: 0.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from litefs_watch.changes import Role
from litefs_watch.consistency import Exchange, Options
from litefs_watch.consistency.exchange import HURRIED
from litefs_watch.position import Position
from litefs_watch.settings import Settings
from litefs_watch.watchers.peering import check_count
from litefs_watch.web.budget import Budget
from litefs_watch.web.seldom import Seldom

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Run

logger: logging.Logger = logging.getLogger("litefs_watch")


class Replication:
    """Of one gate. Raises `ConfigError` where the watcher has no peers, or fewer than are asked for."""

    def __init__(self, settings: Settings, options: Options, database: str) -> None:
        self.count: int = 0 if settings.standalone else options.replicated_to
        """Other nodes that are to have it; 0: nothing is asked for."""
        if self.count:
            check_count(settings, self.count)
        self._database = database
        self._timeout = options.replication_timeout
        self._seldom = Seldom()

    def concerns(self, exchange: Exchange, position: Position | None, status: int) -> bool:
        """Rule 1, of a response with that status whose ``position`` has been read."""
        if not self.count or status >= 400 or exchange.committed is not None or exchange.replicated is not None:
            return False
        role, before = exchange.admitted or (exchange.role, exchange.before)
        if role is not Role.PRIMARY or not (exchange.writes or exchange.written):
            return False
        return exchange.late or exchange.unreadable or (position is not None and position != before)

    def patience(self, exchange: Exchange, position: Position | None, run: Run, budget: Budget) -> float:
        """Seconds to wait, by rules 2 to 4."""
        if position is None or exchange.late or run.cluster is None or not run.cluster.could_have(self.count):
            return 0.0
        return self._timeout if budget.replicating < budget.most_replicating else self._timeout * HURRIED

    def conclude(self, exchange: Exchange, position: Position | None, run: Run | None) -> None:
        """The wait is over: what is true now. None: the watcher was stopped."""
        told = run is not None and run.cluster is not None and position is not None and not exchange.late
        cluster = run.cluster if run is not None and told else None
        having = cluster.count(self._database, position) if cluster is not None and position is not None else 0
        exchange.replicated = having
        if having >= self.count:
            return
        exchange.wanted = self.count
        if self._seldom.due(Replication) is not None:
            others = cluster.describe(self._database, position) if cluster is not None and position is not None else _UNKNOWN
            logger.warning(
                "%s: %d of %d other nodes had a write when it was answered: %s", self._database, having, self.count, others
            )


_UNKNOWN = (
    "nobody can be asked for it, since it is committed after its response has started (commit before that), or its position "
    "can't be read, or the watcher was stopped"
)
