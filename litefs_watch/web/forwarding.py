"""What `Forward` does, on an event loop and in threads alike, without its I/O: one connection's HTTP/1.1, and the failures.

The protocol is h11's: whoever writes the request and whoever reads the answer may do so at the same time, which clients that
send a whole body before they read anything (httpcore2, urllib3) can't.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import h11

from litefs_watch.consistency import Answer, refusal
from litefs_watch.web.seldom import Seldom, more

logger: logging.Logger = logging.getLogger("litefs_watch")

KEEP_ALIVE = 1.0
"""Seconds that an idle connection is used again. Half of what the least patient server gives it (gunicorn: 2; uvicorn and
hypercorn: 5): a write is not to meet one that is just being closed."""

IN_HAND = 64 * 1024
"""Bytes: a request whose body is here, and no larger, goes out in one piece, and could be sent again. Only such a one uses a
connection again; one whose body is still to come gets a new one."""

AT_ONCE = 0.05
"""Seconds that the first piece of a body is waited for before the primary hears of the request."""

SPARED = 1.0
"""Seconds: where all connections are taken, an upload that has been silent for longer makes room for another request."""

QUIET = 0.25
"""Seconds. Once the primary has answered, what still comes of the body is thrown away until it is silent for so long: a
connection that is closed on a client that is still sending may take the answer with it."""

LINGER = 10.0
"""Seconds that this lasts at most."""

PIECE = 64 * 1024
"""Bytes that are received at once."""

_MOST_HEAD = 128 * 1024

Headers = Iterable[tuple[bytes, bytes]]


class Failed(Exception):
    """Why a request has no answer of the primary's, and what its client is told instead."""

    def __init__(self, answer: Answer, detail: str) -> None:
        super().__init__(detail)
        self.answer = answer


def unreachable(detail: str) -> Failed:
    """Nothing was sent."""
    return Failed(refusal("The primary can't be reached at this moment. Try again shortly."), f"{detail}; nothing was sent")


def broke_off(detail: str) -> Failed:
    text = "The primary broke off. Whether it has done what was asked is not known.\n"
    return Failed(Answer.of(502, text=text), f"{detail}; it may have run")


def late(seconds: float) -> Failed:
    text = "The primary did not answer in time. Whether it has done what was asked is not known.\n"
    return Failed(Answer.of(504, text=text), f"no answer for {seconds:g} s; it may have run")


def silent(detail: str) -> Failed:
    text = "The rest of the request's body did not come. Send the whole request again.\n"
    return Failed(Answer.of(408, text=text), f"{detail}; the primary did not get the whole request")


def gone(detail: str) -> Failed:
    """The client has hung up, or sent what the server here could not read."""
    text = "The rest of the request's body could not be read. Send the whole request again.\n"
    return Failed(Answer.of(400, text=text), f"{detail}; the primary did not get the whole request")


def malformed(error: Exception) -> Failed:
    return Failed(Answer.of(400, text=f"This request can't be sent on: {error}.\n"), f"malformed: {error}")


class Failures:
    """Of one forwarder: which requests have failed, and why. One that may have run is always said."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def say(self, request: object, failure: Failed) -> None:
        status = failure.answer.status
        unsaid: int | None = 0
        if status == 503:  # nothing was sent: its client may try again as often as it likes
            unsaid = self._seldom.due(failure.answer.body)
        elif status < 500:  # the client's doing
            unsaid = self._seldom.due(status)
        if unsaid is not None:
            logger.warning("forwarding %s failed: %s%s", request, failure, more(unsaid))


class Broken(Exception):
    """The connection to the primary is gone, or is no HTTP/1.1."""


class Head(NamedTuple):
    """The head of the primary's answer; names are in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]


class Ended:
    """The end of an answer."""


ENDED: Final = Ended()


class Origin(NamedTuple):
    """Where the primary listens."""

    tls: bool
    host: str
    port: int
    path: bytes
    """What stands before every target."""

    @classmethod
    def of(cls, url: str) -> Origin:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(tls, parts.hostname or "", parts.port or (443 if tls else 80), parts.path.encode("ascii"))

    @property
    def authority(self) -> bytes:
        """For a request that names no host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()


class Conversation:
    """The requests and answers of one connection, one after the other."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)

    def begin(self, method: str, target: bytes, headers: Headers) -> bytes:
        """The bytes of the request's head. Raises `Failed` where it can't be one."""
        try:
            return self._h11.send(h11.Request(method=method, target=target, headers=list(headers))) or b""
        except h11.LocalProtocolError as error:
            raise malformed(error) from error

    def piece(self, data: bytes) -> bytes:
        """The bytes of a piece of its body. Raises `Failed` where there is more than was announced."""
        try:
            return self._h11.send(h11.Data(data=data)) or b""
        except h11.LocalProtocolError as error:
            raise malformed(error) from error

    def end(self) -> bytes:
        """The bytes of its end. Raises `Failed` where there was less than announced."""
        try:
            return self._h11.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:
            raise malformed(error) from error

    def feed(self, data: bytes) -> None:
        """What has come; b"" at the connection's end."""
        self._h11.receive_data(data)

    def next(self) -> Head | bytes | Ended | None:
        """What is there of the answer; None until more has come. Raises `Broken`."""
        try:
            while isinstance(event := self._h11.next_event(), h11.InformationalResponse):
                pass
        except h11.RemoteProtocolError as error:
            raise Broken(str(error)) from error
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Response):
            return Head(event.status_code, [(bytes(name), bytes(value)) for name, value in event.headers])
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.ConnectionClosed):
            raise Broken("it closed the connection")
        return ENDED

    def again(self) -> bool:
        """Be ready for another request. False where the connection is of no more use."""
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if not done or self._h11.trailing_data[0]:
            return False
        self._h11.start_next_cycle()
        return True


def is_readable(sock: socket.socket) -> bool:
    """Whether something has come. On an idle connection that is its end, or nonsense."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def acknowledged(sock: socket.socket) -> int | None:
    """The bytes that the other side's kernel has taken so far; None where the system does not tell.

    Linux's ``tcpi_bytes_acked``. Where it has not grown, nothing that was sent meanwhile has reached anybody: the connection
    had been closed before.
    """
    with contextlib.suppress(OSError, AttributeError, struct.error):
        return int(struct.unpack_from("=Q", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120)[0])
    return None
