"""What is sent for one request: the application's response, with our headers, or an answer in its place."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from litefs_watch.asgi.late import LateResponse
from litefs_watch.asgi.responder import Responder
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from litefs_watch.consistency import ERROR, Exchange
from litefs_watch.web.several import AsyncGates
from litefs_watch.web.waiting import AsyncGate


@dataclass(slots=True)
class Reply:
    """Made where there is something to add, or to replace; all else goes straight to the server."""

    gate: AsyncGate | AsyncGates
    responder: Responder
    exchange: Exchange
    scope: Scope
    receive: Receive
    send: Send
    late: LateResponse | None = None
    """What holds the response to a write, if one may."""

    def start(self, message: Message) -> Awaitable[None]:
        """The response starts (or a WebSocket is accepted, or closed): is it one to replace, or to add to?

        Called from where the application sends, so that an exception which it is just handling can be seen.
        """
        http = message["type"] == "http.response.start"
        error = None
        if message["type"] != "websocket.accept":
            error = self.exchange.hidden_error(message["status"] if http else 500)
        if error is not None and self.gate.is_fault_of_node(self.exchange, error):
            return self._replace(error, sys.exception(), message)
        return self._begin(message)

    def _begin(self, message: Message) -> Awaitable[None]:
        exchange, http = self.exchange, message["type"] == "http.response.start"
        if self.late is not None and http:
            return self.late.start(message)
        if http and (exchange.touched or exchange.written):
            exchange.scheme = self.scope.get("scheme", "http")
            return self._send_marked(message)
        return self.send(message)

    async def _replace(self, error: BaseException, raised: BaseException | None, message: Message) -> None:
        """Answer instead of the application, if its ``error`` calls for that; else send its ``message``. ``raised`` is what
        it may raise again, afterwards."""
        if not await self.answer(error):
            await self._begin(message)
        elif raised is not None:
            self.exchange.answered = raised

    async def answer(self, error: BaseException) -> bool:
        """Whether it has answered; else the error stays the application's."""
        if (action := await self.gate.failed(self.exchange, error)) is None:
            return False
        self.exchange.answered = error
        await self.responder.respond(action, self.scope, self.receive, self.send)
        return True

    async def answer_reset(self) -> None:
        """Answer for what was read, or written, before a reset."""
        if self.exchange.reset is not None:
            self.exchange.answered = self.exchange.reset
            await self.answer(self.exchange.reset)

    async def send_error(self) -> None:
        """What the server would send for an exception, with our headers; the exception goes on into its log."""
        self.exchange.started = True
        await self._send_marked({"type": "http.response.start", "status": ERROR.status, "headers": ERROR.headers})
        await self.send({"type": "http.response.body", "body": ERROR.body})

    async def _send_marked(self, message: Message) -> None:
        sent = list(message.get("headers", ()))
        position: Any = await self.gate.position(self.exchange)
        await self.gate.replicate(self.exchange, position, message.get("status", 500))
        added = self.gate.headers_at(self.exchange, position, sent)
        if self.exchange.reset is not None:
            await self.answer_reset()
            return
        await self.send({**message, "headers": sent + added} if added else message)
