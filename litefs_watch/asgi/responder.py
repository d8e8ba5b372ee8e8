"""Answers the requests that can't run here: with an `Answer`, or by sending them to the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litefs_watch.asgi.types import Message, Receive, Scope, Send, Strategy
from litefs_watch.consistency import Action, Answer, Refuse, Replay, named, refusal
from litefs_watch.errors import ConfigError
from litefs_watch.printable import by_name
from litefs_watch.replay import BODY_TAKEN, NOT_COUNTED, Answering, Forward, target
from litefs_watch.web.seldom import Refusals

if TYPE_CHECKING:
    from litefs_watch.asgi.forwarder import Forwarder

TRY_AGAIN_LATER = 1013
"""The code of a WebSocket's close, for now (RFC 6455's registry)."""

_HTTP_ONLY = ("A WebSocket can't be sent on from here. Connect to the primary.", "use FlyReplay or Redirect for WebSockets")


class Responder:
    """One middleware's ``replay=``, for the node ``hostname``. Raises `ConfigError` for what is no strategy."""

    def __init__(self, strategy: Answering | Forward | Strategy, hostname: str) -> None:
        self._refusals = Refusals()
        self._forwarder: Forwarder | None = None
        self._answering = strategy if isinstance(strategy, Answering) else None
        if isinstance(strategy, Forward):
            from litefs_watch.asgi.forwarder import Forwarder  # needs an extra

            self._forwarder = Forwarder(strategy, hostname)
        elif not isinstance(strategy, Answering) and not callable(strategy):
            raise ConfigError(
                f"replay: FlyReplay(), Redirect(...), Forward(...) or an async function, not {by_name(strategy)}"
            )
        self._strategy: Strategy | None = None if isinstance(strategy, Forward | Answering) else strategy

    @property
    def needs_body(self) -> bool:
        """Whether a replay needs the request's body: the application is then to get a `Body` for its ``receive``."""
        return self._answering is None

    async def respond(self, action: Action, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as decided: `Replay` or `Refuse`. ``receive`` may be a `Body`."""
        if isinstance(action, Replay):
            if self._answering is not None:
                path = target(scope["path"], scope.get("raw_path"), scope["query_string"])
                await _send(self._answering.answer(action.hostname, path, action.state), scope, send)
                return
            taken_over = receive.again if isinstance(receive, Body) else receive
            if scope["type"] == "websocket" and self._forwarder is not None:
                answer = await self._forwarder.forward_websocket(scope, taken_over, send, action.hostname, action.state)
                if answer is not None:
                    await _send(answer, scope, send)
                return
            if scope["type"] != "http":
                action = Refuse(*_HTTP_ONLY)
            elif isinstance(receive, Body) and receive.taken:
                action = Refuse(*BODY_TAKEN)
            elif self._forwarder is not None:
                await self._forwarder.forward(scope, taken_over, send, action.hostname, action.state)
                return
            elif self._strategy is not None and action.hops == 1:
                await self._strategy(scope, taken_over, send, action.hostname)
                return
            else:
                action = Refuse(*NOT_COUNTED)
        if not isinstance(action, Refuse):
            raise TypeError(f"not an answer: {action}")
        self._refusals.say(action, named(scope.get("method", "a WebSocket"), scope["path"]))
        await _send(refusal(action.reason, action.status, action.headers), scope, send)

    async def aclose(self) -> None:
        """Close the connections to the primary."""
        if self._forwarder is not None:
            await self._forwarder.aclose()


class Body:
    """A request's ``receive`` that knows whether the application has taken some of the body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._empty: Message | None = None
        self.taken: bool = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            if message.get("body") or message.get("more_body"):
                self.taken = True
            else:
                self._empty = message
        elif message["type"] == "websocket.connect":
            self._empty = message
        return message

    async def again(self) -> Message:
        """``receive`` for who takes over: the end of a body that was empty, or a WebSocket's beginning, comes once more."""
        if self._empty is not None:
            empty, self._empty = self._empty, None
            return empty
        return await self._receive()


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    """The whole answer: an HTTP response, or, before a WebSocket is accepted, its denial."""
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            reason = "not on this node: connect to the primary"
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": f"{prefix}http.response.body", "body": answer.body})
