"""Bytes of the answer to ``GET /events`` become events: a quick way for what LiteFS prints, a careful one for all else.

Go's ``net/http`` sends each event as one chunk. Where a whole chunk is a transaction just as LiteFS prints it, one pattern
over the bytes reads it. The careful way is h11 for HTTP, `LineDecoder` for lines, pydantic for events. Two rules:

1. **What the quick way takes, the careful way would read the same.** So the pattern knows no escapes, no letters beyond
   ASCII, no names that `check_database_name` refuses; and the chunk's length must be its own.
2. **The quick way begins only where h11 stands between two chunks with an empty buffer, and no line is half there.** h11
   never sees the chunks that are read the quick way, and its state is right all the same. It is shown the bytes up to the
   end of a chunk as LiteFS ends it, and no further: so it stands there again as soon as LiteFS's chunks go on.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import h11

from litefs_watch.errors import WireError
from litefs_watch.position import Position
from litefs_watch.sources.http import broken_http, encode_request
from litefs_watch.sources.wire import Disconnected, Event, LineDecoder, Tx, parse_event

_FRAME = re.compile(
    rb"([0-9a-f]{1,3})\r\n"
    rb'\{"type":"tx","db":"((?!\.{1,2}")[^"\\/\x00-\x1f\x7f-\xff]{1,250})",'
    rb'"data":\{"txID":"([0-9a-f]{16})","postApplyChecksum":"([0-9a-f]{16})",'
    rb'"pageSize":(?:0|[1-9][0-9]{0,9}),"commit":(?:0|[1-9][0-9]{0,9}),"timestamp":"[^"\\\x00-\x1f\x7f-\xff]{1,40}"\}\}\n'
    rb"\r\n"
)
"""One whole chunk with one transaction; groups: the chunk's length, the database, the TXID, the checksum."""
_FRAME_BEGUN = re.compile(rb"([0-9a-f]{1,3})(?:\r(?:\n([^\n]*))?)?")
"""What may still become one, and holds no whole line that could be read now."""
_ID = re.compile(rb"[!-~]{1,64}")
_LAST_OF_CHUNK = b"\n\r\n"  # as LiteFS's end: the newline of the event, and what ends the chunk


class Reached(NamedTuple):
    """A transaction is in the database."""

    database: str
    position: Position


class Garbled(NamedTuple):
    """A line that is no event. ``reason`` shows it."""

    reason: str


class Progress(enum.Enum):
    NEED_DATA = enum.auto()
    NOTHING = enum.auto()


NEED_DATA: Final = Progress.NEED_DATA
"""All that has come was taken in, or the response has ended."""
NOTHING: Final = Progress.NOTHING
"""Some of what has come was taken in, and was no event: ask again."""


class EventDecoder:
    """The response to one ``GET /events``, in any pieces.

    `receive` what comes, then ask for `next_event` until `NEED_DATA`. Each such step is a small, bounded amount of work.
    Raises `Disconnected` where no more events can come from this response through the other end's fault; what came before is
    given first.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = h11.Connection(h11.CLIENT)
        self.request: bytes = encode_request(self._http, "GET", url)
        """What to send."""
        self.answered: bool = False
        """Whether the head has come, and is as it should be."""
        self.ended: bool = False
        """Whether the response has ended as it should."""
        self.identity: tuple[str, str] = "", ""
        """The ids of the node and of its cluster, as the head tells them (LiteFS 0.5); empty where it does not."""
        self._data = b""
        self._at = 0  # what is before it in `_data` has become an event, or was shown to h11
        self._at_end = False
        self._shown_end = False
        self._between_chunks = False  # rule 2
        self._chunk_ended = False
        self._line_decoder = LineDecoder()
        self._lines: Iterator[bytes] = iter(())

    def receive(self, data: bytes) -> None:
        """Take what has come; b"" where the other end has closed."""
        self._at_end = not data
        self._data = self._data[self._at :] + data
        self._at = 0

    @property
    def drained(self) -> bool:
        """Whether `next_event` would say `NEED_DATA`: in the quick way, where asking it costs a woken waiter its time."""
        return self._between_chunks and self._at == len(self._data) and not self._at_end

    def next_event(self) -> Reached | Event | Garbled | Progress:
        """One step. Every transaction is a `Reached`."""
        if self._between_chunks:
            frame = _FRAME.match(self._data, self._at)
            if frame is not None and int(frame[1], 16) == frame.end() - frame.end(1) - 4:
                self._at = frame.end()
                return Reached(frame[2].decode("ascii"), Position(int(frame[3], 16), int(frame[4], 16)))
            if not self._at_end and self._awaits_rest_of_frame():
                return NEED_DATA
            self._between_chunks = False
        return self._next_carefully()

    def _awaits_rest_of_frame(self) -> bool:
        if self._at == len(self._data):
            return True
        begun = _FRAME_BEGUN.fullmatch(self._data, self._at)
        return begun is not None and (begun[2] is None or len(begun[2]) < int(begun[1], 16))

    def _next_carefully(self) -> Reached | Event | Garbled | Progress:
        if self.ended:
            return NEED_DATA
        if (line := next(self._lines, None)) is not None:
            return _read(line)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise broken_http(self._url, self._http, error, answered=self.answered) from error
        if event is h11.NEED_DATA:
            self._between_chunks = self._chunk_ended and not self._line_decoder.amid_line
            self._chunk_ended = False
            return NOTHING if self._between_chunks else self._show_more()
        if isinstance(event, h11.Data):
            self._lines = self._line_decoder.feed(bytes(event.data))
            self._chunk_ended = event.chunk_end and self._http.trailing_data[0] == b"\r\n"
        elif isinstance(event, h11.Response):
            self._check_head(event)
            self.answered = True
        elif not isinstance(event, h11.InformationalResponse):
            self.ended = True
        return NOTHING

    def _show_more(self) -> Progress:
        if self._at < len(self._data):
            last = self._data.find(_LAST_OF_CHUNK, self._at)
            end = len(self._data) if last < 0 else last + len(_LAST_OF_CHUNK)
            self._http.receive_data(self._data[self._at : end])
            self._at = end
        elif self._at_end and not self._shown_end:
            self._http.receive_data(b"")
            self._shown_end = True
        else:
            return NEED_DATA
        return NOTHING

    def _check_head(self, head: h11.Response) -> None:
        headers = dict(head.headers)
        self.identity = _id_in(headers.get(b"litefs-id")), _id_in(headers.get(b"litefs-cluster-id"))
        if head.status_code != 200:
            location = headers.get(b"location")
            where = f" to {location.decode('latin-1')!r}" if location is not None else ""
            raise Disconnected(
                f"GET {self._url} answered {head.status_code}{where}, not 200: is this LiteFS's http.addr? "
                "Set LITEFS_API_URL (api_url=), or LITEFS_PEERS, to it"
            )


def _id_in(value: bytes | None) -> str:
    return value.decode() if value is not None and _ID.fullmatch(value) else ""


def _read(line: bytes) -> Reached | Event | Garbled:
    try:
        event = parse_event(line)
    except WireError as error:
        return Garbled(str(error))
    return Reached(event.database, event.data.position) if isinstance(event, Tx) else event
