"""The body of a request on its way to the primary, and the client that may fall silent, or hang up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from litefs_watch.web.forwarding import AT_ONCE, LINGER, QUIET, Broken, Failed, gone, silent
from litefs_watch.wsgi.environ import Body, socket_of
from litefs_watch.wsgi.upstream import Connection, Pool


class Upload:
    """Reads the body in a thread of its own, and sends it once there is a connection: the server's ``wsgi.input`` blocks.

    ``stuck_for`` is how many seconds the primary may take nothing.
    """

    def __init__(self, environ: Mapping[str, Any], body: Body, pool: Pool, stuck_for: float) -> None:
        self._socket = socket_of(environ)
        self._body = body
        self._pool = pool
        self._stuck_for = stuck_for
        self._begun = threading.Event()
        self._connected = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._throw_away = False
        self._pieces = 0
        self.moved_at: float = 0.0
        """When the last piece, or the end, was sent."""
        self.silent_since: float | None = None
        """Since when its client is waited for; None while it is not."""
        self.failure: Failed | None = None
        """Why it can't go on."""
        self.first: bytes = b""
        self.in_hand: bool = False
        """Whether ``first`` is all there is."""

    @property
    def is_empty(self) -> bool:
        return self.in_hand and not self.first

    @property
    def is_over(self) -> bool:
        """Whether all of it was sent, or nothing more will be."""
        return self._ended.is_set() or self._throw_away

    @property
    def is_sent(self) -> bool:
        """Whether the primary has it all, and nobody writes any more."""
        return self._ended.is_set() and not self._throw_away

    def begin(self) -> None:
        """Start, and wait for its first piece, for a moment: a body that is here at once can go out with the head."""
        if not self._body:
            self.in_hand = True
            self._ended.set()
            return
        self._thread = threading.Thread(target=self._run, name="litefs_watch upload", daemon=True)
        self._thread.start()
        self._begun.wait(AT_ONCE)

    def go(self, connection: Connection) -> None:
        """Send it, from now on."""
        self._connection = connection
        if self.silent_since is not None:
            self._pool.silent(self)
        self._connected.set()

    def _run(self) -> None:
        try:
            self._read()
        except EOFError as error:
            self._fail(gone(str(error)))
        except Exception as error:  # noqa: BLE001 - each server has its own, of a client that is gone or has sent nonsense
            self._fail(gone(f"the request's body could not be read: {error!r}"))
        finally:
            self._ended.set()
            self._begun.set()
            self._pool.heard(self)

    def _read(self) -> None:
        chunks = self._body.chunks()
        while True:
            piece = self._next(chunks)
            self._pieces += 1
            if not self._begun.is_set():
                self.first = piece
                self.in_hand = len(piece) == self._body.length
                self._begun.set()
            if self.in_hand:
                return
            self._connected.wait()
            self._send(piece)
            if not piece:
                return

    def _next(self, chunks: Any) -> bytes:
        """The next piece; b"" at the end."""
        self.silent_since = time.monotonic()
        if self._connection is not None and not self._throw_away:
            self._pool.silent(self)
        try:
            return bytes(next(chunks, b""))
        finally:
            self.silent_since = None
            self._pool.heard(self)

    def _send(self, piece: bytes) -> None:
        if self._throw_away or self._connection is None:
            return
        try:
            self._connection.send(self._connection.encode(piece, end=not piece), self._stuck_for)
        except Broken:  # there may be an answer all the same
            self._throw_away = True
        except Failed as failure:
            self._fail(failure)
        self.moved_at = time.monotonic()

    def _fail(self, failure: Failed) -> None:
        self.failure = failure
        self._throw_away = True
        if self._connection is not None:
            self._connection.abort()

    def answered(self) -> None:
        """The primary's answer has begun: the client may want to read it before it goes on."""
        self._pool.heard(self)

    def cut(self) -> None:
        """Others need the connection."""
        self._fail(silent("the client was silent, and others needed the connection"))

    def settle(self) -> None:
        """Throw away what still comes, until it is silent, or `LINGER` is over. No thread is left on the server's
        connection: it would take the next request's bytes."""
        if self._thread is None:
            return
        self._throw_away = True
        self._connected.set()
        until = time.monotonic() + LINGER
        seen = -1
        while not self._ended.wait(QUIET) and self._pieces != seen and time.monotonic() < until:
            seen = self._pieces
        if not self._ended.is_set() and self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RD)
        self._thread.join()
