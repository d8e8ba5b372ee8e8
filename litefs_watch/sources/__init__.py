"""The sources: each says 'look again', or states a fact with the time at which its look began. None concludes.

====================  ==========================================================================================
`stream.EventStream`  LiteFS's ``GET /events``: the first choice, and the only one that sees replication on a mount
`files.FolderWatch`   inotify through watchfiles: ordinary directories, and LiteFS's data directory
`reread.Reread`       the one that reads ``litefs_dir``: for the others, and by itself as the safety net
====================  ==========================================================================================

Below them: `directory` (one blocking look), `http` (one request, h11), `thread` (where blocking calls run), `rounds` (those
that nobody waits for, made together for all watchers), `shared_watch` (inotify's one thread for all of them).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Protocol

from litefs_watch.status import SourceStatus

logger: logging.Logger = logging.getLogger("litefs_watch")


class Source(Protocol):
    """What the watcher asks of a source."""

    health: Health

    async def run(self) -> None:
        """Watch until cancelled. What goes wrong outside is put into ``health``, never raised."""


NOT_STARTED = "not started"
"""What a source says before it has said anything."""


class Health:
    """A source's account of itself. Logs each change once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._status = SourceStatus(False, datetime.now(UTC), NOT_STARTED)

    @property
    def status(self) -> SourceStatus:
        return self._status

    @property
    def alive(self) -> bool:
        return self._status.alive

    def up(self, detail: str) -> None:
        self._become(True, detail, logging.INFO)

    def down(self, detail: str, *, level: int = logging.WARNING) -> None:
        self._become(False, detail, level)

    def fault(self, fault: str | None) -> None:
        """Note something unreadable; None: all is readable (again)."""
        if fault != self._status.fault:
            status = self._status
            self._status = SourceStatus(status.alive, status.since, status.detail, fault)
            if fault is not None:
                logger.warning("%s: %s", self.name, fault)

    def _become(self, alive: bool, detail: str, level: int) -> None:
        old = self._status
        if (alive, detail) != (old.alive, old.detail):
            since = old.since if alive == old.alive else datetime.now(UTC)
            self._status = SourceStatus(alive, since, detail, old.fault)
            fields = {"litefs_event": "source", "litefs_source": self.name, "litefs_alive": alive}
            logger.log(level, "%s: %s", self.name, detail, extra=fields)
