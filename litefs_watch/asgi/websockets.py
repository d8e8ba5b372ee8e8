"""Sends a WebSocket on to the primary: its handshake, and then the messages of both sides, as they come.

The protocol is wsproto's, which needs no event loop of its own: asyncio and trio alike, on the connections that requests
use. It is h11's sister, and what hypercorn serves with. (websockets and aiohttp bring connections of their own.)
"""

from __future__ import annotations

from typing import Any

import anyio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.asgi.upstream import Connection
from litefs_watch.replay import Forward, HeaderList
from litefs_watch.web.forwarding import Broken, broke_off, late, malformed

DENIAL = "websocket.http.response"
"""The extension by which a server takes an HTTP response in place of a handshake's."""

TRY_ELSEWHERE = 1012
"""'Service restart': the primary broke off. Clients connect again, and may find another one."""

_NORMAL, _NO_STATUS, _ABNORMAL = 1000, 1005, 1006
_OF_THE_HANDSHAKE = b"sec-websocket-"


class Tunnel:
    """One client's WebSocket, and the primary's. ``receive`` has given the ``websocket.connect`` already."""

    def __init__(self, strategy: Forward, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        self._strategy = strategy
        self._connection = connection
        self._scope = scope
        self._receive = receive
        self._send = send
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._writing = anyio.Lock()
        self._pieces: list[Any] = []
        self._denied = False

    async def run(self, target: bytes, headers: HeaderList) -> None:
        """From the handshake to the end of either side. Raises `Failed` where the handshake gets no answer."""
        try:
            with anyio.move_on_after(self._strategy.timeout) as limit:
                accepted = await self._shake_hands(target, headers)
        except (Broken, RemoteProtocolError) as error:
            if self._denied:
                raise  # the server breaks off, too
            raise broke_off(str(error)) from error
        if limit.cancelled_caught:
            raise late(self._strategy.timeout)
        if not accepted:
            return
        closing = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._up, tasks.cancel_scope)
            closing = await self._down()
            tasks.cancel_scope.cancel()
        if closing is not None:
            await self._send(closing)

    async def _shake_hands(self, target: bytes, headers: HeaderList) -> bool:
        """False where the primary refuses, which the client has been told."""
        passed = [(name, value) for name, value in headers if name != b"host" and not name.startswith(_OF_THE_HANDSHAKE)]
        host = next(value for name, value in headers if name == b"host").decode("latin-1")
        try:
            hello = self._protocol.send(
                Request(
                    host=host,
                    target=target.decode("ascii"),
                    subprotocols=list(self._scope.get("subprotocols") or ()),
                    extra_headers=passed,
                )
            )
        except (LocalProtocolError, UnicodeError) as error:
            raise malformed(error) from error
        await self._connection.send(hello)
        while True:
            for event in self._protocol.events():
                if isinstance(event, AcceptConnection):
                    headers = self._strategy.response_headers(event.extra_headers)
                    accept = {"type": "websocket.accept", "subprotocol": event.subprotocol, "headers": headers}
                    await self._send(accept)
                    return True
                if await self._refused(event):
                    return False
            await self._read()

    async def _refused(self, event: Event) -> bool:
        """Tell the client what the primary answers in place of a handshake. Returns whether that was all."""
        if isinstance(event, RejectConnection):
            self._denied = True
            if DENIAL not in (self._scope.get("extensions") or {}):
                await self._send({"type": "websocket.close", "code": _NORMAL})
                return True
            headers = self._strategy.response_headers(event.headers)
            await self._send({"type": f"{DENIAL}.start", "status": event.status_code, "headers": headers})
            if not event.has_body:
                await self._send({"type": f"{DENIAL}.body", "body": b""})
            return not event.has_body
        if isinstance(event, RejectData):
            more = not event.body_finished
            await self._send({"type": f"{DENIAL}.body", "body": bytes(event.data), "more_body": more})
            return not more
        return False

    async def _read(self) -> None:
        data = await self._connection.receive()
        if not data:
            raise Broken("it closed the connection")
        self._protocol.receive_data(data)

    async def _up(self, scope: anyio.CancelScope) -> None:
        """From the client to the primary, until the client is gone."""
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect":
                text = message.get("text")
                await self._write(TextMessage(text) if text is not None else BytesMessage(message.get("bytes") or b""))
            code = message.get("code") or _NO_STATUS
            if code == _NO_STATUS:
                await self._write(CloseConnection(CloseReason.NO_STATUS_RCVD))
            elif code != _ABNORMAL:  # else the primary is to see what this node has seen: an end without a word
                await self._write(CloseConnection(code, message.get("reason") or None))
        except Broken:
            return  # `_down` says so to the client
        scope.cancel()

    async def _down(self) -> dict[str, Any]:
        """From the primary to the client, until the primary closes: how to close to the client."""
        try:
            while True:
                for event in self._protocol.events():
                    if isinstance(event, TextMessage | BytesMessage):
                        await self._pass_on(event)
                    elif isinstance(event, Ping):
                        await self._write(event.response())
                    elif isinstance(event, CloseConnection):
                        await self._write(event.response())
                        code = _NORMAL if event.code == _NO_STATUS else event.code
                        return {"type": "websocket.close", "code": int(code), "reason": event.reason or ""}
                await self._read()
        except (Broken, RemoteProtocolError):
            return {"type": "websocket.close", "code": TRY_ELSEWHERE, "reason": "the primary broke off"}

    async def _pass_on(self, event: TextMessage | BytesMessage) -> None:
        self._pieces.append(event.data)
        if not event.message_finished:
            return
        pieces, self._pieces = self._pieces, []
        if isinstance(event, TextMessage):
            await self._send({"type": "websocket.send", "text": "".join(pieces)})
        else:
            await self._send({"type": "websocket.send", "bytes": b"".join(pieces)})

    async def _write(self, event: Event) -> None:
        async with self._writing:
            try:
                data = self._protocol.send(event)
            except LocalProtocolError as error:  # the other side is closing already
                raise Broken(str(error)) from error
            await self._connection.send(data)
