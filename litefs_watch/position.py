"""A database's position: which transaction it is at, and the checksum of the whole database after it.

LiteFS shows it as the text of ``DB-pos``: two 16-digit hexadecimal numbers, ``TXID/CHECKSUM`` and a newline.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from litefs_watch.errors import WireError

TXID_MAX = 2**64 - 1

# LiteFS writes 34 bytes: 16 + 1 + 16 + newline. A shorter text is a half-written one.
_POSITION = re.compile(rb"([0-9a-fA-F]{16})/([0-9a-fA-F]{16})\n?")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Position:
    """Where a database is: ``txid`` and ``checksum``, whole numbers from 0 to 2^64-1.

    ``str(position)`` is LiteFS's own text, without the newline. ``<`` compares TXIDs; two positions with the same TXID
    and another checksum belong to different histories, and none is less than the other.
    """

    txid: int
    checksum: int = 0

    def __str__(self) -> str:
        return f"{self.txid:016x}/{self.checksum:016x}"

    def __lt__(self, other: Position) -> bool:
        return self.txid < other.txid

    def __gt__(self, other: Position) -> bool:
        return self.txid > other.txid

    def __le__(self, other: Position) -> bool:
        return self == other or self.txid < other.txid

    def __ge__(self, other: Position) -> bool:
        return self == other or self.txid > other.txid

    @classmethod
    def parse(cls, text: str | bytes) -> Position:
        """Read the text of a ``DB-pos`` file.

        Raises `WireError` when it is anything but 16 hexadecimal digits, a slash and 16 more (the format of LiteFS's
        ``fuse/pos_node.go``), with or without the newline.
        """
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        match = _POSITION.fullmatch(raw)
        if match is None:
            seen = repr(raw[:_SHOWN])[1:] + ("…" if len(raw) > _SHOWN else "") if raw else "nothing"
            raise WireError(f"not a position: {seen}; expected 16 hexadecimal digits, '/', 16 more and a newline")
        return cls(int(match[1], 16), int(match[2], 16))


class Where(enum.Enum):
    """What a node can say of a position."""

    HERE = "here"
    """That very position is in its history."""
    AHEAD = "ahead"
    """Its TXID is not reached."""
    ELSEWHERE = "elsewhere"
    """Its TXID is here with another checksum: one of the two histories is gone."""
    UNTOLD = "untold"
    """It is from before what is known."""
    DOUBTED = "doubted"
    """Untold, and from before something that may have replaced the database: it may be in no history any more."""


def check_txid(txid: object) -> int:
    """The TXID as an int. Raises `ValueError` for all but whole numbers from 0 to 2^64-1 (bool and float included)."""
    if not isinstance(txid, bool) and hasattr(txid, "__index__"):
        number = int(txid.__index__())
        if 0 <= number <= TXID_MAX:
            return number
    raise ValueError(f"a TXID is a whole number (int) from 0 to 2^64-1, not {str(txid)[:_SHOWN]!r} ({type(txid).__name__})")


def parse_txid(text: str) -> int:
    """The TXID: decimal, hexadecimal with a leading ``0x``, or LiteFS's text of a position. Raises `ValueError`.

    Sixteen digits that begin with a zero are LiteFS's hexadecimal by their looks, and would be another number as decimal
    ones: they are refused.
    """
    if "/" in text:
        return Position.parse(text).txid
    if re.fullmatch("0[xX][0-9a-fA-F]{1,16}", text):
        return check_txid(int(text, 0))
    if re.fullmatch("[0-9]{1,20}", text) is None or re.fullmatch("0[0-9]{15}", text):
        raise ValueError(text)
    return check_txid(int(text))


def check_wanted(wanted: object) -> int | Position:
    """A position as it is, a TXID as an int. Raises `ValueError` for all else."""
    if isinstance(wanted, Position):
        check_txid(wanted.txid)
        check_txid(wanted.checksum)
        return wanted
    return check_txid(wanted)


def check_database_name(name: str) -> str:
    """The name, when it can be a database's in LiteFS's flat mount; `ValueError` otherwise."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode("utf-8", "surrogateescape")) > 250:
        raise ValueError(
            f"a database is a file name in LITEFS_DIR, without a path, not {name[:80]!r}: set DATABASE_FILENAME to the name "
            "alone and LITEFS_DIR to its directory"
        )
    return name
