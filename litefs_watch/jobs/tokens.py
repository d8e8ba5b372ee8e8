"""Tokens as jobs have them: the text that the middleware's header has, and on a message the database beside it. Pure.

A message may be of several databases: ``TOKEN@app.db TOKEN@users.db``, with the names percent-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from litefs_watch.changes import Role
from litefs_watch.consistency import PIN, Options, Token, Tokens, Verdict
from litefs_watch.consistency.options import Secret
from litefs_watch.consistency.tokens import is_beyond
from litefs_watch.errors import TokenError
from litefs_watch.position import check_database_name

if TYPE_CHECKING:
    from litefs_watch.position import Position

NOTHING: Token = 0
"""The token of who has neither written nor seen anything: every node meets it."""

UNTOLD = "untold"
"""Carried where the position can't be told through a fault: no token, so that a worker fails the job."""

LONGEST = 4096
"""Characters of a message's tokens: some sixteen databases, of the longest names and signed."""

Secrets = tuple[bytes, ...]
_SHOWN = 60


def secrets_of(secret: Secret | Sequence[Secret] | None) -> Secrets:
    """As the middleware's option ``secret``. Raises `ConfigError`."""
    return Options(secret=secret).secrets


def encode(token: Token, database: str, secrets: Secrets) -> str:
    """The text of a token."""
    return _tokens(database, secrets).encode(token)


def decode(text: object, database: str, secrets: Secrets) -> Token:
    """The token of a text. Raises `TokenError`."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else b""
    found = _tokens(database, secrets).decode(raw)
    if found is Verdict.FORGED:
        raise TokenError(
            f"{_shown(text)} is signed by nobody whom this process believes, for {database}: it is forged, or its sender "
            "has another secret= than this process"
        )
    if isinstance(found, Verdict):
        why = ": it is signed, and this process has no secret= to tell by whom" if raw[-23:-22] == b"." else ""
        raise TokenError(f"{_shown(text)} is no token{why}")
    return found


def newest(seen: Token | None, position: Position | None, role: Role) -> Token:
    """The token of who has ``seen`` one, on a node whose database is at ``position`` now. It never goes back."""
    if position is None:
        return NOTHING if seen is None else seen
    if seen is None or (seen == PIN and role is Role.PRIMARY):
        return position
    return seen if seen == PIN or is_beyond(seen, position) else position


def pack(texts: Mapping[str, str]) -> str:
    """What a message carries: the text of each database's token."""
    return " ".join(f"{text}@{quote(name, safe='', errors='surrogateescape')}" for name, text in texts.items())


def unpack(carried: object) -> dict[str, str]:
    """The texts by database. Raises `TokenError` for what no `pack` has made."""
    if carried == UNTOLD:
        raise TokenError("the job's sender could not tell what it had written: its log says why; send the job again")
    if not isinstance(carried, str) or len(carried) > LONGEST:
        raise TokenError(f"{_shown(carried)} is not what a message carries")
    texts: dict[str, str] = {}
    for each in carried.split(" "):
        text, _, name = each.partition("@")
        try:
            database = check_database_name(unquote(name, errors="surrogateescape"))
        except ValueError:
            raise TokenError(f"{_shown(each)} names no database: it is not what a message carries") from None
        if database in texts:
            raise TokenError(f"{_shown(carried)} names a database twice: it is not what a message carries")
        texts[database] = text
    return texts


def _tokens(database: str, secrets: Secrets) -> Tokens:
    """Those of the middleware's header (`Options.header_tokens`)."""
    return Tokens(Options.cookie or "", "position", secrets, database)


def _shown(text: object) -> str:
    shown = ascii(text)
    return shown[:_SHOWN] + ("…" if len(shown) > _SHOWN else "")
