"""The quick way and the careful way read the same, whatever comes and however it is cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.position import check_database_name
from litefs_watch.sources.event_decoder import NEED_DATA, NOTHING, EventDecoder, Reached
from litefs_watch.sources.wire import Disconnected
from tests.sources.event_streams import HEAD, INIT, LAST, ODD, chunk, cut, event, read, read_carefully

TXIDS = st.integers(0, 2**61)
CHUNKS = TXIDS.map(lambda txid: chunk(event(txid))) | st.sampled_from(ODD) | st.binary(max_size=8)
PLACES = st.lists(st.integers(0, 4000), max_size=8)


@pytest.mark.parametrize("odd", ODD)
def test_both_ways_read_the_same_between_two_frames(odd: bytes) -> None:
    """What is like LiteFS's and is not: as a whole, byte by byte, in two halves, and by itself."""
    answer = HEAD + INIT + chunk(event(1)) + odd + chunk(event(2)) + chunk(event(3)) + LAST
    expected = list(read_carefully(answer))
    assert list(read([answer])) == expected
    assert list(read(cut(answer, list(range(len(answer)))))) == expected
    start = len(HEAD + INIT + chunk(event(1)))
    assert list(read(cut(answer, [start + len(odd) // 2]))) == expected
    assert list(read(cut(answer, [start, start + len(odd)]))) == expected


@given(st.lists(CHUNKS, max_size=8), PLACES)
def test_both_ways_read_the_same(chunks: list[bytes], places: list[int]) -> None:
    """The same events, and the same end, for any chunks in any pieces."""
    answer = HEAD + INIT + b"".join(chunks)
    assert alike(read(cut(answer, places))) == alike(read_carefully(answer))


@given(st.lists(TXIDS, min_size=1, max_size=4), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1), PLACES)
def test_a_stream_that_is_nearly_litefs_s(txids: list[int], changes: list[tuple[int, int]], places: list[int]) -> None:
    """Any bytes changed in frames that LiteFS prints: both ways read or refuse them alike."""
    frames = bytearray(b"".join(chunk(event(txid)) for txid in txids))
    for place, value in changes:
        frames[place % len(frames)] = value
    answer = HEAD + INIT + bytes(frames) + LAST
    assert alike(read(cut(answer, places))) == alike(read_carefully(answer))


def alike(found: Iterable[object]) -> list[object]:
    """h11 tells how much of a chunk's end was still to come when it met a wrong byte, which the pieces decide."""
    return [re.sub(r"\(expected b'[^']*'\)", "(expected …)", each) if isinstance(each, str) else each for each in found]


@given(
    st.lists(st.sampled_from([event(1), event(2, b"b.db"), b"\n", b"garbage\n", b'{"type":"vacuum"}']), max_size=6), PLACES
)
@pytest.mark.parametrize(
    "head", ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"]
)
def test_without_chunks(head: str, lines: list[bytes], places: list[int]) -> None:
    """What is not chunked goes the careful way, whatever it looks like."""
    answer = head.encode() + b"".join(lines) + chunk(event(1))
    assert alike(read(cut(answer, places))) == alike(read_carefully(answer))


@given(st.binary(max_size=200), PLACES)
def test_any_bytes(answer: bytes, places: list[int]) -> None:
    """No byte string does anything but end in a refusal."""
    assert isinstance(list(read(cut(answer, places)))[-1], str)


def opened() -> EventDecoder:
    """A decoder that has read the head and init."""
    decoder = EventDecoder("http://litefs/events")
    decoder.receive(HEAD + INIT)
    while decoder.next_event() is not NEED_DATA:
        pass
    return decoder


def read_quickly(decoder: EventDecoder, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What it reads of what is left, with the careful way closed."""
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_next_carefully", lambda: pytest.fail("the careful way"))
        return list(iter(decoder.next_event, NEED_DATA))


SEVEN = Reached("app.db", Position(7, 49))


def test_what_litefs_prints_goes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would compare the careful way with itself."""
    decoder = opened()
    decoder.receive(chunk(event(7)) + chunk(event(8, b"b c-d_1.sqlite3")))
    assert read_quickly(decoder, monkeypatch) == [SEVEN, Reached("b c-d_1.sqlite3", Position(8, 56))]


def test_a_frame_in_two_pieces_goes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy stream is cut anywhere."""
    decoder, frame = opened(), chunk(event(7))
    for place in range(1, len(frame) - 2):
        decoder.receive(frame[:place])
        assert read_quickly(decoder, monkeypatch) == []
        decoder.receive(frame[place:])
        assert read_quickly(decoder, monkeypatch) == [SEVEN]


@pytest.mark.parametrize("missing", [1, 2])
def test_an_event_does_not_wait_for_the_end_of_its_chunk(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """It is given with its newline; the quick way goes on one frame later."""
    decoder, frame = opened(), chunk(event(7))
    decoder.receive(frame[:-missing])
    assert SEVEN in iter(decoder.next_event, NEED_DATA)
    decoder.receive(frame[-missing:] + frame + frame)
    while not decoder._between_chunks:
        decoder.next_event()
    assert read_quickly(decoder, monkeypatch) == [SEVEN]


@pytest.mark.parametrize(
    "other", [b'{"type":"primaryChange","data":{"isPrimary":true}}\n', b"?\n", event(1, b"\xc3\xa9"), b"\n", event(1) * 2]
)
def test_after_something_else_the_quick_way_goes_on(monkeypatch: pytest.MonkeyPatch, other: bytes) -> None:
    """With the very next frame, also where it has come already."""
    decoder = opened()
    decoder.receive(chunk(event(7)) + chunk(other) + chunk(event(7)) * 3)
    assert decoder.next_event() == SEVEN
    assert decoder.next_event() is NOTHING
    while not decoder._between_chunks:
        decoder.next_event()
    assert read_quickly(decoder, monkeypatch) == [SEVEN] * 3


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nhello?!", b"0\r\nno header\r\n\r\n", b"5\n"])
def test_what_is_no_chunk_is_refused_as_soon_as_by_h11(broken: bytes) -> None:
    """It is not taken for the beginning of a frame."""
    decoder, connection = opened(), h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "litefs")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD + INIT)
    while connection.next_event() is not h11.NEED_DATA:
        pass
    for place in range(len(broken)):
        decoder.receive(broken[place : place + 1])
        connection.receive_data(broken[place : place + 1])
        assert is_refused(lambda: list(iter(decoder.next_event, NEED_DATA)), Disconnected) is is_refused(
            lambda: list(iter(connection.next_event, h11.NEED_DATA)), h11.RemoteProtocolError
        )


def is_refused(read: Callable[[], object], error: type[Exception]) -> bool:
    try:
        read()
    except error:
        return True
    return False


@given(st.text(st.characters(max_codepoint=127), max_size=260))
def test_no_name_that_would_be_refused_is_taken(name: str) -> None:
    """The pattern and `check_database_name` say the same of a name, where it goes the quick way."""
    frame = chunk(event(1, name.encode()))
    decoder = EventDecoder("http://litefs/events")
    decoder._between_chunks = True
    decoder.receive(frame)
    try:
        taken = decoder.next_event()
    except Disconnected:  # h11 has no head here: it went the careful way
        return
    if isinstance(taken, Reached):
        assert check_database_name(taken.database) == name
