"""What is fuzzed: each target takes any bytes, and fails where what reads them does anything but what it says.

A target's oracle does not share the code that it judges. What it judges is looked up at each call: so a test can break it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from string import hexdigits
from typing import Any, TypeVar, get_args

from litefs_watch.consistency import Cookie, Token, Tokens, Verdict
from litefs_watch.consistency.tokens import Format
from litefs_watch.errors import WireError
from litefs_watch.position import TXID_MAX, Position
from litefs_watch.sources import wire
from tests.fuzz.requests import request
from tests.sources.event_streams import HEAD, INIT, LAST, chunk, cut, read, read_carefully

CORPUS = Path(__file__).with_name("corpus")
_MESSAGE_LIMIT = 800
_HEX = frozenset(hexdigits.encode())
_DIGITS = frozenset(b"0123456789")

Target = Callable[[bytes], None]
Value = TypeVar("Value")


def corpus(target: str) -> list[bytes]:
    """What is kept of its inputs."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def _read(parse: Callable[[bytes], Value], raw: bytes) -> Value | WireError:
    """The value, or the refusal: one short line that can be shown."""
    try:
        return parse(raw)
    except WireError as error:
        refusal = error
    assert 0 < len(str(refusal)) <= _MESSAGE_LIMIT
    assert "\n" not in str(refusal)
    return refusal


def _is_of(allowed: frozenset[int], raw: bytes) -> bool:
    return all(byte in allowed for byte in raw)  # a step for each: who fuzzes sees how far it gets


def position(raw: bytes) -> None:
    """``DB-pos``: 16 digits, a slash, 16 more, perhaps a newline; and nothing else."""
    txid, slash, checksum = raw[:16], raw[16:17], raw[17:33]
    good = len(checksum) == 16 and slash == b"/" and raw[33:] in (b"", b"\n") and _is_of(_HEX, txid + checksum)
    seen = _read(Position.parse, raw)
    assert isinstance(seen, Position) is good, seen
    if isinstance(seen, Position):
        assert (seen.txid, seen.checksum) == (_number(txid), _number(checksum))
        assert str(seen).encode() == raw[:33].lower()
        assert Position.parse(raw.decode()) == seen


def _number(digits: bytes) -> int:
    return int.from_bytes(bytes.fromhex(digits.decode()), "big")


def primary(raw: bytes) -> None:
    """``.primary``: a name that can be shown, or a lone newline."""
    seen = _read(wire.parse_primary, raw)
    if seen is None:
        assert raw == b"\n"
        return
    name = raw[:-1] if raw.endswith(b"\n") else raw
    try:
        good = _is_hostname(name.decode())
    except UnicodeDecodeError:
        good = False
    assert isinstance(seen, str) is good, seen
    assert isinstance(seen, WireError) or seen.encode() == name


def lag(raw: bytes) -> None:
    """``.lag``: a sign, up to 18 digits, perhaps a newline; and nothing else."""
    digits = (raw[:-1] if raw.endswith(b"\n") else raw)[1:]
    good = raw[:1] in (b"+", b"-") and 1 <= len(digits) <= 18 and _is_of(_DIGITS, digits)
    seen = _read(wire.parse_lag, raw)
    assert isinstance(seen, int) is good, seen
    if isinstance(seen, int):
        assert f"{abs(seen):0{len(digits)}d}".encode() == digits
        assert seen == 0 or (seen < 0) is (raw[:1] == b"-")


def _in_python(raw: bytes) -> Any:
    """The JSON; None for what is none."""
    try:
        text = raw.decode()
        with suppress(StopIteration):
            _SCAN(text, 0)  # for its steps alone: it takes "\\ud8\r\n" for an escape
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    json.dumps(pairs, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    return dict(pairs)


def _is_deep(raw: bytes) -> bool:
    """Whether it may be nested deeper than pydantic goes."""
    return raw.count(b"[") + raw.count(b"{") >= 200


_JSON: Any = json  # its parts in Python have no types
_DECODER = _JSON.JSONDecoder()
_DECODER.parse_string = _JSON.decoder.py_scanstring
_SCAN = _JSON.scanner.py_make_scanner(_DECODER)


def event(raw: bytes) -> None:
    """One line of the stream: it is taken where it is an event, and what is taken is what Python's own JSON reads there."""
    seen, said = _read(wire.parse_event, raw), _in_python(raw)
    if isinstance(seen, WireError):
        assert not _is_event(said) or _is_deep(raw)
        return
    assert isinstance(seen, wire.Unknown) or _is_event(said)
    assert seen.type == str(said["type"])[:80] or not isinstance(said["type"], str)
    if isinstance(seen, wire.Tx):
        assert (seen.database, seen.data.txid) == (said["db"], said["data"]["txID"])
        assert f"{seen.data.position.checksum:016x}" == said["data"]["postApplyChecksum"].lower()
    elif isinstance(seen, wire.Init | wire.PrimaryChanged):
        assert seen.data.is_primary is said["data"]["isPrimary"]
        assert seen.data.hostname == (said["data"].get("hostname") or None)
    else:
        assert seen.type not in ("init", "tx", "primaryChange")


def _is_event(said: Any) -> bool:
    """Whether LiteFS may say it."""
    if not isinstance(said, dict) or not isinstance(data := said.get("data"), dict):
        return False
    if said.get("type") == "tx":
        numbers = [data.get("txID"), data.get("postApplyChecksum")]
        return _is_database(said.get("db")) and all(isinstance(each, str) and _is_txid(each.encode()) for each in numbers)
    if said.get("type") in ("init", "primaryChange"):
        return isinstance(data.get("isPrimary"), bool) and (not data.get("hostname") or _is_hostname(data["hostname"]))
    return False


def _is_database(name: object) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\0"} & set(name):
        return False
    return len(name.encode()) <= 250


def _is_hostname(name: object) -> bool:
    return (
        isinstance(name, str) and 1 <= len(name) <= 253 and not any(unicodedata.category(each)[0] in "CZ" for each in name)
    )


def info(raw: bytes) -> None:
    """The body of ``GET /info``, in the same way."""
    seen, said = _read(wire.parse_info, raw), _in_python(raw)
    if isinstance(seen, WireError):
        assert not _is_info(said) or _is_deep(raw)
    else:
        assert _is_info(said)
        assert (seen.is_primary, seen.candidate) == (said["isPrimary"], said.get("candidate", False))
        assert (seen.path, seen.primary.hostname) == (said.get("path", ""), said.get("primary", {}).get("hostname", ""))


def _is_info(said: Any) -> bool:
    if not isinstance(said, dict) or not isinstance(primary := said.get("primary", {}), dict):
        return False
    flags, texts = (said.get("isPrimary"), said.get("candidate", False)), (said.get("path", ""), primary.get("hostname", ""))
    return all(isinstance(flag, bool) for flag in flags) and all(isinstance(text, str) for text in texts)


def stream(raw: bytes) -> None:
    """An answer to ``GET /events``: both ways read the same, in any pieces.

    The first byte says how many places follow at which it is cut, two bytes each; and by its upper bits, whether what is
    left are chunks, lines to be sent in chunks, or a whole answer.
    """
    if not raw:
        return
    kind, places, left = raw[0] >> 6, raw[1 : 1 + 2 * (raw[0] & 7)], raw[1 + 2 * (raw[0] & 7) :]
    if kind == 1:
        left = b"".join(map(chunk, left.splitlines(keepends=True))) + LAST
    answer = left if kind == 2 else HEAD + INIT + left
    pieces = cut(answer, [int.from_bytes(places[at : at + 2], "big") for at in range(0, len(places), 2)])
    seen, whole = list(read(pieces)), list(read([answer]))
    if kind == 2:  # h11 says no to half a head for another reason than to a whole one
        assert seen[:-1] == whole[:-1]
        assert isinstance(seen[-1], str)
    else:
        assert seen == whole == list(read_carefully(answer))


def cookie(raw: bytes) -> None:
    """A ``cookie`` header: the first of our name between two semicolons, and whatever we set is found again."""
    for name in ("txnum", "__txid", "a", "$"):
        ours = Cookie(name, "; Path=/", 300)
        found = ours.find(raw)
        cookies = (each.partition(b"=") for each in raw.split(b";"))
        assert found == next((value.strip(b" \t") for key, is_, value in cookies if is_ and _is_name(name, key)), None)
        assert found is None or ours.find(ours.set("1").split(b";")[0] + b"; " + raw) == b"1"


def _is_name(name: str, seen: bytes) -> bool:
    return seen.strip(b" \t") == name.encode()


_SECRETS = [b"new", b"old"]


def token(raw: bytes) -> None:
    """A token: a number of its format, or garbage; and with secrets, only what one of them has signed."""
    for form in get_args(Format):
        plain, signed = Tokens("txnum", form), Tokens("txnum", form, _SECRETS)
        expected = _expected_token(form, raw)
        seen = plain.decode(raw)
        assert seen == expected, (form, seen)
        if not isinstance(seen, Verdict):
            assert plain.decode(plain.encode(seen).encode()) == seen
            assert signed.decode(raw) is Verdict.FORGED
            _only_ours_is_believed(form, signed, seen)
        believed = signed.decode(raw)
        assert isinstance(believed, Verdict) or raw in _all_signed(raw.partition(b".")[0])


def _only_ours_is_believed(form: Format, signed: Tokens, seen: Token) -> None:
    for secret in _SECRETS:
        assert signed.decode(Tokens("txnum", form, [secret]).encode(seen).encode()) == seen
    for other in (Tokens("txnum", form, [b"other"]), Tokens("other", form, _SECRETS)):
        assert signed.decode(other.encode(seen).encode()) is Verdict.FORGED


def _all_signed(text: bytes) -> Iterator[bytes]:
    """What may be signed so: in any format, since a signature is of a text."""
    for form in get_args(Format):
        token = _expected_token(form, text)
        if not isinstance(token, Verdict):
            yield from (Tokens("txnum", form, [secret]).encode(token).encode() for secret in _SECRETS)


def _expected_token(form: str, raw: bytes) -> Token | Verdict:
    if form == "position":
        txid, slash, checksum = raw.partition(b"/")
        if slash:
            both = _is_txid(txid) and _is_txid(checksum)
            return Position(_number(txid), _number(checksum)) if both else Verdict.GARBAGE
        if raw == b"pin":
            return TXID_MAX
    if form != "decimal" and _is_txid(raw):
        return _number(raw)
    if form != "hex" and 1 <= len(raw) <= 20 and _is_of(_DIGITS, raw) and int(raw) <= TXID_MAX:
        return int(raw)
    return Verdict.GARBAGE


def _is_txid(raw: bytes) -> bool:
    return len(raw) == 16 and _is_of(_HEX, raw)


TARGETS: dict[str, Target] = {
    each.__name__: each for each in (position, primary, lag, event, info, stream, cookie, token, request)
}
