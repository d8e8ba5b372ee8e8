"""What fuzzing has kept is read as it should be; and each target fails where the parser that it judges is broken."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable
from http.cookies import SimpleCookie

import pytest

from litefs_watch import Position
from litefs_watch.consistency import Cookie, Node, Tokens, Verdict, policy
from litefs_watch.consistency.carrying import Carrying
from litefs_watch.consistency.hops import Hops, Trail
from litefs_watch.core.history import View
from litefs_watch.errors import WireError
from litefs_watch.position import Where
from litefs_watch.sources import event_decoder, wire
from litefs_watch.sources.wire import parse_event, parse_info
from tests.fuzz.targets import CORPUS, TARGETS, corpus


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_is_read_as_it_should_be(target: str) -> None:
    """All that is kept of it, and nothing at all."""
    for raw in [b"", *corpus(target)]:
        TARGETS[target](raw)


def test_every_corpus_has_its_target() -> None:
    """And each is small."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS:
        assert 1 <= len(corpus(target)) <= 40
        assert sum(map(len, corpus(target))) <= 24 * 1024


def position_with_less(text: str | bytes) -> Position:
    """Takes what is cut short."""
    raw = text.encode() if isinstance(text, str) else text
    txid, slash, checksum = raw.partition(b"/")
    if not slash:
        raise WireError("no slash")
    try:
        return Position(int(txid, 16), int(checksum or b"0", 16))
    except ValueError:
        raise WireError("no number") from None


def primary_as_it_is(raw: bytes) -> str | None:
    """Whatever it is, without what stands around it."""
    return raw.decode(errors="replace").strip() or None


def lag_by_int(raw: bytes) -> int:
    """What Python takes for a number."""
    try:
        return int(raw)
    except ValueError:
        raise WireError("no number") from None


def event_by_json(line: bytes) -> wire.Event:
    """Any name is good enough."""
    try:
        said = json.loads(line)
        data = wire.TxData.model_construct(txid=said["data"]["txID"], checksum=said["data"]["postApplyChecksum"])
        return wire.Tx.model_construct(type="tx", database=said["db"], data=data)
    except (ValueError, LookupError, TypeError):
        raise WireError("no event") from None


def event_to_the_letter(line: bytes) -> wire.Event:
    """None but transactions, with nothing more in them than there is today."""
    if not line.startswith(b'{"type":"tx","db":'):
        raise WireError("no event")
    return parse_event(line)


def info_with_everything(body: bytes) -> wire.Info:
    """No field may be left out."""
    if b"candidate" not in body:
        raise WireError("no info")
    return parse_info(body)


def info_without_types(body: bytes) -> wire.Info:
    """One is true, and "yes", too."""
    try:
        return wire.Info.model_validate_json(body, strict=False)
    except ValueError:
        raise WireError("no info") from None


class Forgetting(wire.LineDecoder):
    """Says that no line is half there."""

    amid_line = False


def cookie_by_python(self: Cookie, header: bytes) -> bytes | None:
    """`http.cookies`: it knows quotes, and gives up where it does not know more."""
    jar: SimpleCookie = SimpleCookie()
    jar.load(header.decode("latin-1"))
    return jar[self._name].value.encode() if self._name in jar else None


def cookie_by_name(self: Cookie, header: bytes) -> bytes | None:
    """Wherever the name stands."""
    _, found, value = header.partition(self._name.encode() + b"=")
    return value.partition(b";")[0].strip(b" \t") if found else None


def token_by_int(self: Tokens, raw: bytes) -> int | Position | Verdict:
    """What Python takes for a number; signatures are not looked at."""
    try:
        return int(raw.partition(b".")[0], 16 if len(raw) == 16 else 10)
    except ValueError:
        return Verdict.GARBAGE


def signature_of_the_secret(self: Tokens, secret: bytes, text: bytes) -> bytes:
    """The same for each token."""
    return secret.ljust(22, b"-")


def signature_for_any_cookie(self: Tokens, secret: bytes, text: bytes) -> bytes:
    """The same whatever the cookie's name."""
    return hmac.digest(secret, text, "sha256").hex()[:22].encode()


def careless(pattern: re.Pattern[bytes], old: bytes, new: bytes) -> re.Pattern[bytes]:
    """The same, but for one thing that it should have looked at."""
    assert old in pattern.pattern
    return re.compile(pattern.pattern.replace(old, new))


BROKEN: list[tuple[str, object, str, object]] = [
    ("position", Position, "parse", position_with_less),
    ("primary", wire, "parse_primary", primary_as_it_is),
    ("lag", wire, "parse_lag", lag_by_int),
    ("event", wire, "parse_event", event_by_json),
    ("event", wire, "parse_event", event_to_the_letter),
    ("info", wire, "parse_info", info_with_everything),
    ("info", wire, "parse_info", info_without_types),
    ("stream", event_decoder, "_FRAME", careless(event_decoder._FRAME, rb'(?!\.{1,2}")', b"")),
    ("stream", event_decoder, "_FRAME", careless(event_decoder._FRAME, rb'"\\/\x00', rb'"\\\x00')),
    ("stream", event_decoder, "LineDecoder", Forgetting),
    ("cookie", Cookie, "find", cookie_by_python),
    ("cookie", Cookie, "find", cookie_by_name),
    ("token", Tokens, "decode", token_by_int),
    ("token", Tokens, "_sign", signature_of_the_secret),
    ("token", Tokens, "_sign", signature_for_any_cookie),
    ("request", policy, "_HOSTNAME", re.compile(".*", re.DOTALL)),
    ("request", Node, "has", lambda self, token: True),
    ("request", Hops, "read", lambda self, headers, own: Trail()),
    ("request", Carrying, "_newest", staticmethod(lambda exchange, seen: seen)),
    ("request", Tokens, "_sign", lambda self, secret, text: b""),
    ("request", View, "where", lambda self, wanted: Where.HERE),
]


@pytest.mark.parametrize(("target", "where", "name", "broken"), BROKEN)
def test_a_broken_parser_is_found(
    monkeypatch: pytest.MonkeyPatch, target: str, where: object, name: str, broken: object
) -> None:
    """By what is kept already."""
    monkeypatch.setattr(
        Tokens, "decode", Tokens._decode
    )  # what was read before, by the one that is whole, is not remembered
    monkeypatch.setattr(where, name, broken)
    assert any(fails(TARGETS[target], raw) for raw in corpus(target))


def fails(target: Callable[[bytes], None], raw: bytes) -> bool:
    try:
        target(raw)
    except AssertionError:
        return True
    return False
