"""Connections to the primary, for threads: sockets that don't block, h11's protocol."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial

from litefs_watch.sources.connection import keep_alive
from litefs_watch.web.forwarding import Ended, Head, Origin, late, unreachable
from litefs_watch.web.slots import Idle, Silent, Upload
from litefs_watch.web.wire import A, R, Wire

LOOK_AGAIN = 1.0
"""Seconds: a thread that waits for the primary looks this often whether another one has moved its deadline."""


class Connection(Wire):
    """For two threads: neither h11 nor OpenSSL bears both at once. The lock is never held while one waits."""

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        super().__init__(origin, sock)
        self._lock = threading.Lock()

    def send(self, data: bytes, timeout: float) -> None:
        """Send all of it, of which some is to be taken every ``timeout`` seconds. Raises `Broken` and `Failed`."""
        left = memoryview(data)
        while left:
            until = time.monotonic() + timeout
            while (sent := self.send_now(left)) is None:
                if not self._wait(select.POLLOUT, partial(float, until)):
                    raise late(timeout)
            left = left[sent:]

    def read(self, deadline: Callable[[], float]) -> Head | bytes | Ended | None:
        """What comes next of the answer; None where it has not come by the ``deadline``. Raises `Broken`."""
        while (event := self.next()) is None:
            while (data := self.receive_now()) is None:
                if not self._wait(select.POLLIN, deadline):
                    return None
            self.feed(data)
        return event

    def _wait(self, event: int, deadline: Callable[[], float]) -> bool:
        poll = select.poll()
        poll.register(self.sock.fileno(), event)
        while (left := deadline() - time.monotonic()) > 0:
            if poll.poll(1000 * min(left, LOOK_AGAIN)):
                return True
        return False

    def encode(self, piece: bytes, *, end: bool) -> bytes:
        with self._lock:
            return super().encode(piece, end=end)

    def next(self) -> Head | bytes | Ended | None:
        with self._lock:
            return super().next()

    def feed(self, data: bytes) -> None:
        with self._lock:
            super().feed(data)

    def _try(self, call: Callable[[A], R], argument: A) -> R | None:
        with self._lock:
            return super()._try(call, argument)

    def close(self) -> None:
        """For when no other thread uses it any more."""
        self.sock.close()


class Pool:
    """At most ``most`` requests to the primary at once, and the connections that wait for the next."""

    def __init__(self, most: int, connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        self._most = most
        self._timeout = connect_timeout
        self._tls = tls
        self._changed = threading.Condition()
        self._busy = 0
        self._silent = Silent()
        self._idle: Idle[Connection] = Idle(most)

    def enter(self) -> None:
        """Take one of the places. Raises `Failed` where none is free in time; silent uploads make room."""
        with self._changed:
            until = time.monotonic() + self._timeout
            while self._busy >= self._most:
                now = time.monotonic()
                if now >= until:
                    raise unreachable(f"no connection was free within {self._timeout:g} s: {self._most} are in use")
                self._changed.wait(min(until - now, self._silent.make_room(now)))
            self._busy += 1

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._busy -= 1
            self._changed.notify()

    def silent(self, upload: Upload) -> None:
        """``upload`` waits for its client, from now on."""
        with self._changed:
            self._silent.add(upload, time.monotonic())

    def heard(self, upload: Upload) -> None:
        """It does not any more."""
        with self._changed:
            self._silent.remove(upload)

    def connection(self, origin: Origin, *, used: bool) -> Connection:
        """A connection; with ``used``, one that has been used before will do. Raises `Failed`."""
        now = time.monotonic()
        with self._changed:
            found, closing = self._idle.take(origin, now) if used else (None, [])
            if found is None:
                closing += self._idle.given_up(now, room=self._busy)
        _close(closing)
        return found or self._open(origin)

    def _open(self, origin: Origin) -> Connection:
        try:
            sock = socket.create_connection((origin.host, origin.port), self._timeout)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                keep_alive(sock)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_hostname=origin.host)
                sock.setblocking(False)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise unreachable(f"no connection: {error!r}") from error
        return Connection(origin, sock)

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, if it can serve one."""
        closing = [connection]
        if connection.again():
            with self._changed:
                closing = self._idle.keep(connection, time.monotonic())
        _close(closing)

    def close(self) -> None:
        """Close the idle ones."""
        with self._changed:
            closing = self._idle.take_all()
        _close(closing)

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
