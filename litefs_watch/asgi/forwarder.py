"""Sends a request on to the primary, and streams its answer back. Nothing is buffered, in either direction."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import anyio

from litefs_watch.asgi.types import Message, Receive, Scope, Send
from litefs_watch.consistency import named
from litefs_watch.replay import Forward, target
from litefs_watch.web.forwarding import FAILED, KEEP_ALIVE, failure_of, httpcore2, timeouts_of

logger = logging.getLogger("litefs_watch")


class ClientGone(Exception):
    """The client hung up before its request was complete."""


class Forwarder:
    """The connections of one node, ``own``, to the primary. Belongs to one event loop, until it is closed."""

    def __init__(self, strategy: Forward, own: str) -> None:
        self._strategy = strategy
        self._own = own
        self._tls = httpcore2.default_ssl_context() if strategy.template.startswith("https:") else None
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._timeouts = timeouts_of(strategy)

    async def aclose(self) -> None:
        """Close the idle connections. The next request opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def forward(self, scope: Scope, receive: Receive, send: Send, hostname: str) -> None:
        """Have the node ``hostname`` answer. When the client hangs up, the connection to that node is closed too."""
        request = _Request(receive)
        if not await request.begin():
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:

            async def hang_up() -> None:
                await request.hung_up()
                tasks.cancel_scope.cancel()

            tasks.start_soon(hang_up)
            try:
                failure = await self._exchange(scope, request, send, hostname)
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _exchange(self, scope: Scope, request: _Request, send: Send, hostname: str) -> Exception | None:
        """Returns what broke the answer off when it had begun: the server then breaks off, too."""
        started = False
        try:
            async with self._send_on(scope, request, hostname) as response:
                headers = self._strategy.response_headers(response.headers)
                started = True
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                async for chunk in response.aiter_stream():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except ClientGone:
            return None
        except FAILED as error:
            logger.warning("forwarding %s to %s failed: %r", named(scope["method"], scope["path"]), hostname, error)
            if started:
                return error
            answer = failure_of(error)
            await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
            await send({"type": "http.response.body", "body": answer.body})
        return None

    def _send_on(self, scope: Scope, request: _Request, hostname: str) -> AbstractAsyncContextManager[httpcore2.Response]:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls,
                max_connections=self._strategy.max_connections,
                keepalive_expiry=KEEP_ALIVE,
                network_backend=httpcore2.AnyIOBackend(),
            )
        path = target(scope["path"], scope.get("raw_path"), scope["query_string"])
        client = scope.get("client")
        return self._pool.stream(
            scope["method"],
            self._strategy.url(hostname, ""),
            headers=self._strategy.request_headers(
                scope["headers"],
                own=self._own,
                scheme=scope.get("scheme", "http"),
                client=client[0] if client else None,
                body=request.has_body,
            ),
            content=request.body() if request.has_body else None,
            extensions={"timeout": self._timeouts, "target": path.encode()},
        )


class _Request:
    """The body of a request on its way through, and the client that may hang up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._next: Message = {}
        self._read = anyio.Event()
        self.has_body = False

    async def begin(self) -> bool:
        """Look at the first piece. False where the client is gone already."""
        self._next = await self._receive()
        if self._next["type"] == "http.disconnect":
            return False
        self.has_body = bool(self._next.get("body")) or self._next.get("more_body", False)
        if not self.has_body:
            self._read.set()
        return True

    async def body(self) -> AsyncIterator[bytes]:
        while True:
            if body := self._next.get("body", b""):
                yield body
            if not self._next.get("more_body", False):
                break
            self._next = await self._receive()
            if self._next["type"] == "http.disconnect":
                raise ClientGone
        self._read.set()

    async def hung_up(self) -> None:
        """Return when the client hangs up. It is `body` that notices until the body is read."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
