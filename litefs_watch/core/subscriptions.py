"""Who wants to hear of every change: a queue for each subscriber, in which what it has not taken yet coalesces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakSet

from litefs_watch.changes import PrimaryChange, TxChange

if TYPE_CHECKING:
    from litefs_watch.cluster import Cluster

logger: logging.Logger = logging.getLogger("litefs_watch")

ChangeT = TypeVar("ChangeT", bound="TxChange | PrimaryChange | Cluster")


class ChangeQueue(Generic[ChangeT]):
    """Changes that a subscriber has not taken yet: of each database's positions the newest, of the primary's all.

    Two changes of one database become one, from the earlier's ``previous`` to the later's ``position``. It stands where the
    earlier one stood: at the end, a database that changes all the time would never come to a slow subscriber's turn. Where
    the two are the same position, it is dropped.
    """

    def __init__(self, accepts: tuple[type, ...], wake: Callable[[], object]) -> None:
        self._accepts = accepts
        self._wake = wake
        self._changes: dict[object, ChangeT] = {}
        self._serial = 0
        self.closed: bool = False

    def __len__(self) -> int:
        return len(self._changes)

    def put(self, change: object) -> None:
        """Queue a change, if it is of a kind that this subscriber wants."""
        if self.closed or not isinstance(change, self._accepts):
            return
        if isinstance(change, TxChange):
            waiting = self._changes.get(change.database)
            if isinstance(waiting, TxChange):
                if waiting.previous == change.position:
                    del self._changes[change.database]
                    return
                change = TxChange(change.database, change.position, waiting.previous, waiting.rewound + change.rewound)
            self._changes[change.database] = cast("ChangeT", change)
        else:
            self._changes[self._serial] = cast("ChangeT", change)
            self._serial += 1
        self._wake()

    def take(self) -> ChangeT | None:
        """The oldest change, or None where there is none."""
        return self._changes.pop(next(iter(self._changes))) if self._changes else None

    def close(self) -> None:
        """Take no more changes; those that wait can still be taken."""
        self.closed = True
        self._wake()


class Subscriptions:
    """Everybody's queues, held weakly: one whose subscriber was dropped is gone."""

    def __init__(self) -> None:
        self._all: WeakSet[ChangeQueue[Any]] = WeakSet()
        self._any = False  # whether there may be one: asking the set costs more than all else in a publication

    def __len__(self) -> int:
        return sum(not queue.closed for queue in self._all)

    def add(self, queue: ChangeQueue[Any]) -> None:
        self._all.add(queue)
        self._any = True

    def remove(self, queue: ChangeQueue[Any]) -> None:
        """Close a queue, and forget it."""
        self._all.discard(queue)
        queue.close()

    def publish(self, change: object) -> None:
        """Each by itself: a subscriber whose wake fails harms nobody else."""
        if not self._any:
            return
        queues = list(self._all)
        self._any = bool(queues)
        for queue in queues:
            try:
                queue.put(change)
            except Exception:
                logger.exception("a subscriber could not be told of %s", change)

    def close(self) -> None:
        for queue in list(self._all):
            try:
                queue.close()
            except Exception:
                logger.exception("a subscriber could not be told that the watcher was closed")
        self._all.clear()
