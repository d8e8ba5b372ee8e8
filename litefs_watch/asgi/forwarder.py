"""Sends a request on to the primary, and streams its answer back, both at the same time. Nothing is buffered."""

from __future__ import annotations

import math
import ssl

import anyio

from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.asgi.upload import Upload
from litefs_watch.asgi.upstream import Connection, Pool
from litefs_watch.asgi.wire_path import wire_path
from litefs_watch.consistency import Answer, named, refusal
from litefs_watch.replay import Forward, HeaderList, as_it_came
from litefs_watch.web.forwarding import Broken, Ended, Failed, Failures, Head, Origin, broke_off, late, unreachable

_SCHEMES = {"https": "https", "wss": "https"}
"""What proxies call a request's scheme, a WebSocket's, too."""


class Forwarder:
    """The connections of one node, ``own``, to the primary. Belongs to one event loop, until it is closed."""

    def __init__(self, strategy: Forward, own: str) -> None:
        self._strategy = strategy
        self._own = own
        self._failures = Failures()
        self._tls = ssl.create_default_context() if strategy.template.startswith("https:") else None
        self._pool: Pool | None = None
        self._websockets: Pool | None = None  # apart: they stay for as long as they like

    async def aclose(self) -> None:
        """Close the idle connections. The next request opens new ones."""
        pool, self._pool, self._websockets = self._pool, None, None
        if pool is not None:
            pool.close()

    async def forward(self, scope: Scope, receive: Receive, send: Send, hostname: str, state: str = "") -> None:
        """Have the node ``hostname`` answer, which gets ``state``. When the client hangs up, the connection to that node is
        closed too."""
        if self._pool is None:
            self._pool = Pool(self._strategy.max_connections, self._strategy.connect_timeout, self._tls)
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        limits = (self._strategy.silent_for, self._strategy.timeout)
        upload = Upload(receive, length, *limits, self._pool.silent)
        failure: Failed | None = None
        is_there = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upload.run, tasks.cancel_scope.cancel)
            request = _Request(self._strategy, self._own, scope, receive, hostname, state)
            failure = await self._answer(request, self._pool, upload, send)
            is_there = True
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if is_there:  # with nobody listening: some servers say that the client is gone as soon as they have the end
            await send({"type": "http.response.body", "body": b""})

    async def forward_websocket(
        self, scope: Scope, receive: Receive, send: Send, hostname: str, state: str = ""
    ) -> Answer | None:
        """Have the node ``hostname`` take a WebSocket that is not accepted yet. Where it can't, what to answer."""
        request = _Request(self._strategy, self._own, scope, receive, hostname, state)
        try:
            from litefs_watch.asgi.websockets import Tunnel
        except ImportError:
            answer = refusal("A WebSocket can't be sent on from here. Connect to the primary.")
            self._failures.say(request, Failed(answer, "it needs wsproto: pip install 'litefs-watch[forward]'"))
            return answer
        if self._websockets is None:
            self._websockets = Pool(self._strategy.max_connections, self._strategy.connect_timeout, self._tls)
        if (await receive())["type"] != "websocket.connect":
            return None
        try:
            async with self._websockets.place(), self._websockets.new(request.origin) as connection:
                tunnel = Tunnel(self._strategy, connection, scope, receive, send)
                await tunnel.run(request.target, request.headers(body=False))
        except Failed as failure:
            self._failures.say(request, failure)
            return failure.answer
        return None

    async def _answer(self, request: _Request, pool: Pool, upload: Upload, send: Send) -> Failed | None:
        """All of it but its end. Returns what broke it off when it had begun: the server then breaks off, too."""
        exchange = _Exchange(request, pool, upload, self._strategy.timeout)
        try:
            await upload.begin()
            async with pool.place():
                await exchange.run(send, self._strategy)
        except Failed as failure:
            self._failures.say(request, failure)
            if exchange.answered:
                return failure
            headers = list(failure.answer.headers)
            if failure.answer.status == 408 and request.scope.get("http_version", "1.1").startswith("1"):
                headers.append((b"connection", b"close"))  # RFC 9110, 15.5.9; what the client sends now is no request
            await send({"type": "http.response.start", "status": failure.answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": failure.answer.body, "more_body": True})
        if not upload.is_sent:
            await upload.settle()
        return None


class _Request:
    """A request as the primary gets it."""

    def __init__(self, strategy: Forward, own: str, scope: Scope, receive: Receive, hostname: str, state: str) -> None:
        self.scope = scope
        self._receive = receive
        self.hostname = hostname
        self.origin = Origin.of(strategy.url(hostname, ""))
        self._strategy = strategy
        self._own = own
        self._state = state

    def __str__(self) -> str:
        return f"{named(self.scope.get('method', 'a WebSocket'), self.scope['path'])} to {self.hostname}"

    @property
    def target(self) -> bytes:
        query = self.scope["query_string"]
        path = wire_path(self.scope, self._receive)
        return self.origin.path + as_it_came(path + b"?" + query if query else path)

    def headers(self, *, body: bool) -> HeaderList:
        client = self.scope.get("client")
        headers = self._strategy.request_headers(
            self.scope["headers"],
            own=self._own,
            scheme=_SCHEMES.get(self.scope.get("scheme", "http"), "http"),
            client=client[0] if client else None,
            body=body,
            state=self._state,
        )
        return headers if any(name == b"host" for name, _ in headers) else [(b"host", self.origin.authority), *headers]


class _Exchange:
    """One request and its answer."""

    def __init__(self, request: _Request, pool: Pool, upload: Upload, timeout: float) -> None:
        self._request = request
        self._pool = pool
        self._upload = upload
        self._timeout = timeout
        self._failure: Failed | None = None
        self._reading: anyio.CancelScope | None = None
        self.answered = False
        """Whether the answer has begun, here and for the client."""

    async def run(self, send: Send, strategy: Forward) -> None:
        """Have it answered, but for the end of the body. Raises `Failed`."""
        connection, head = await self._ask()
        try:
            self._upload.answered()
            self.answered = True
            headers = strategy.response_headers(head.headers)
            await send({"type": "http.response.start", "status": head.status, "headers": headers})
            while isinstance(piece := await self._read(connection), bytes):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if self._upload.is_sent:
                self._pool.give_back(connection)
            else:
                connection.close()
        except Broken as error:
            connection.close()
            raise broke_off(str(error)) from error
        except BaseException:
            connection.close()
            raise

    async def _ask(self) -> tuple[Connection, Head]:
        """The head of the answer, and where it came from. What has certainly not reached anybody is sent again, if it is all
        here; a connection that was used before may have been closed in that very moment."""
        request, upload = self._request, self._upload
        headers = request.headers(body=not upload.is_empty)
        while True:
            connection = await self._pool.connection(request.origin, used=upload.in_hand)
            try:
                await self._start(connection, request.scope["method"], request.target, headers)
                while not isinstance(head := await self._read(connection), Head):
                    pass
            except Broken as error:
                unheard = connection.took_nothing
                connection.close()
                if not unheard:
                    raise broke_off(str(error)) from error
                if not (connection.used and upload.in_hand):
                    raise unreachable(str(error)) from error
            except BaseException:
                connection.close()
                raise
            else:
                return connection, head

    async def _start(self, connection: Connection, method: str, target: bytes, headers: HeaderList) -> None:
        """Send the head, and the body that is here; the upload sends what comes later."""
        upload = self._upload
        data = connection.begin(method, target, headers)
        if upload.in_hand:
            data += connection.encode(upload.first, end=True)
        with anyio.move_on_after(self._timeout) as limit:
            try:
                await connection.send(data)
            except Broken:
                if connection.took_nothing:
                    raise
        if limit.cancelled_caught:
            raise late(self._timeout)
        if not upload.in_hand:
            upload.go(connection, self._fail, self._progress)

    async def _read(self, connection: Connection) -> Head | bytes | Ended:
        """What comes next of the answer."""
        while (event := connection.next()) is None:
            with anyio.CancelScope() as self._reading:
                self._progress()
                data = b"" if self._failure is not None else await connection.receive()
            if self._failure is not None:
                raise self._failure
            if self._reading.cancelled_caught:
                raise late(self._timeout)
            connection.feed(data)
        return event

    def _progress(self) -> None:
        """Something has happened: the primary has the whole timeout again. While it has to wait, it has any time."""
        if self._reading is not None:
            patient = self._upload.is_over or self.answered
            self._reading.deadline = anyio.current_time() + self._timeout if patient else math.inf

    def _fail(self, failure: Failed) -> None:
        """The upload can't go on: that ends the exchange."""
        self._failure = failure
        if self._reading is not None:
            self._reading.cancel()
