"""The calls about other nodes, of `Watcher` and of `BlockingWatcher`. What they need is loaded where there are peers."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

from litefs_watch.errors import ConfigError
from litefs_watch.position import Position, check_wanted
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.watchers.parking import cancellation_point, park, spot_in

if TYPE_CHECKING:
    from litefs_watch.cluster import Cluster
    from litefs_watch.watchers.cluster import ClusterWatch
    from litefs_watch.watchers.run import Run
    from litefs_watch.watchers.subscription import BlockingSubscription, Subscription

_NO_PEERS = "no other nodes are known: set LITEFS_PEERS (or peers=) to the addresses of their LiteFS, or to 'fly'"


class ClusterCalls:
    """For an event loop."""

    settings: Settings
    _run: Run

    @property
    def cluster(self) -> Cluster:
        """The other nodes, by their own word (``settings.peers``), as of one moment. Empty where none are watched."""
        return picture_of(self._run)

    def cluster_changes(self) -> Subscription[Cluster]:
        """The picture each time that it has become another one, from this call on; who is slow gets the newest.

        Raises `ConfigError` where there are no peers, `WatcherClosed`, and `RuntimeError` outside of the watcher's event
        loop.
        """
        from litefs_watch.watchers.subscription import Subscription

        self._run.check_loop()
        return Subscription(self._run, (), watch_of(self._run).queue)

    async def wait_for_replicas(
        self, position: Position, count: int = 1, *, database: str | None = None, timeout: float | None = None
    ) -> int:
        """Wait until ``count`` other nodes have that very position in their history, for at most ``timeout`` seconds.

        Returns how many have it then. A node counts by its own word, on its event stream: where it has told the position
        itself, or a later one of the same history. What it had before the stream was opened, it tells with its next
        transaction, and not before. Standalone there are no others, and the wait is met: 0.

        Always a cancellation point. Raises `WaitTimeout`, which says how many have it and what the others have,
        `ConfigError` where there are no peers, or fewer, `WatcherClosed`, `ValueError` for what is no position and no count,
        and `RuntimeError` in another event loop than the watcher's.
        """
        run = self._run
        await cancellation_point(run.token)
        wait = ReplicaWait(self.settings, run, position, count, database, timeout)
        run.check_loop()
        while not wait.over:
            spot = spot_in(current_token())
            await park(run, wait.waiter(spot.wake), spot, wait.left)
            wait.recount()
        return wait.having


class BlockingClusterCalls:
    """For threads."""

    settings: Settings

    if TYPE_CHECKING:

        def _live(self) -> Run: ...
        def _wait(self, waiter: Any, woken: Any, timeout: float | None) -> Any: ...

    @property
    def cluster(self) -> Cluster:
        """As `Watcher.cluster`."""
        return picture_of(self._live())

    def cluster_changes(self) -> BlockingSubscription[Cluster]:
        """As `Watcher.cluster_changes`."""
        from litefs_watch.watchers.subscription import BlockingSubscription

        run = self._live()
        return BlockingSubscription(run, (), watch_of(run).queue)

    def wait_for_replicas(
        self, position: Position, count: int = 1, *, database: str | None = None, timeout: float | None = None
    ) -> int:
        """As `Watcher.wait_for_replicas`."""
        from litefs_watch.watchers.threads import Wake

        wait = ReplicaWait(self.settings, self._live(), position, count, database, timeout)
        while not wait.over:
            woken = Wake()
            self._wait(wait.waiter(woken.set), woken, wait.left)
            wait.recount()
        return wait.having


class ReplicaWait:
    """One call of `wait_for_replicas`: what it was given, checked, and how far it is.

    Whoever is woken looks once more: a peer may have said in one breath that it has the position, and that it went back.
    """

    def __init__(
        self, settings: Settings, run: Run, position: Position, count: int, database: str | None, timeout: float | None
    ) -> None:
        if not isinstance(position, Position):
            seen = f"{str(position)[:60]!r}"
            raise ValueError(f"wait_for_replicas waits for a Position, which names its history, not {seen}")  # noqa: TRY004
        check_wanted(position)
        if type(count) is not int or count < 1:
            raise ValueError(f"count is a whole number of nodes, 1 or more, not {str(count)[:60]!r}")
        check_timeout(timeout)
        self._database = settings.database_or_default(database)
        self._position, self._count = position, count
        self.over: bool = settings.standalone
        self.having: int = 0
        if not self.over:
            check_count(settings, count)
            self._watch = watch_of(run)
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self.left: float | None = timeout

    def waiter(self, wake: Any) -> Any:
        return self._watch.waiter(self._database, self._position, self._count, wake)

    def recount(self) -> None:
        """The wait was met: is it still?"""
        self.having = self._watch.count(self._database, self._position)
        self.over = self.having >= self._count
        if self._deadline < math.inf:
            self.left = max(0.0, self._deadline - time.monotonic())


def check_count(settings: Settings, count: int) -> None:
    """Raise `ConfigError` where there are no peers, or never can be so many."""
    if not settings.peers:
        raise ConfigError(_NO_PEERS)
    if settings.peers != "fly" and count > len(settings.peers):
        raise ConfigError(
            f"{count} other nodes are asked for, and LITEFS_PEERS (peers=) names {len(settings.peers)}: name them all, or "
            "ask for fewer"
        )


def watch_of(run: Run) -> ClusterWatch:
    """Raises `ConfigError` where none are watched."""
    if run.cluster is None:
        raise ConfigError(_NO_PEERS)
    return run.cluster


def picture_of(run: Run) -> Cluster:
    if run.cluster is not None:
        return run.cluster.picture()
    from litefs_watch.cluster import Cluster

    return Cluster()
