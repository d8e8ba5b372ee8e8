"""Statuses to decide from."""

from __future__ import annotations

from datetime import UTC, datetime

from litefs_watch import Position, Role, Status
from litefs_watch.status import SourceStatus

ALIVE = SourceStatus(True, datetime(2026, 1, 1, tzinfo=UTC), "connected")
REPLICA = Status("here", Role.REPLICA, "there", {"app.db": Position(5)}, 3.0, True, {})
