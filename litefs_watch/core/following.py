"""Whether a replica follows the primary that it names: what ``.lag`` says about it (the state's rule 10)."""

from __future__ import annotations

from litefs_watch.changes import NOBODY, Role, Standing
from litefs_watch.core.readings import NEVER_REPLICATED_MS, DirectoryRead

NEVER = float("-inf")

_BEAT = 0.4
"""Seconds: two signs of life that are so far apart are two. LiteFS gives one each second."""


class Following:
    """What is told of one primary after the other, and whether the present one's replication has begun.

    ``.lag`` counts from a primary's last sign of life, by the primary's clock. So the moment of that sign is known, up to
    what a look takes, and a later one is a new sign.
    """

    def __init__(self) -> None:
        self.whom: Standing = NOBODY
        """Who the primary is, by the last claim."""
        self.since: float = NEVER
        """When that was first claimed."""
        self.term: int = 0
        """How many times somebody else was named: only who follows another one is reset."""
        self._changes = 0
        self.begun: bool = False
        """Whether LiteFS says that replication from it has begun."""
        self._beat_at = self._beat_before = NEVER  # the last sign of life of any primary, and that of those before this one
        self._unseen = False  # whether the one before may have given another since the last look

    @property
    def changed_at(self) -> float:
        """When the last one took the place of another, or of none."""
        return self.since if self._changes > 1 else NEVER

    @property
    def is_heard(self) -> bool:
        """Whether this node is the primary, or follows it: what is here will not be replaced by what the primary has."""
        return self.begun or self.whom.role is Role.PRIMARY

    @property
    def awaited(self) -> bool:
        """Whether a primary is named, and its replication has not begun."""
        return self.whom.role is Role.REPLICA and not self.begun

    def part(self, claim: Standing, began: float) -> bool:
        """Somebody claims who the primary is. Whether that is another one than before, or none."""
        if claim == self.whom:
            return False
        self._unseen = self._unseen if self.whom == NOBODY else self.whom.role is Role.REPLICA
        self.whom, self.since, self.begun = claim, began, False
        self._changes += 1
        self.term += claim.role is Role.REPLICA
        self._beat_before = self._beat_at
        return True

    def heed_late(self, claim: Standing) -> None:
        """Somebody says who the primary was before the last claim: if another one, this node may have been reset since."""
        self.term += claim.role is Role.REPLICA and claim != self.whom

    def look(self, read: DirectoryRead) -> bool:
        """Take in ``.lag``. Whether replication has begun by this look."""
        if self.whom.role is Role.PRIMARY or read.lag_ms == NEVER_REPLICATED_MS:
            # Whoever is demoted, or started anew, has a .lag that says 'never' until it follows: no sign is an old one's.
            self.begun, self._beat_at, self._beat_before, self._unseen = False, NEVER, NEVER, False
        elif read.faults.keys().isdisjoint((".lag", ".")):
            beat = read.began - (read.lag_ms or 0) / 1000
            self._beat_at = max(self._beat_at, beat)
            if read.began < self.since:
                return False
            if self._unseen and read.lag_ms is not None:  # the first look since it is gone: that sign may be its last
                self._unseen, self._beat_before = False, self._beat_at
            if self.awaited and (read.lag_ms is None or beat > self._beat_before + _BEAT):
                self.begun = True
                return True
        return False
