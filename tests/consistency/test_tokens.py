"""Tokens and cookies as bytes: every byte string is a TXID, garbage, or forged."""

from __future__ import annotations

import http.cookies

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch.consistency import Cookie, Options, Tokens, Verdict

DECIMAL = Tokens("txnum", "decimal")
HEX = Tokens("__txid", "hex")
SIGNED = Tokens("txnum", "decimal", [b"secret"])
COOKIE = Cookie("txnum", "; Path=/", 300)
GARBAGE, FORGED = Verdict.GARBAGE, Verdict.FORGED
TXIDS = st.integers(0, 2**64 - 1)

VALUES: list[tuple[bytes, object, object]] = [
    # the value                  txnum     __txid
    (b"42", 42, GARBAGE),
    (b"0", 0, GARBAGE),
    (b"007", 7, GARBAGE),
    (b"18446744073709551615", 2**64 - 1, GARBAGE),
    (b"18446744073709551616", GARBAGE, GARBAGE),
    (b"99999999999999999999", GARBAGE, GARBAGE),
    (b"9" * 4000, GARBAGE, GARBAGE),
    (b"000000000000002a", GARBAGE, 42),
    (b"000000000000002A", GARBAGE, 42),
    (b"ffffffffffffffff", GARBAGE, 2**64 - 1),
    (b"0000000000000042", 42, 0x42),
    (b"-1", GARBAGE, GARBAGE),
    (b"+1", GARBAGE, GARBAGE),
    (b"1e300", GARBAGE, GARBAGE),
    (b"1.0", GARBAGE, GARBAGE),
    (b"0x2a", GARBAGE, GARBAGE),
    (b"1_000", GARBAGE, GARBAGE),
    (b"", GARBAGE, GARBAGE),
    (b" 42", GARBAGE, GARBAGE),
    (b"4 2", GARBAGE, GARBAGE),
    (b"42\n", GARBAGE, GARBAGE),
    (b'"42"', GARBAGE, GARBAGE),
    (b"NaN", GARBAGE, GARBAGE),
    ("٤٢".encode(), GARBAGE, GARBAGE),
    ("\N{FULLWIDTH DIGIT FOUR}2".encode(), GARBAGE, GARBAGE),
    (b"\xff\xfe", GARBAGE, GARBAGE),
    (b"\x0042", GARBAGE, GARBAGE),
    (b"42.c2lnbmF0dXJlIG9mIDIyIQ", GARBAGE, GARBAGE),
]


@pytest.mark.parametrize(("raw", "decimal", "hexadecimal"), VALUES)
def test_a_value_is_a_txid_or_garbage(raw: bytes, decimal: object, hexadecimal: object) -> None:
    """The whole table, in both formats."""
    assert DECIMAL.decode(raw) == decimal
    assert HEX.decode(raw) == hexadecimal


HEADERS: list[tuple[bytes, bytes | None]] = [
    (b"txnum=42", b"42"),
    (b"a=1; txnum=42; b=2", b"42"),
    (b"a=1;txnum=42;b=2", b"42"),
    (b"  txnum = 42  ; b=2", b"42"),
    (b"txnum=1; txnum=2; txnum=3; txnum=4; txnum=5", b"1"),
    (b"txnum=; txnum=2", b""),
    (b"txnum; txnum=2", b"2"),
    (b"xtxnum=1; txnum2=3; TXNUM=4", None),
    (b"a=txnum=9", None),
    (b"txnum=a=b", b"a=b"),
    (b'cart={"items":[1,2],"txnum":7}; txnum=42', b"42"),
    (b"bare; tokens here; txnum=42", b"42"),
    (b'quoted="a; txnum=1; b"; txnum=42', b"1"),
    (b'broken="; txnum=42', b"42"),
    ("naïve=日本; txnum=42".encode(), b"42"),
    (b"latin=\xe9\xff\x00; txnum=42", b"42"),
    (b"big=" + b"x" * 8192 + b"; txnum=42", b"42"),
    (b";" * 8192 + b"txnum=42", b"42"),
    (b"", None),
    (b";;;=;=;", None),
    (b"=txnum", None),
]


@pytest.mark.parametrize(("header", "value"), HEADERS)
def test_the_first_cookie_of_the_name_is_found_whatever_stands_around_it(header: bytes, value: bytes | None) -> None:
    """JSON, bare words, quotes, bytes beyond ASCII, 8 KB of it, several of ours."""
    assert COOKIE.find(header) == value


def test_pythons_own_parser_is_no_alternative() -> None:
    """`http.cookies` loses the cookie for each of three things that browsers send every day."""
    for other in ('cart={"items":[1,2]}', "bare", "name=日本"):
        jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        jar.load(f"{other}; txnum=42")
        assert "txnum" not in jar
        assert COOKIE.find(f"{other}; txnum=42".encode()) == b"42"


@pytest.mark.parametrize("tokens", [DECIMAL, HEX, SIGNED, Tokens("__txid", "hex", [b"a", b"b"])])
@given(txid=TXIDS)
def test_what_is_encoded_is_decoded(tokens: Tokens, txid: int) -> None:
    """Every TXID survives its way through the client, to the last bit: litefs-js loses those above 2^53."""
    assert tokens.decode(tokens.encode(txid).encode()) == txid
    assert COOKIE.find(b"a=b; " + COOKIE.set(tokens.encode(txid)).split(b";")[0]) == tokens.encode(txid).encode()


@given(raw=st.binary(max_size=40))
def test_no_byte_string_is_anything_else(raw: bytes) -> None:
    """A TXID within 64 bits, garbage, or, only with a secret, forged."""
    for tokens in (DECIMAL, HEX):
        seen = tokens.decode(raw)
        assert seen is GARBAGE or (isinstance(seen, int) and 0 <= seen < 2**64)
    assert SIGNED.decode(raw) in (GARBAGE, FORGED)


PIECES = (b"txnum", b"txnum=1", b"; txnum=22", b"; ", b";", b" ", b"\t", b"=", b"x")


@given(header=st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_however_it_is_written_the_first_cookie_of_the_name_wins(header: bytes) -> None:
    """Who splits at semicolons, and takes space and tab off, finds the same."""
    pairs = [part.partition(b"=") for part in header.split(b";")]
    named = [value.strip(b" \t") for name, equals, value in pairs if equals and name.strip(b" \t") == b"txnum"]
    assert COOKIE.find(header) == (named[0] if named else None)


@given(before=st.binary(max_size=200), after=st.binary(max_size=200))
def test_no_neighbour_hides_or_changes_the_cookie(before: bytes, after: bytes) -> None:
    """Whatever bytes the other cookies are, the first of ours is found, and nothing is made up."""
    header = before + b"; txnum=42;" + after
    found = COOKIE.find(header)
    assert found is not None
    if b"txnum" not in before:
        assert found == b"42"
    if b"txnum" not in before + after:
        assert COOKIE.find(before + b";" + after) is None


def test_a_signature_is_of_one_txid_one_cookie_and_one_secret() -> None:
    """Changing any of them makes a token forged; so is one without a signature."""
    token = SIGNED.encode(42).encode()
    assert SIGNED.decode(token) == 42
    assert SIGNED.decode(token.replace(b"42.", b"43.")) is FORGED
    assert SIGNED.decode(token[:-1] + (b"A" if token[-1:] != b"A" else b"Q")) is FORGED
    assert SIGNED.decode(b"42") is FORGED
    assert Tokens("other", "decimal", [b"secret"]).decode(token) is FORGED
    assert Tokens("txnum", "decimal", [b"other"]).decode(token) is FORGED


def test_secrets_rotate() -> None:
    """The first signs and all are believed: old tokens stay good until their secret is taken out."""
    old, both, new = (Tokens("txnum", "decimal", secrets) for secrets in ([b"old"], [b"new", b"old"], [b"new"]))
    assert both.decode(old.encode(42).encode()) == 42
    assert new.decode(both.encode(42).encode()) == 42
    assert new.decode(old.encode(42).encode()) is FORGED


def test_a_signed_token_may_stand_in_a_cookie() -> None:
    """Its characters need no quotes."""
    assert all(32 < byte < 127 and byte not in b'",;\\' for byte in SIGNED.encode(2**64 - 1).encode())


def test_the_cookie_of_litefs_js() -> None:
    """Path=/, HttpOnly, SameSite=Lax, Secure, decimal; it lives for the 5 minutes of LiteFS's proxy."""
    cookie = Options(cookie="txnum").cookies
    assert cookie is not None
    assert cookie.set(DECIMAL.encode(42)) == b"txnum=42; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert cookie.delete() == b"txnum=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure"


def test_the_cookie_of_litefs_own_proxy() -> None:
    """16 hexadecimal digits by its name alone."""
    options = Options(cookie="__txid")
    cookie = options.cookies
    assert cookie is not None
    assert cookie.set(HEX.encode(42)).startswith(b"__txid=000000000000002a; Max-Age=300; Path=/; HttpOnly")


def test_attributes_are_the_same_when_it_is_deleted() -> None:
    """A browser deletes only the cookie of the same domain and path."""
    cookie = Options(domain="example.com", path="/shop", same_site="none").cookies
    assert cookie is not None
    attributes = b"; Path=/shop; Domain=example.com; HttpOnly; SameSite=None; Secure"
    assert cookie.set("1").endswith(attributes)
    assert cookie.delete().endswith(attributes)
