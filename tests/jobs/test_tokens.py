"""Tokens as text: what comes back, what is refused, and which of two is the newer one. Any bytes have an outcome."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litefs_watch import ConfigError, Position, Role
from litefs_watch.consistency import PIN, Options, Token
from litefs_watch.errors import TokenError
from litefs_watch.jobs.tokens import NOTHING, decode, encode, newest, pack, secrets_of, unpack

NUMBERS = st.integers(0, 2**64 - 1)
TOKENS = st.one_of(st.builds(Position, NUMBERS, NUMBERS), NUMBERS)
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
NAMES = st.text(CHARACTERS, min_size=1, max_size=60).filter(lambda name: name not in (".", ".."))
SECRETS = st.sampled_from([(), (b"one",), (b"two", b"one")])


@settings(max_examples=50)
@given(st.dictionaries(NAMES, TOKENS, min_size=1, max_size=3), SECRETS)
def test_what_is_packed_comes_back(tokens: dict[str, Token], secrets: tuple[bytes, ...]) -> None:
    """Of each database, whatever its name, signed or not; and as one word of printable ASCII for each."""
    text = pack({name: encode(token, name, secrets) for name, token in tokens.items()})
    assert text.isascii()
    assert text.isprintable()
    assert len(text.split()) == len(tokens)
    assert {name: decode(each, name, secrets) for name, each in unpack(text).items()} == tokens


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.dictionaries(st.text(), st.text())))
def test_anything_is_a_token_or_refused(text: object) -> None:
    """Nothing else is raised."""
    for secrets in ((), (b"secret",)):
        try:
            token = decode(text, "app.db", secrets)
        except TokenError:
            continue
        assert decode(encode(token, "app.db", secrets), "app.db", secrets) == token


@given(st.one_of(st.text(), st.text("0123456789abcdef/@. pin"), st.binary(), st.integers(), st.lists(st.text())))
def test_anything_is_what_a_message_carries_or_refused(carried: object) -> None:
    """Nothing else is raised, and its databases are databases."""
    try:
        texts = unpack(carried)
    except TokenError:
        return
    assert all("/" not in name for name in texts)
    assert "" not in texts


@pytest.mark.parametrize(
    ("text", "secret", "why"),
    [
        ("0000000000000001/00000000000000ff", "ours", "signed by nobody"),
        (encode(Position(1, 255), "app.db", (b"theirs",)), "ours", "signed by nobody"),
        (encode(Position(1, 255), "other.db", (b"ours",)), "ours", "signed by nobody"),
        (encode(Position(1, 255), "app.db", (b"theirs",)), None, "no secret="),
        ("untold", None, "no token"),
        ("", None, "no token"),
    ],
)
def test_a_forged_a_foreign_and_a_broken_token(text: str, secret: str | None, why: str) -> None:
    """Each is refused, with its reason."""
    with pytest.raises(TokenError, match=why):
        decode(text, "app.db", secrets_of(secret))


@pytest.mark.parametrize("carried", ["", "1", "1@", "1@a/b", "1@app.db 2@app.db", "1@app.db  2@b", "1@a" * 2000, 7, None])
def test_what_no_message_carries(carried: object) -> None:
    """It is refused whole."""
    with pytest.raises(TokenError):
        unpack(carried)


def test_the_header_of_the_middleware_is_a_token() -> None:
    """By default, word by word: a page may hand it on."""
    for secret in (None, "secret"):
        header = Options(secret=secret).header_tokens("app.db").encode(Position(7, 8))
        assert decode(header, "app.db", secrets_of(secret)) == Position(7, 8)


@pytest.mark.parametrize(
    ("seen", "position", "role", "token"),
    [
        (None, None, Role.REPLICA, NOTHING),
        (None, Position(5, 5), Role.REPLICA, Position(5, 5)),
        (Position(4, 4), Position(5, 5), Role.REPLICA, Position(5, 5)),
        (Position(6, 6), Position(5, 5), Role.REPLICA, Position(6, 6)),
        (Position(5, 9), Position(5, 5), Role.REPLICA, Position(5, 9)),
        (Position(6, 6), None, Role.REPLICA, Position(6, 6)),
        (PIN, Position(5, 5), Role.REPLICA, PIN),
        (PIN, Position(5, 5), Role.UNKNOWN, PIN),
        (PIN, Position(5, 5), Role.PRIMARY, Position(5, 5)),
    ],
)
def test_a_token_never_goes_back(seen: Token | None, position: Position | None, role: Role, token: Token) -> None:
    """What was seen stays, unless this node is beyond it; a pin is the primary's to replace."""
    assert newest(seen, position, role) == token


def test_a_secret_that_is_none() -> None:
    """As the middleware says."""
    with pytest.raises(ConfigError, match="secret"):
        secrets_of("")
