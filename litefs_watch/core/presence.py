"""Whether LiteFS is there, as far as a look at its directory tells (the state's rule 8)."""

from __future__ import annotations

from litefs_watch.core.readings import DirectoryRead, Mount


class Presence:
    """What has ever been at ``litefs_dir``, and whether it still is."""

    def __init__(self) -> None:
        self.mounted: bool = False
        """Whether LiteFS's own mount has been seen here."""
        self.found: bool = False
        """Whether anything of LiteFS's has ever been here."""
        self.away: bool = False
        """Whether there was nothing to look at, at the last look."""

    def look(self, read: DirectoryRead, *, streaming: bool) -> None:
        """Take in what stands there. Where LiteFS's stream is open, a bare directory may be a wrong one."""
        self.mounted = self.mounted or read.mount is Mount.LITEFS
        unmounted = (self.mounted and read.mount is Mount.ORDINARY) or (read.is_bare and not streaming)
        self.away = read.mount is Mount.AWAY or unmounted
        self.found = self.found or not (self.away or read.is_bare)
