from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch.core.readings import NEVER_REPLICATED_MS
from litefs_watch.errors import WireError
from litefs_watch.position import Position
from litefs_watch.sources.wire import (
    LINE_LIMIT,
    Init,
    LineDecoder,
    PrimaryChanged,
    Tx,
    Unknown,
    parse_event,
    parse_info,
    parse_lag,
    parse_primary,
)

TX = (
    b'{"type":"tx","db":"app.db","data":{"txID":"0000000000000002","postApplyChecksum":"e04f000000000001",'
    b'"pageSize":4096,"commit":2,"timestamp":"2026-11-23T02:15:23.826Z"}}'
)


def test_litefs_own_events_are_read() -> None:
    """The lines that a real node sent."""
    init = parse_event(b'{"type":"init","data":{"isPrimary":false,"hostname":"node-a"}}')
    assert isinstance(init, Init)
    assert (init.data.is_primary, init.data.hostname) == (False, "node-a")
    change = parse_event(b'{"type":"primaryChange","data":{"isPrimary":true}}')
    assert isinstance(change, PrimaryChanged)
    assert (change.data.is_primary, change.data.hostname) == (True, None)
    tx = parse_event(TX)
    assert isinstance(tx, Tx)
    assert (tx.database, tx.data.position) == ("app.db", Position(2, 0xE04F000000000001))


def test_an_empty_hostname_is_none() -> None:
    """LiteFS leaves an unknown hostname out; an empty one means the same."""
    event = parse_event(b'{"type":"init","data":{"isPrimary":false,"hostname":""}}')
    assert isinstance(event, Init)
    assert event.data.hostname is None


def test_unknown_fields_and_types_are_no_errors() -> None:
    """A later LiteFS may say more."""
    more = json.loads(TX) | {"new": [1]}
    more["data"] |= {"newer": {}}
    assert isinstance(parse_event(json.dumps(more).encode()), Tx)
    assert parse_event(b'{"type":"vacuum","data":{}}') == Unknown(type="vacuum")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "JSON"),
        (b"<html>", "JSON"),
        (b"{}", "type"),
        (b'"tx"', "object"),
        (b'{"type":"tx"}', "db"),
        (TX.replace(b"0000000000000002", b"2"), "{16}"),
        (TX.replace(b'"0000000000000002"', b"2"), "string"),
        (TX.replace(b"0000000000000002", b"-000000000000002"), "{16}"),
        (TX.replace(b"app.db", b"../app.db"), "file name"),
        (b'{"type":"init","data":{"isPrimary":"yes"}}', "boolean"),
        (b'{"type":"init","data":{"isPrimary":false,"hostname":"a\\nb"}}', "hostname"),
        (b'{"type":"init","data":{"isPrimary":false,"hostname":7}}', "string"),
        (b"[" * 60_000, "recursion"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_a_line_that_is_no_event_says_what_was_seen(line: bytes, what: str) -> None:
    """The message names the field and shows the start of the line."""
    with pytest.raises(WireError, match="not an event of LiteFS") as caught:
        parse_event(line)
    assert what in str(caught.value)
    assert len(str(caught.value)) < 600


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_line_is_an_event_or_a_wire_error(line: bytes) -> None:
    """No byte string, and no JSON, does anything else."""
    with suppress(WireError):
        assert isinstance(parse_event(line), Init | Tx | PrimaryChanged | Unknown)


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=8), st.data())
def test_any_chunking_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    """However the network cuts the stream, the lines are the same; blank ones are left out."""
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = LineDecoder()
    got = [line for piece in pieces for line in decoder.feed(piece)]
    assert got == [line.strip(b"\r \t") for line in lines if line.strip(b"\r \t")]


def test_the_decoder_holds_no_more_than_its_limit() -> None:
    """Half a line for ever, or a 100 MB one, ends in an error and not in memory."""
    decoder = LineDecoder()
    assert list(decoder.feed(b"x" * LINE_LIMIT)) == []
    with pytest.raises(WireError, match="longer than 65,536 bytes"):
        list(decoder.feed(b"x"))
    assert decoder._rest == b""
    whole = LineDecoder(limit=10)
    with pytest.raises(WireError, match="longer than 10 bytes"):
        list(whole.feed(b"y" * 11 + b"\n"))


def test_lines_before_a_long_one_are_delivered() -> None:
    """What was good is not lost with what follows."""
    lines = LineDecoder(limit=5).feed(b"a\nb\nccccccc\n")
    assert [next(lines), next(lines)] == [b"a", b"b"]
    with pytest.raises(WireError):
        next(lines)


@pytest.mark.parametrize(
    ("raw", "name"), [(b"node-a\n", "node-a"), (b"node-a", "node-a"), (b"\n", None), ("nöde\n".encode(), "nöde")]
)
def test_primary_is_a_hostname_or_a_lone_newline(raw: bytes, name: str | None) -> None:
    """A lone newline is a primary without a name (a static lease without lease.hostname)."""
    assert parse_primary(raw) == name


@pytest.mark.parametrize(
    "raw", [b"", b"a\nb\n", b"a b\n", b"\x1b[31m\n", b"a\x00\n", b"\xff\n", b"x" * 254 + b"\n", b" \n", b"a\r\n", b"\n\n"]
)
def test_what_is_no_primary_is_a_wire_error(raw: bytes) -> None:
    """Control characters, two lines, a very long name, and an empty (half-written) file."""
    with pytest.raises(WireError, match="not a hostname"):
        parse_primary(raw)


@pytest.mark.parametrize(
    ("raw", "milliseconds"),
    [(b"+000000000\n", 0), (b"+000000506\n", 506), (b"-000000012\n", -12), (b"+2147483647\n", NEVER_REPLICATED_MS)],
)
def test_lag_is_signed_milliseconds(raw: bytes, milliseconds: int) -> None:
    """Negative where two machines' clocks differ."""
    assert parse_lag(raw) == milliseconds


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"+\n",
        b"12\n",
        b"+1.5\n",
        b"+0000000000000000000001\n",
        b"+1\n+2\n",
        "+\N{ARABIC-INDIC DIGIT ONE}\n".encode(),
    ],
)
def test_what_is_no_lag_is_a_wire_error(raw: bytes) -> None:
    """Garbage in .lag is no number."""
    with pytest.raises(WireError, match="milliseconds"):
        parse_lag(raw)


@given(st.binary())
def test_any_bytes_in_the_small_files_are_a_value_or_a_wire_error(raw: bytes) -> None:
    """No byte string crashes these parsers; a name is printable."""
    for parse in (parse_primary, parse_lag, parse_info):
        try:
            value = parse(raw)
        except WireError:
            continue
        if isinstance(value, str):
            assert value.isprintable()


def test_info_tells_the_data_directory() -> None:
    """As LiteFS 0.5 prints it."""
    info = parse_info(
        b'{\n  "clusterID": "LFSC1",\n  "isPrimary": true,\n  "candidate": true,\n'
        b'  "path": "/data",\n  "primary": {"hostname": "a"}\n}\n'
    )
    assert (info.is_primary, info.candidate, info.path, info.primary.hostname) == (True, True, "/data", "a")
