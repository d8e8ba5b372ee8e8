"""What LiteFS writes, and how to read it: the event stream, ``GET /info``, ``.primary`` and ``.lag``.

Everything here takes bytes from outside. It answers with a value or with `WireError`, whose message shows what was seen;
no byte string makes it do anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from litefs_watch.errors import WireError
from litefs_watch.position import Position, check_database_name

LINE_LIMIT = 64 * 1024
"""Bytes in one line of the stream. LiteFS's are under 400; a database's name is at most 255 bytes."""

_SHOWN = 80
_LAG = re.compile(rb"[+-][0-9]{1,18}\n?")


class Disconnected(WireError):
    """There is no connection, or nothing more to be had from it: the other end's fault, or its absence."""


def show(raw: bytes) -> str:
    """Foreign bytes for a message: quoted, escaped, and cut where they are long."""
    return repr(raw[:_SHOWN]).removeprefix("b") + (f"… ({len(raw):,} bytes)" if len(raw) > _SHOWN else "")


def check_hostname(name: str) -> str:
    """The name, when it can be a host's. `WireError` for control characters, spaces, lines, or more than 253 characters."""
    if not 1 <= len(name) <= 253 or not name.isprintable() or " " in name:
        raise WireError(f"not a hostname: {show(name.encode('utf-8', 'replace'))}")
    return name


def parse_primary(raw: bytes) -> str | None:
    """The hostname in ``.primary``; None for the lone newline of a primary without a name (a static lease).

    An empty file is a half-written one, and like all else that is no name raises `WireError`.
    """
    if raw == b"\n":
        return None
    try:
        return check_hostname(raw.removesuffix(b"\n").decode())
    except (UnicodeDecodeError, WireError):
        raise WireError(f"not a hostname and a newline: {show(raw) if raw else 'an empty file'}") from None


def parse_lag(raw: bytes) -> int:
    """The milliseconds in ``.lag``: signed, and negative where the clocks of two machines differ. Raises `WireError`."""
    if _LAG.fullmatch(raw) is None:
        raise WireError(f"not a signed number of milliseconds: {show(raw) if raw else 'an empty file'}")
    return int(raw)


def _hostname(value: str | None) -> str | None:
    return check_hostname(value) if value else None


_Hex16 = Annotated[str, Field(pattern="^[0-9a-fA-F]{16}$")]
_Hostname = Annotated[str | None, AfterValidator(_hostname)]


class _Wire(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", strict=True)


class RoleData(_Wire):
    is_primary: bool = Field(alias="isPrimary")
    hostname: _Hostname = None


class TxData(_Wire):
    txid: _Hex16 = Field(alias="txID")
    checksum: _Hex16 = Field(alias="postApplyChecksum")

    @property
    def position(self) -> Position:
        return Position(int(self.txid, 16), int(self.checksum, 16))


class Init(_Wire):
    """Opens every stream: the role at that moment. It carries no positions."""

    type: Literal["init"]
    data: RoleData


class PrimaryChanged(_Wire):
    """The role, again: repeated freely, and with transitional values during a hand-over."""

    type: Literal["primaryChange"]
    data: RoleData


class Tx(_Wire):
    """A transaction is in the database and can be read."""

    type: Literal["tx"]
    database: Annotated[str, AfterValidator(check_database_name)] = Field(alias="db")
    data: TxData


class Unknown(_Wire):
    """An event of a type that LiteFS 0.5 doesn't have: no error, and no news but 'look again'."""

    type: str


Event = Init | PrimaryChanged | Tx | Unknown

_KNOWN: TypeAdapter[Init | PrimaryChanged | Tx] = TypeAdapter(
    Annotated[Init | PrimaryChanged | Tx, Field(discriminator="type")]
)


def parse_event(line: bytes) -> Event:
    """One line of ``GET /events``. Raises `WireError` when it is no event."""
    try:
        return _KNOWN.validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        if problem["type"] == "union_tag_invalid":
            return Unknown(type=str(problem["input"]["type"])[:_SHOWN])
        field = ".".join(str(part) for part in problem["loc"][1:])
        message = problem["msg"].removeprefix("Value error, ")
        what = f"{field}: {message}" if field else message
        raise WireError(f"not an event of LiteFS: {show(line)} ({what})") from None


class _Primary(_Wire):
    hostname: str = ""


class Info(_Wire):
    """``GET /info``, as far as it is used here."""

    is_primary: bool = Field(alias="isPrimary")
    candidate: bool = False
    path: str = ""
    """LiteFS's data directory."""
    primary: _Primary = _Primary()


def parse_info(body: bytes) -> Info:
    """The body of ``GET /info``. Raises `WireError`."""
    try:
        return Info.model_validate_json(body)
    except ValidationError as error:
        raise WireError(f"not LiteFS's /info: {show(body)} ({error.errors()[0]['msg']})") from None


class LineDecoder:
    """Bytes in any pieces become whole lines, without their newlines; empty lines are left out.

    Never holds more than ``limit`` bytes: a longer line raises `Disconnected`, after which the decoder is spent.
    """

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = b""

    @property
    def amid_line(self) -> bool:
        """Whether the newline of the last line is still to come."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are whole now. The iterator must be exhausted before the next call."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > self._limit:
                raise self._too_long(line)
            if line := line.strip(b"\r \t"):
                yield line
        if len(self._rest) > self._limit:
            raise self._too_long(self._rest)

    def _too_long(self, line: bytes) -> Disconnected:
        self._rest = b""
        return Disconnected(f"a line longer than {self._limit:,} bytes: {show(line)}")
