"""Streams of events, as LiteFS sends them and not quite so; and the two ways to read one, side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import h11

from litefs_watch.errors import WireError
from litefs_watch.sources.event_decoder import NEED_DATA, NOTHING, EventDecoder, Garbled, Reached
from litefs_watch.sources.wire import Disconnected, LineDecoder, Tx, parse_event

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    """As Go's ``net/http`` sends it."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(
    txid: int, database: bytes = b"app.db", commit: bytes = b"2", timestamp: bytes = b"2026-11-23T02:15:23.826Z"
) -> bytes:
    """A transaction as LiteFS prints it."""
    return (
        b'{"type":"tx","db":"%b","data":{"txID":"%016x","postApplyChecksum":"%016x","pageSize":4096,"commit":%b,'
        b'"timestamp":"%b"}}\n' % (database, txid, txid * 7, commit, timestamp)
    )


INIT = chunk(b'{"type":"init","data":{"isPrimary":true}}\n')


def read(pieces: list[bytes]) -> Iterator[object]:
    """What the decoder makes of it, and at last how it ended."""
    decoder = EventDecoder("http://litefs/events")
    try:
        for piece in [*(piece for piece in pieces if piece), b""]:
            decoder.receive(piece)
            while (step := decoder.next_event()) is not NEED_DATA:
                if step is not NOTHING:
                    yield step
    except Disconnected as error:
        yield refusal(error)
    else:
        yield "ended" if decoder.ended else "waits for more after the end"


def read_carefully(answer: bytes) -> Iterator[object]:
    """The same in the plainest way: h11, lines, pydantic."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/events", headers=[("host", "litefs")]))
    connection.send(h11.EndOfMessage())
    lines = LineDecoder()
    connection.receive_data(answer)
    try:
        while not isinstance(step := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if step is h11.NEED_DATA:
                connection.receive_data(b"")
            elif isinstance(step, h11.Data):
                for line in lines.feed(bytes(step.data)):
                    try:
                        read = parse_event(line)
                    except WireError as error:
                        yield Garbled(str(error))
                    else:
                        yield Reached(read.database, read.data.position) if isinstance(read, Tx) else read
    except (h11.RemoteProtocolError, Disconnected) as error:
        yield refusal(error)
    else:
        yield "ended"


def refusal(error: Exception) -> str:
    """h11's reason. It shows as much of what should have ended a chunk as had come: that depends on the pieces."""
    return re.sub(r"footer: b.* \(exp", "footer: (exp", str(error.__cause__ or error))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """In pieces, cut at any places."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


NAMES = [
    b"a.db",
    b".",
    b"..",
    b"...",
    b".a",
    b"a/b",
    b'\\"',
    b"\xc3\xa9",
    b"\xff",
    b"\\u0041",
    b"",
    b"n" * 250,
    b"n" * 251,
    b"\x7f",
]
NUMBERS = [b"0", b"4294967295", b"02", b"-1", b"1e9", b"1.5", b"99999999999", b"null", b""]
TIMES = [b"", b"\\x", b"\\", b"never", b"x" * 41, b"\\u0041", b"\n", b"\t", b"\xe2\x82\xac", b'"']
ODD = [
    INIT,
    chunk(b'{"type":"primaryChange","data":{"isPrimary":false,"hostname":"b"}}\n'),
    chunk(b'{"type":"vacuum"}\n'),
    chunk(b"garbage\n"),
    chunk(b"\r\n"),
    chunk(b"no newline"),
    chunk(event(4).replace(b"{", b" {", 1)),
    chunk(event(4).replace(b"}}", b"}}}")),
    chunk(event(4).upper()),
    chunk(event(4) + event(5)),
    chunk(event(4)[:40]) + chunk(event(4)[40:]),
    b"00" + chunk(event(4)),
    b"9;extension=1\r\ngarbage!\n\r\n",
    b"5\r\nhello?",
    LAST,
    b"0\r\nTrailer: 1\r\n\r\n",
    *(chunk(event(5, name)) for name in NAMES),
    *(chunk(event(5, commit=number)) for number in NUMBERS),
    *(chunk(event(5, timestamp=time)) for time in TIMES),
    *(b"%x\r\n%b\r\n" % (len(event(6)) + off, event(6)) for off in (-2, -1, 1, 2)),
]
