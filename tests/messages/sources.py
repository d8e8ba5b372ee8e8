"""What the sources say: a node's status, ``doctor`` and the log have it, and in brackets what was waited for in vain.

Said by what reads LiteFS's stream, its API and its files: given what it may not be.
"""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from litefs_watch import Position
from litefs_watch.sources.connection import connect
from litefs_watch.sources.event_decoder import EventDecoder, Reached
from litefs_watch.sources.http import request
from litefs_watch.sources.peers import RATE, PeerStream
from litefs_watch.sources.stream import EventStream
from litefs_watch.sources.wire import LineDecoder, check_hostname, parse_event, parse_info, parse_lag, parse_primary
from tests.messages.provoking import Case, Provoke, calling, case

URL = "http://localhost:20202/events"


def detail(provoke: Provoke) -> Provoke:
    """The text alone: nobody meets the error."""

    def told() -> str:
        try:
            anyio.run(provoke) if inspect.iscoroutinefunction(provoke) else provoke()
        except Exception as error:  # noqa: BLE001 - it is what this is about
            return str(error)
        return ""

    return told


def streamed(answer: bytes) -> Provoke:
    """What is made of that answer to ``GET /events``."""

    def provoke() -> None:
        decoder = EventDecoder(URL)
        for piece in (answer, b""):
            decoder.receive(piece)
            for _ in range(10):
                decoder.next_event()

    return detail(provoke)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that says that, once; None: nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer or b"")

        thread = threading.Thread(target=serve if answer is not None else int)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/info"
        thread.join(10)


def asked(answer: bytes | None) -> Provoke:
    async def provoke() -> None:
        with answering(answer) as url:
            async with request("GET", url, timeout=0.05 if answer is None else 10) as response:
                await response.read(10)

    return detail(provoke)


async def nobody_there() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with request("GET", f"http://127.0.0.1:{sock.getsockname()[1]}/info", timeout=10):
            pass


async def no_name() -> None:
    await connect("é..b", 80)


def not_init() -> None:
    stream = EventStream(URL, report=print, look=print)
    stream._url = URL
    stream._begin(Reached("app.db", Position(1, 1)))


def flood() -> None:
    stream = PeerStream(URL, lambda *_: None, print)
    stream._open, stream.events, stream._second, stream._received = True, RATE + 1, 1.0, 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventStream, "_take_in", lambda stream, data: False)
        stream._take_in(b"")


CASES: list[Case] = [
    case(detail(nobody_there), "http://127.0.0.1:", "Connection refused"),
    case(asked(None), "http://127.0.0.1:", "0.05 s"),
    case(asked(b""), "http://127.0.0.1:"),
    case(asked(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"), "in the middle of its"),
    case(asked(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "http://127.0.0.1:"),
    case(asked(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n" + b"x" * 20), "10 bytes"),
    case(detail(no_name), "é..b"),
    case(streamed(b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n"), "302", "/login"),
    case(detail(not_init), URL, "'tx'"),
    case(detail(flood), "50,000"),
    case(detail(lambda: list(LineDecoder(limit=10).feed(b"x" * 20))), "10 bytes", "xxx"),
    case(detail(calling(parse_event, b"<html>")), "<html>"),
    case(detail(calling(parse_info, b"<html>")), "<html>"),
    case(detail(calling(parse_primary, b"")), "an empty file"),
    case(detail(calling(check_hostname, "a b")), "a b"),
    case(detail(calling(parse_lag, b"soon")), "soon"),
    case(calling(Position.parse, "zzz"), "zzz"),
]
