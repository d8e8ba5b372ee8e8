"""LiteFS's HTTP API (``http.addr``) on loopback: ``/events``, ``/info``, ``/promote``, byte for byte as Go serves them.

One thread, a selector, non-blocking sockets. An event is written to the sockets by the thread that caused it, so nothing
delays it; only what a slow reader's socket does not take waits here, up to the 1,024 events that LiteFS keeps.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from litefs_watch.testing.http1 import Response, chunk, error, head, now

EVENT_BUFFER = 1024
"""Events that wait for a slow reader before it is cut off (LiteFS's ``EventChannelBufferSize``)."""
TICK = 1.0
"""Seconds between two heartbeats of a primary (LiteFS's ``http.HeartbeatInterval``)."""
_REQUEST_LIMIT = 64 * 1024
_LAST_CHUNK = b"0\r\n\r\n"
# Below the ports that the system gives to outgoing connections: else, while this node is down, a client that reconnects over
# and over may be given this very port, and so reach itself.
_PORTS = range(20_300, 32_000)


class ApiServer:
    """Serves one node. Every method but `start` and `stop` is called with ``lock`` held, which is the node's own.

    ``opening`` gives the event that opens a stream; ``route`` answers ``(method, path)``; ``tick`` is called once a second;
    ``before_answer``, without the lock, when requests have come.
    """

    def __init__(
        self,
        lock: threading.RLock,
        *,
        opening: Callable[[], bytes],
        route: Callable[[str, str], Response],
        tick: Callable[[], None],
        before_answer: Callable[[], object],
        headers: Mapping[str, str],
    ) -> None:
        self._lock = lock
        self._changed = threading.Condition(lock)
        self._opening = opening
        self._route = route
        self._tick = tick
        self._before_answer = before_answer
        self._headers = headers
        self._thawed = threading.Event()
        self._thawed.set()
        self._stopping = False
        self._connections: set[_Connection] = set()
        self.port: int = 0
        self.stream_available = True
        self.instead: Response | None = None
        """The answer to everything, while another program stands in LiteFS's place."""
        self.accepted: int = 0
        self.events: int = 0

    def start(self, port: int) -> None:
        """Listen on ``port``, 0 for any free one. Raises `OSError` when the port is taken."""
        self._listener = _listen(port)
        self.port = self._listener.getsockname()[1]
        self._waker, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for sock in (self._listener, self._waker, self._woken):
            sock.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._drain_wakes)
        self._thread = threading.Thread(target=self._run, name=f"litefs_watch simulated API {self.port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every connection and the thread, and give the port back. Not with the lock held."""
        with self._lock:
            self._stopping = True
            self._thawed.set()
            self.wake()
        self._thread.join()
        with self._lock:
            self._changed.notify_all()

    @property
    def streams(self) -> int:
        """How many event streams work."""
        return sum(connection.streaming and not connection.half_open for connection in self._connections)

    def wait_for_streams(self, enough: Callable[[int], bool], timeout: float) -> bool:
        return self._changed.wait_for(lambda: enough(self.streams), timeout)

    def publish(self, line: bytes) -> None:
        """Send an event to every stream."""
        self.events += 1
        self.push(chunk(line))

    def push(self, data: bytes) -> None:
        """Send bytes, as they are, on every stream's connection."""
        for connection in [c for c in self._connections if c.streaming and not c.half_open]:
            connection.send(data)

    def drop_streams(self) -> None:
        """Cut every stream, without the chunk that would end it properly."""
        for connection in [c for c in self._connections if c.streaming]:
            self.close(connection)

    def half_open_streams(self) -> None:
        """Let every stream stay open, and send nothing on it any more."""
        for connection in [c for c in self._connections if c.streaming]:
            connection.half_open = True
            connection.forget_unsent()
        self._changed.notify_all()

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    # The thread.

    def _run(self) -> None:
        next_tick = time.monotonic() + TICK
        while True:
            ready = self._selector.select(max(0.0, next_tick - time.monotonic()))
            self._thawed.wait()  # frozen: the system still takes connections, nobody answers them
            own = (self._listener, self._woken)
            if any(mask & selectors.EVENT_READ and key.fileobj not in own for key, mask in ready):
                self._before_answer()
            with self._lock:
                if self._stopping:
                    break
                if not self._thawed.is_set():
                    continue
                for key, mask in ready:
                    key.data(mask)
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + TICK
                    self._tick()
        with self._lock:
            for connection in list(self._connections):
                self.close(connection)
        self._selector.close()
        for sock in (self._listener, self._waker, self._woken):
            sock.close()

    def _drain_wakes(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        for connection in list(self._connections):
            connection.flush()

    def _accept(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, sock)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection.ready)
            self.accepted += 1

    def watch_writes(self, connection: _Connection, wanted: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(connection.sock, events, connection.ready)

    def close(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            connection.streaming = False
            self._selector.unregister(connection.sock)
            connection.sock.close()
            self._changed.notify_all()

    def answer(self, connection: _Connection, method: str, path: str, *, last: bool) -> None:
        if self.instead is not None:
            connection.send(self.instead.encode(close=True))
            connection.end()
        elif path == "/events" and method == "GET":
            if not self.stream_available:
                self.close(connection)
                return
            headers = {**self._headers, "Content-Type": "application/json", "Date": now()}
            connection.send(head(200, {**headers, "Transfer-Encoding": "chunked"}) + chunk(self._opening()))
            connection.streaming = True
            self._changed.notify_all()
        else:
            response = self._route(method, path)
            response = Response(response.status, response.body, {**self._headers, **response.headers})
            connection.send(response.encode(close=last))
            if last:
                connection.end()


class _Connection:
    """One client: requests one after the other, the last of which may be a stream."""

    def __init__(self, server: ApiServer, sock: socket.socket) -> None:
        self._server = server
        self.sock = sock
        self.streaming: bool = False
        self.half_open = False
        self._inbox = b""
        self._outbox: deque[bytes] = deque()
        self._watching_writes = False
        self._ending = False

    def send(self, data: bytes) -> None:
        """Write now what the socket takes; keep the rest, up to LiteFS's limit for a stream."""
        if not self._outbox:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._server.close(self)
                return
            if not data:
                return
            self._server.wake()
        self._outbox.append(data)
        if self.streaming and len(self._outbox) > EVENT_BUFFER:
            self.streaming = False  # LiteFS closes the channel: what is in it is still sent, then the stream ends properly
            self._outbox[-1] = _LAST_CHUNK
            self.end()

    def end(self) -> None:
        """Close once everything is sent."""
        self._ending = True
        if not self._outbox:
            self._server.close(self)

    def forget_unsent(self) -> None:
        self._outbox.clear()

    def flush(self) -> None:
        try:
            while self._outbox:
                rest = self._outbox[0][self.sock.send(self._outbox[0]) :]
                if rest:
                    self._outbox[0] = rest
                else:
                    self._outbox.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._server.close(self)
            return
        if self._ending and not self._outbox:
            self._server.close(self)
        elif bool(self._outbox) != self._watching_writes:
            self._watching_writes = bool(self._outbox)
            self._server.watch_writes(self, self._watching_writes)

    def ready(self, mask: int) -> None:
        if self.sock.fileno() < 0:
            return  # closed since the selector saw it
        if mask & selectors.EVENT_WRITE:
            self.flush()
        if mask & selectors.EVENT_READ and self.sock.fileno() >= 0:
            try:
                data = self.sock.recv(_REQUEST_LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._server.close(self)
            elif not self.streaming and not self._ending:
                self._inbox += data
                self._serve()

    def _serve(self) -> None:
        while not self.streaming and not self._ending and self.sock.fileno() >= 0:
            head, separator, rest = self._inbox.partition(b"\r\n\r\n")
            if not separator:
                if len(head) > _REQUEST_LIMIT:
                    self._server.close(self)
                return
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            length = headers.get("content-length", "0")
            words = request.split(" ")
            if len(words) != 3 or not length.isdecimal():
                self.send(error(400, "400 Bad Request").encode(close=True))
                self.end()
                return
            if len(rest) < int(length):
                return
            self._inbox = rest[int(length) :]
            method, target, version = words
            last = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
            self._server.answer(self, method, target.partition("?")[0], last=last)


def _listen(port: int) -> socket.socket:
    candidates = [port] if port else [*random.sample(_PORTS, 50), 0]
    for candidate in candidates:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", candidate))
            sock.listen(128)
        except OSError:
            sock.close()
            if candidate == candidates[-1]:
                raise
        else:
            return sock
    raise OSError("no free port")  # not reached: the last candidate either listens or raises
