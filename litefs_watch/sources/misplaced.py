"""A directory that is no mount, while LiteFS answers: its data directory, a mount point without its mount, a wrong path."""

from __future__ import annotations

from pathlib import Path

from litefs_watch.core.readings import DirectoryRead
from litefs_watch.printable import safe


def misplaced(directory: Path, read: DirectoryRead, mounts: list[str]) -> str | None:
    """Why a directory can't be where the LiteFS that answers shows its files, and which can; None where it may be.

    An ordinary directory with any of LiteFS's files in it is taken for a copy, or a simulation. ``mounts``
    are the places where one is mounted.
    """
    if not read.is_bare:
        return None
    where = f"LiteFS is mounted at {safe(' and '.join(mounts))}" if mounts else "no LiteFS is mounted on this machine"
    return (
        f"{safe(str(directory))} is not LiteFS's mount, though LiteFS answers: what is written there is not replicated; "
        f"{where}: set LITEFS_DIR (or litefs_dir=) to 'fuse.dir' of its litefs.yml"
    )
