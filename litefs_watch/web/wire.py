"""One connection to the primary: a socket that doesn't block, and the conversation on it. Whoever uses it does the waiting.

Not anyio's streams: on asyncio, a write that fails takes with it what has come and was not read yet: that may be the answer.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from litefs_watch.web.forwarding import PIECE, Broken, Conversation, Ended, Head, Headers, Origin, acknowledged

A = TypeVar("A")
R = TypeVar("R")


class Wire:
    """One that may be written to and read from at the same time. A method that returns None has to be called again, once the
    socket is ready."""

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.origin = origin
        self.sock = sock
        self.used: bool = False
        """Whether it has served a request already."""
        self.conversation: Conversation = Conversation()
        self._taken_before = acknowledged(sock)

    @property
    def took_nothing(self) -> bool:
        """Whether it is certain that nothing of the current request has reached the primary."""
        return self._taken_before is not None and acknowledged(self.sock) == self._taken_before

    def begin(self, method: str, target: bytes, headers: Headers) -> bytes:
        """The bytes of a request's head. Raises `Failed`."""
        return self.conversation.begin(method, target, headers)

    def encode(self, piece: bytes, *, end: bool) -> bytes:
        """The bytes of a piece of its body, and of its end. Raises `Failed`."""
        data = self.conversation.piece(piece) if piece else b""
        return data + self.conversation.end() if end else data

    def send_now(self, data: memoryview) -> int | None:
        """How much was sent. Raises `Broken`."""
        return self._try(self.sock.send, data)

    def receive_now(self) -> bytes | None:
        """What has come; b"" at the end. Raises `Broken`."""
        return self._try(self.sock.recv, PIECE)

    def next(self) -> Head | bytes | Ended | None:
        """What there is of the answer. Raises `Broken`."""
        return self.conversation.next()

    def feed(self, data: bytes) -> None:
        """What was received."""
        self.conversation.feed(data)

    def _try(self, call: Callable[[A], R], argument: A) -> R | None:
        try:
            return call(argument)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise Broken(f"it broke off: {error}") from error

    def again(self) -> bool:
        """Be ready for another request. False where it is of no more use."""
        self.used, self._taken_before = True, acknowledged(self.sock)
        return self.conversation.again()

    def abort(self) -> None:
        """Whoever reads or writes it now finds it `Broken`."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # an SSLSocket's own would go on in plain text
