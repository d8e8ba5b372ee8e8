"""Sends a request on to the primary, and streams its answer back, both at the same time. Nothing is buffered."""

from __future__ import annotations

import math
import os
import ssl
import time
import weakref
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from litefs_watch.consistency import named
from litefs_watch.replay import Forward, HeaderList
from litefs_watch.web.forwarding import Broken, Ended, Failed, Failures, Head, Origin, broke_off, late, silent, unreachable
from litefs_watch.wsgi.environ import Body, entity_headers_of, headers_of, path_of, wire_target_of
from litefs_watch.wsgi.upload import Upload
from litefs_watch.wsgi.upstream import Connection, Pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Forwarder:
    """The connections of one node, ``own``, to the primary. For any number of threads; a child after a fork has its own."""

    def __init__(self, strategy: Forward, own: str) -> None:
        self._strategy = strategy
        self._own = own
        self.failures: Failures = Failures()
        self._tls = ssl.create_default_context() if strategy.template.startswith("https:") else None
        self._pools: dict[int, Pool] = {}
        weakref.finalize(self, _close, self._pools)

    def forward(
        self, environ: WSGIEnvironment, start_response: StartResponse, body: Body, hostname: str, state: str = ""
    ) -> Iterator[bytes]:
        """Have the node ``hostname`` answer: what comes of its body, once the response has been started. ``state`` travels
        with it."""
        pool = self.pool()
        upload = Upload(environ, body, pool, self._strategy.timeout)
        exchange = _Exchange(self._strategy, pool, upload, _Request(self._strategy, self._own, environ, hostname, state))
        try:
            return _Stream(self, exchange.begin(start_response), exchange)
        except Failed as failure:
            self.failures.say(exchange.request, failure)
            _start(start_response, failure.answer.status, list(failure.answer.headers))
            return _Stream(self, iter([failure.answer.body]), exchange)
        except BaseException:
            exchange.close()
            raise

    def pool(self) -> Pool:
        """This process's."""
        process = os.getpid()
        if process not in self._pools:
            self._pools[process] = Pool(self._strategy.max_connections, self._strategy.connect_timeout, self._tls)
        return self._pools[process]


def _close(pools: dict[int, Pool]) -> None:
    """Close this process's idle connections. Those of a parent are the parent's."""
    if (pool := pools.get(os.getpid())) is not None:
        pool.close()


class _Request:
    """A request as the primary gets it."""

    def __init__(self, strategy: Forward, own: str, environ: WSGIEnvironment, hostname: str, state: str) -> None:
        self.method = environ["REQUEST_METHOD"]
        self.origin = Origin.of(strategy.url(hostname, ""))
        self.target = self.origin.path + wire_target_of(environ)
        self._environ = environ
        self._hostname = hostname
        self._strategy = strategy
        self._own = own
        self._state = state

    def __str__(self) -> str:
        return f"{named(self.method, path_of(self._environ))} to {self._hostname}"

    def headers(self, *, body: bool) -> HeaderList:
        headers = self._strategy.request_headers(
            headers_of(self._environ) + entity_headers_of(self._environ),
            own=self._own,
            scheme=self._environ.get("wsgi.url_scheme", "http"),
            client=self._environ.get("REMOTE_ADDR"),
            body=body,
            state=self._state,
        )
        return headers if any(name == b"host" for name, _ in headers) else [(b"host", self.origin.authority), *headers]


class _Exchange:
    """One request and its answer."""

    def __init__(self, strategy: Forward, pool: Pool, upload: Upload, request: _Request) -> None:
        self.request = request
        self._strategy = strategy
        self._pool = pool
        self._upload = upload
        self._connection: Connection | None = None
        self._has_place = False
        self._heard_at = 0.0
        self._answered = False

    def begin(self, start_response: StartResponse) -> Iterator[bytes]:
        """Have it answered: what comes of the answer's body. Raises `Failed` where it does not begin."""
        self._upload.begin()
        self._pool.enter()
        self._has_place = True
        connection, head = self._ask()
        self._upload.answered()
        self._answered = True
        _start(start_response, head.status, self._strategy.response_headers(head.headers))
        return self._body(connection)

    def _body(self, connection: Connection) -> Iterator[bytes]:
        """Raises `Failed` where it breaks off."""
        try:
            while isinstance(piece := self._read(connection), bytes):
                yield piece
        except Broken as error:
            raise broke_off(str(error)) from error
        if self._upload.is_sent:
            self._connection = None
            self._pool.give_back(connection)

    def close(self) -> None:
        """Close the connection, where it was not given back; give up the place. No thread is left behind."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._has_place:
            self._has_place = False
            self._pool.leave()
        self._upload.settle()
        if connection is not None:
            connection.close()

    def _ask(self) -> tuple[Connection, Head]:
        """The head of the answer, and where it came from. What has certainly not reached anybody is sent again, if it is all
        here; a connection that was used before may have been closed in that very moment."""
        upload, request = self._upload, self.request
        headers = request.headers(body=not upload.is_empty)
        while True:
            connection = self._connection = self._pool.connection(request.origin, used=upload.in_hand)
            try:
                self._send(connection, headers)
                while not isinstance(head := self._read(connection), Head):
                    pass
            except Broken as error:
                if not connection.took_nothing:
                    raise broke_off(str(error)) from error
                if not (connection.used and upload.in_hand):
                    raise unreachable(str(error)) from error
                connection.close()
            else:
                return connection, head

    def _send(self, connection: Connection, headers: HeaderList) -> None:
        """Send the head, and the body that is here; the upload sends what comes later."""
        upload = self._upload
        data = connection.begin(self.request.method, self.request.target, headers)
        if upload.in_hand:
            data += connection.encode(upload.first, end=True)
        try:
            connection.send(data, self._strategy.timeout)
        except Broken:
            if connection.took_nothing:
                raise
        if not upload.in_hand:
            upload.go(connection)
        self._heard_at = time.monotonic()

    def _read(self, connection: Connection) -> Head | bytes | Ended:
        """What comes next of the answer."""
        try:
            event = connection.read(self._deadline)
        except Broken:
            if self._upload.failure is not None:
                raise self._upload.failure from None
            raise
        if event is None:
            if self._is_patient:
                raise late(self._strategy.timeout)
            raise silent(f"the client was silent for {self._strategy.silent_for:g} s")
        self._heard_at = time.monotonic()
        return event

    @property
    def _is_patient(self) -> bool:
        """Whether it is the primary that is waited for, and no longer the client."""
        return self._upload.is_over or self._answered

    def _deadline(self) -> float:
        if self._is_patient:
            return max(self._heard_at, self._upload.moved_at) + self._strategy.timeout
        since = self._upload.silent_since
        return math.inf if since is None else since + self._strategy.silent_for


class _Stream:
    """The body of the answer, which the server iterates, and closes."""

    def __init__(self, forwarder: Forwarder, chunks: Iterator[bytes], exchange: _Exchange) -> None:
        self._forwarder = forwarder  # whose connections are closed when nobody holds it any more
        self._chunks = chunks
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except Failed as failure:
            self._forwarder.failures.say(self._exchange.request, failure)
            raise
        except StopIteration:
            self.close()  # before the server turns to what the client sends next
            raise

    def close(self) -> None:
        """Give the connection back, or close it where the answer was not read to its end."""
        self._exchange.close()


def _start(start_response: StartResponse, status: int, headers: HeaderList) -> None:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    start_response(f"{status} {phrase}", [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
