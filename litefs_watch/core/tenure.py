"""Whether this node, which says that it is the primary, can have lost its lease unawares."""

from __future__ import annotations


class Tenure:
    """What the looks prove of a primary's lease, which lasts ``lease_ttl`` seconds and is renewed at half of that.

    Whoever has run all the time has renewed it, or is demoted. Only a node that stood still for more than half of it (a
    frozen process, a suspended machine) can come back without, and says that it is the primary until it tries to renew it:
    for as long again, at most.
    """

    def __init__(self, lease_ttl: float) -> None:
        self._renewal = lease_ttl / 2
        self._looked_at: float | None = None
        self.doubted_until: float = float("-inf")
        """Until when the lease may be lost unawares."""

    def look(self, began: float, *, primary: bool, resumed: bool) -> None:
        """A look that began then has said whether this node is the primary; ``resumed``: the machine was suspended."""
        if not primary:
            self.doubted_until = float("-inf")  # who takes over after this, or starts, has a lease
        elif resumed or (self._looked_at is not None and began - self._looked_at > self._renewal):
            self.doubted_until = began + self._renewal
        self._looked_at = began

    def is_sure(self, since: float) -> bool:
        """Whether a look that began at ``since`` or later proves what it says."""
        return self._looked_at is not None and self._looked_at >= max(since, self.doubted_until)
