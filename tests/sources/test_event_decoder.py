"""The quick way and the careful way read the same, whatever comes and however it is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.core.readings import TxEvent
from litefs_watch.sources.burst import RUN_LIMIT, Burst
from litefs_watch.sources.event_decoder import NEED_DATA, NOTHING, EventDecoder, Reached
from litefs_watch.sources.wire import Disconnected

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def line(txid: int, database: str = "app.db", **changed: Any) -> bytes:
    data = {
        "txID": f"{txid:016x}",
        "postApplyChecksum": f"{txid * 7:016x}",
        "pageSize": 4096,
        "commit": 2,
        "timestamp": "2026-11-23T02:15:23.826Z",
    } | changed
    return json.dumps({"type": "tx", "db": database, "data": data}, separators=(",", ":")).encode() + b"\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


INIT = chunk(b'{"type":"init","data":{"isPrimary":true}}\n')


def decoded(pieces: Sequence[bytes], *, quick: bool = True) -> list[object]:
    """All events, and at last how the connection ended, if through the other end's fault."""
    decoder = EventDecoder("http://litefs/events")
    events: list[object] = []
    try:
        for piece in (*pieces, b""):
            decoder.receive(piece)
            while True:
                if not quick:
                    decoder._between_chunks = False
                event = decoder.next_event()
                if event is NEED_DATA:
                    break
                if event is not NOTHING:
                    events.append(event)
    except Disconnected as error:
        events.append(str(error))
    return events


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


FRAMES = st.one_of(
    st.integers(0, 2**61).map(lambda txid: chunk(line(txid))),
    st.sampled_from(["a.db", ".", "..", "a/b", 'q"', "é", "x\\y", "", "n" * 251]).map(lambda name: chunk(line(5, name))),
    st.builds(lambda a, b: chunk(line(a) + line(b)), st.integers(0, 9), st.integers(0, 9)),
    st.just(INIT),
    st.just(chunk(b'{"type":"primaryChange","data":{"isPrimary":false,"hostname":"b"}}\n')),
    st.just(chunk(line(3)[:40]) + chunk(line(3)[40:])),
    st.just(chunk(line(4, pageSize=-1))),
    st.just(chunk(b"nonsense\n")),
    st.just(chunk(b"\r\n")),
    st.just(b"0\r\n\r\n"),
    st.binary(max_size=8),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 4000), max_size=8))
def test_both_ways_read_the_same(frames: list[bytes], places: list[int]) -> None:
    """The same events, and the same end, for any frames in any pieces."""
    answer = HEAD + INIT + b"".join(frames)
    assert decoded(cut(answer, places)) == decoded([answer], quick=False)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.integers(0), st.integers(0, 255), st.integers(0, 4000))
def test_one_byte_changed(txids: list[int], place: int, value: int, split: int) -> None:
    """A frame that is nearly LiteFS's is read, or refused, the same way by both."""
    frames = bytearray(b"".join(chunk(line(txid)) for txid in txids))
    frames[place % len(frames)] = value
    answer = HEAD + INIT + bytes(frames)
    assert decoded(cut(answer, [split])) == decoded([answer], quick=False)


def test_what_litefs_prints_goes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the other tests here would compare the careful way with itself."""
    decoder = EventDecoder("http://litefs/events")
    decoder.receive(HEAD + INIT)
    while decoder.next_event() is not NEED_DATA:
        pass
    monkeypatch.setattr(decoder, "_next_carefully", lambda: pytest.fail("the careful way"))
    decoder.receive(chunk(line(7)) + chunk(line(8)))
    assert decoder.next_event() == Reached("app.db", Position(7, 49))
    assert decoder.next_event() == Reached("app.db", Position(8, 56))
    assert decoder.next_event() is NEED_DATA


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6))))
def test_a_burst_keeps_every_position_in_order(events: list[tuple[str, int]]) -> None:
    """Of each database, whatever was passed over; and none that falls or stays is coalesced."""
    reports: list[TxEvent] = []
    burst = Burst(reports.append)
    for database, txid in events:
        burst.put(1.0, database, Position(txid))
    burst.flush(1.0)
    for database in "ab":
        told = [
            position.txid
            for report in reports
            if report.database == database
            for position in (*report.passed, report.position)
        ]
        assert told == [txid for name, txid in events if name == database]
    for report in reports:
        run = [position.txid for position in (*report.passed, report.position)]
        assert run == sorted(set(run))


def test_a_long_run_is_reported_in_parts() -> None:
    """Nothing grows without bound, and nothing is lost."""
    reports: list[TxEvent] = []
    burst = Burst(reports.append)
    for txid in range(3 * RUN_LIMIT):
        burst.put(1.0, "app.db", Position(txid))
    burst.flush(1.0)
    assert sum(1 + len(report.passed) for report in reports) == 3 * RUN_LIMIT
    assert max(len(report.passed) for report in reports) <= RUN_LIMIT
