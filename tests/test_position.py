from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.errors import WireError
from litefs_watch.position import TXID_MAX, check_database_name, check_txid

numbers = st.integers(0, TXID_MAX)


@given(numbers, numbers)
def test_a_position_survives_its_text(txid: int, checksum: int) -> None:
    """What LiteFS's text says is what was written, for every number it can hold."""
    position = Position(txid, checksum)
    assert Position.parse(f"{position}\n") == Position.parse(str(position).encode()) == position
    assert len(str(position)) == 33


@given(st.binary(max_size=80))
def test_any_bytes_are_a_position_or_a_wire_error(raw: bytes) -> None:
    """No byte string crashes the parser, and what it accepts is LiteFS's format to the letter."""
    try:
        position = Position.parse(raw)
    except WireError as error:
        assert "expected 16 hexadecimal digits" in str(error)  # noqa: PT017 - one property, two outcomes
    else:
        assert raw.removesuffix(b"\n").lower() == str(position).encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0000000000000001/800000000000000",  # half-written
        "0000000000000001",
        "0000000000000001/8000000000000000\n\n",
        " 0000000000000001/8000000000000000",
        "0x00000000000001/8000000000000000",
        "000000000000000\N{ARABIC-INDIC DIGIT ONE}/8000000000000000",  # another script's digit
        "-000000000000001/8000000000000000",
        "x" * 10_000_000,
    ],
)
def test_what_is_no_position_says_what_was_seen(text: str) -> None:
    """The message shows the start of what was there, and stays short."""
    with pytest.raises(WireError, match="not a position") as caught:
        Position.parse(text)
    assert len(str(caught.value)) < 400


def test_order_is_by_txid_and_histories_do_not_compare() -> None:
    """The same TXID with another checksum is another history: neither less nor greater nor equal."""
    low, high, other = Position(1, 9), Position(2, 5), Position(2, 6)
    assert low < high
    assert low <= high
    assert high > low
    assert high >= Position(2, 5)
    assert not high < other
    assert not high > other
    assert not high <= other
    assert not high >= other
    assert high != other
    assert max(low, high) is high


@pytest.mark.parametrize("txid", [0, 1, 2**53 + 1, TXID_MAX])
def test_whole_numbers_up_to_2_64_are_txids(txid: int) -> None:
    """The full range, past where JavaScript loses precision."""
    assert check_txid(txid) == txid


@pytest.mark.parametrize("txid", [-1, 2**64, 1.0, 1e300, float("nan"), "1", b"1", None, True, [1], 10**10_000 > 0])
def test_all_else_is_a_value_error_that_says_so(txid: object) -> None:
    """A TXID is a whole number from 0 to 2^64-1, and the message says it."""
    with pytest.raises(ValueError, match="whole number"):
        check_txid(txid)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "x" * 300, "é" * 130])
def test_a_database_name_with_a_path_is_refused(name: str) -> None:
    """LiteFS's mount is flat; a name that could leave it is refused."""
    with pytest.raises(ValueError, match="file name"):
        check_database_name(name)


@given(st.text())
def test_any_name_is_accepted_or_a_value_error(name: str) -> None:
    """Names from the event stream are anybody's."""
    try:
        assert check_database_name(name) == name
    except ValueError:
        return
    assert "/" not in name
