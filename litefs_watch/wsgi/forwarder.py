"""Sends a request on to the primary, and streams its answer back. Nothing is buffered, in either direction."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING

from litefs_watch.consistency import Answer, named
from litefs_watch.replay import Forward
from litefs_watch.web.forwarding import FAILED, KEEP_ALIVE, failure_of, httpcore2, timeouts_of
from litefs_watch.wsgi.environ import Body, entity_headers_of, headers_of, path_of, target_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger("litefs_watch")


class Forwarder:
    """The connections of one node, ``own``, to the primary. For any number of threads; a child after a fork has its own."""

    def __init__(self, strategy: Forward, own: str) -> None:
        self._strategy = strategy
        self._own = own
        self._tls = httpcore2.default_ssl_context() if strategy.template.startswith("https:") else None
        self._pools: dict[int, httpcore2.ConnectionPool] = {}
        self._timeouts = timeouts_of(strategy)
        weakref.finalize(self, _close, self._pools)

    def forward(
        self, environ: WSGIEnvironment, start_response: StartResponse, body: Body, hostname: str
    ) -> Iterator[bytes] | Answer:
        """Have the node ``hostname`` answer: what comes of its body, once the response has been started. An answer of this
        node's own where that fails."""
        headers = self._strategy.request_headers(
            headers_of(environ) + entity_headers_of(environ),
            own=self._own,
            scheme=environ.get("wsgi.url_scheme", "http"),
            client=environ.get("REMOTE_ADDR"),
            body=bool(body),
        )
        with ExitStack() as stack:
            try:
                response = stack.enter_context(
                    self._pool().stream(
                        environ["REQUEST_METHOD"],
                        self._strategy.url(hostname, ""),
                        headers=headers,
                        content=body.chunks() if body else None,
                        extensions={"timeout": self._timeouts, "target": target_of(environ).encode()},
                    )
                )
            except EOFError as error:
                return Answer.of(400, text=f"{error}\n")
            except FAILED as error:
                what = named(environ["REQUEST_METHOD"], path_of(environ))
                logger.warning("forwarding %s to %s failed: %r", what, hostname, error)
                return failure_of(error)
            sent = self._strategy.response_headers(response.headers)
            start_response(
                _status(response.status), [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent]
            )
            return _Stream(self, response, stack.pop_all())

    def _pool(self) -> httpcore2.ConnectionPool:
        process = os.getpid()
        if process not in self._pools:
            self._pools[process] = httpcore2.ConnectionPool(
                ssl_context=self._tls, max_connections=self._strategy.max_connections, keepalive_expiry=KEEP_ALIVE
            )
        return self._pools[process]


def _close(pools: dict[int, httpcore2.ConnectionPool]) -> None:
    """Close this process's idle connections. Those of a parent are the parent's."""
    if (pool := pools.get(os.getpid())) is not None:
        pool.close()


class _Stream:
    """The body of the primary's answer, which the server iterates, and closes."""

    def __init__(self, forwarder: Forwarder, response: httpcore2.Response, connection: ExitStack) -> None:
        self._forwarder = forwarder  # whose connections are closed when nobody holds it any more
        self._chunks = response.iter_stream()
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return bytes(next(self._chunks))

    def close(self) -> None:
        """Give the connection back, or close it where the answer was not read to its end."""
        self._connection.close()


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"{code} Status"
