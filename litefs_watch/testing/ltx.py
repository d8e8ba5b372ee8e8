"""LTX files, by which LiteFS names its transactions on disk: ``MINTXID-MAXTXID.ltx``, with the positions before and after.

The header and the trailer are LiteFS's (``ltx.go`` of superfly/ltx 0.3). What is between them, the pages, is left out, and
the checksum of the file itself is a stand-in.
"""

from __future__ import annotations

import struct
import time

from litefs_watch.position import Position
from litefs_watch.testing.api import PAGE_SIZE

# Magic, flags, page size, size of the database in pages; first and last TXID, time in ms, checksum before, offset and size
# in the WAL; the WAL's salts; the node's id. 100 bytes.
_HEADER = struct.Struct(">4sIIIQQQQQQIIQ20x")
_TRAILER = struct.Struct(">QQ")  # checksum after, checksum of the file
_FILE_CHECKSUM = 1 << 63


def ltx_name(position: Position, previous: Position | None) -> str:
    """The file's name. ``previous`` is None for a snapshot, which starts at TXID 1."""
    return f"{1 if previous is None else previous.txid + 1:016x}-{position.txid:016x}.ltx"


def ltx_file(position: Position, previous: Position | None, pages: int) -> bytes:
    """The file that leads from ``previous`` to ``position``; a snapshot has no checksum before it.

    ``pages``: the database's size afterwards, in its pages; 0: it was dropped.
    """
    first, before = (1, 0) if previous is None else (previous.txid + 1, previous.checksum)
    now = time.time_ns() // 1_000_000
    header = _HEADER.pack(b"LTX1", 0, PAGE_SIZE, pages, first, position.txid, now, before, 0, 0, 0, 0, 0)
    return header + _TRAILER.pack(position.checksum, _FILE_CHECKSUM)
