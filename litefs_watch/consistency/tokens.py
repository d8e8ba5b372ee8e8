"""A token: what a client has seen, as it travels in a cookie and in a header. Bytes in, a value out.

=========================  ======================================  ====================================================
format                     text                                    from
=========================  ======================================  ====================================================
``position``               ``000000000000002a/8f1c0d2e3b4a5968``   the text of LiteFS's ``-pos``: names a history, too
position, not yet known    ``pin``                                 ours: has written, and its position is not known yet
``decimal``                ``42``                                  litefs-js's cookie ``txnum``
``hex``                    ``000000000000002a``                    the cookie ``__txid`` of LiteFS's proxy
any one, signed            ``42.SIGNATURE``                        22 characters: 128 bits of HMAC-SHA256, base64url
=========================  ======================================  ====================================================

Where a position is expected, a TXID alone is understood, too: sixteen digits are hexadecimal, fewer are decimal.

What comes from a client can be anything. Each byte string is one of three things: a token, *garbage* (never a token of this
format), or *forged* (a token of this format that none of our secrets has signed).
"""

from __future__ import annotations

import enum
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, final

from litefs_watch.position import TXID_MAX, Position

Format = Literal["position", "decimal", "hex"]
Token = int | Position
"""A TXID, or a whole position."""

PIN: Token = TXID_MAX
"""A token that only the primary meets. No database has so many transactions: who does not know of pins (litefs-js) waits for
it in vain, and sends its request to the primary."""

COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""What may be a cookie's name: an RFC 6265 token."""

_SIGNATURE_BYTES = 16
_TEXT = {  # all ASCII only, in bytes patterns
    "position": rb"([0-9a-fA-F]{16}/[0-9a-fA-F]{16}|[0-9a-fA-F]{16}|[0-9]{1,20}|pin)",
    "decimal": rb"([0-9]{1,20})",
    "hex": rb"([0-9a-fA-F]{16})",
}
_SIGNATURE = rb"(?:\.([A-Za-z0-9_-]{22}))?"
_WIDTH = 16  # of a TXID in LiteFS's text
_LONGEST = 2 * _WIDTH + 1 + 1 + 22  # of a token's text: a signed position
_KEPT = 256  # tokens that are not read anew: a client sends the same one with each request, until it writes again


def txid_of(token: Token) -> int:
    """Its TXID."""
    return token.txid if isinstance(token, Position) else token


def is_beyond(token: Token, position: Position) -> bool:
    """Whether a database that is at ``position`` can't have it: it is later, or this TXID of another history."""
    if txid_of(token) == position.txid:
        return isinstance(token, Position) and token != position
    return txid_of(token) > position.txid


def sign(secret: bytes, text: bytes) -> bytes:
    """The signature of a text that begins with what it is for: 22 characters."""
    digest = hmac.digest(secret, text, "sha256")
    return urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).rstrip(b"=")


@final
class Verdict(enum.Enum):
    """What a byte string is when it is no TXID."""

    GARBAGE = "garbage"
    FORGED = "forged"


class Tokens:
    """Reads and writes the tokens of one cookie and one database. With ``secrets`` the first signs, and each is believed."""

    def __init__(self, name: str, form: Format, secrets: Sequence[bytes] = (), database: str = "") -> None:
        self._form = form
        self._secrets = tuple(secrets)
        self._shape = re.compile(_TEXT[form] + (_SIGNATURE if secrets else b""))
        named = (form.encode(), name.encode(), database.encode("utf-8", "surrogateescape"))
        self._purpose = b"litefs_watch\0" + b"".join(each + b"\0" for each in named)
        self._known = lru_cache(maxsize=_KEPT)(self._decode)

    @property
    def can_pin(self) -> bool:
        """Whether a pin may be sent: LiteFS's proxy would answer 504 to it on every replica, until it expires."""
        return self._form != "hex"

    def encode(self, token: Token) -> str:
        """The text of a token, in ASCII. Where it is no position, a position's TXID alone."""
        text = self._text(token)
        return f"{text}.{self._sign(self._secrets[0], text.encode()).decode()}" if self._secrets else text

    def _text(self, token: Token) -> str:
        if self._form != "position":
            return f"{txid_of(token):016x}" if self._form == "hex" else str(txid_of(token))
        if token == PIN:
            return "pin"
        return str(token) if isinstance(token, Position) else f"{token:016x}"

    def decode(self, raw: bytes) -> Token | Verdict:
        """The token, or why there is none. Never raises."""
        return self._known(raw) if len(raw) <= _LONGEST else Verdict.GARBAGE

    def _decode(self, raw: bytes) -> Token | Verdict:
        match = self._shape.fullmatch(raw)
        if match is None:
            return Verdict.GARBAGE
        token = self._read(match[1])
        if txid_of(token) > TXID_MAX:
            return Verdict.GARBAGE
        if self._secrets:
            signature = match[2] or b""
            if not any(hmac.compare_digest(self._sign(secret, match[1]), signature) for secret in self._secrets):
                return Verdict.FORGED
        return token

    def _read(self, text: bytes) -> Token:
        if text == b"pin":
            return PIN
        if len(text) > 2 * _WIDTH:
            return Position(int(text[:_WIDTH], 16), int(text[_WIDTH + 1 :], 16))
        is_hex = self._form == "hex" or (self._form == "position" and len(text) == _WIDTH)
        return int(text, 16 if is_hex else 10)

    def _sign(self, secret: bytes, text: bytes) -> bytes:
        return sign(secret, self._purpose + text)


class Cookie:
    """One cookie: finds it in ``cookie`` headers, and makes the ``set-cookie`` that sets or deletes it."""

    def __init__(self, name: str, attributes: str, max_age: int) -> None:
        self._name = name
        self._attributes = attributes
        self._max_age = max_age
        self._bare, self._joined = name.encode(), b"; " + name.encode() + b"="
        # Its time grows with the header's length and with nothing else, whatever is in it: what may repeat is one class of
        # characters each, and the value is stripped afterwards, not by the pattern.
        self._pattern = re.compile(rb"(?:\A|;)[ \t]*" + re.escape(self._bare) + rb"[ \t]*=([^;]*)")

    def find(self, header: bytes) -> bytes | None:
        """The value in one ``cookie`` header; None where the header has no such cookie.

        Split at semicolons, as browsers and RFC 6265 do, whatever the other cookies hold: quotes mean nothing, and neither
        JSON, bare words nor bytes beyond ASCII stop the search. The first cookie of the name wins.
        """
        before, found, value = header.partition(self._joined)  # as browsers write it, but for the first cookie
        if not found or self._bare in before:
            match = self._pattern.search(header) if self._bare in header else None
            if match is None:
                return None
            value = match[1]
        return value.partition(b";")[0].strip(b" \t")

    def set(self, token: str) -> bytes:
        return f"{self._name}={token}; Max-Age={self._max_age}{self._attributes}".encode()

    def delete(self) -> bytes:
        """The attributes are those that it was set with, or the browser would keep it."""
        return f"{self._name}=; Max-Age=0{self._attributes}".encode()
