"""LiteFS's transaction files, ``dbs/DB/ltx/MINTXID-MAXTXID.ltx`` in its data directory: what they say of a position.

LiteFS keeps ten minutes of them (``data.retention``). A node's are those of the history that it has: a snapshot, by which it
gets another one, removes all others (``store.go``). The format is LTX's (superfly/ltx 0.3): a header that begins with
``LTX1``, pages, and a trailer of two 64-bit numbers, big-endian: the database's checksum afterwards, and the file's own.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from litefs_watch.position import Position, Where

_HEADER = struct.Struct(">4s20xQ68x")  # the magic, and the last TXID
_TRAILER = struct.Struct(">QQ")
_CHECKSUM_FLAG = 1 << 63
"""Set in each checksum of a file (``ltx.ChecksumFlag``): a file that is cut off, or was never written, seldom ends so."""


def where_on_disk(data_dir: Path, database: str, position: Position) -> Where:
    """HERE or ELSEWHERE, by the file of that very transaction or the snapshot that ends with it; UNTOLD where there is none.

    Blocks for a read from an ordinary disk.
    """
    folder, txid = data_dir / "dbs" / database / "ltx", f"{position.txid:016x}"
    told = (_told_by(folder / f"{first}-{txid}.ltx", position) for first in (txid, f"{1:016x}"))
    return next((where for where in told if where is not Where.UNTOLD), Where.UNTOLD)


def _told_by(path: Path, position: Position) -> Where:
    try:
        with path.open("rb") as file:
            header = _HEADER.unpack(file.read(_HEADER.size))
            if header != (b"LTX1", position.txid) or file.seek(0, os.SEEK_END) < _HEADER.size + _TRAILER.size:
                return Where.UNTOLD
            file.seek(-_TRAILER.size, os.SEEK_END)
            checksum, of_file = _TRAILER.unpack(file.read(_TRAILER.size))
    except (OSError, struct.error):
        return Where.UNTOLD
    if not of_file & _CHECKSUM_FLAG:
        return Where.UNTOLD
    return Where.HERE if checksum == position.checksum else Where.ELSEWHERE
