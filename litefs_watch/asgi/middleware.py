"""`LiteFSMiddleware`: does what `litefs_watch.consistency` decides."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Unpack

import anyio

from litefs_watch.asgi.reports import listen_for_reports
from litefs_watch.asgi.responder import Body, Responder
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send, Strategy
from litefs_watch.consistency import (
    RUN,
    SCOPE_KEY,
    Action,
    Exchange,
    Hold,
    Node,
    OptionKeywords,
    Options,
    Policy,
    Refuse,
    Wait,
)
from litefs_watch.errors import WaitTimeout, WatcherClosed
from litefs_watch.position import Position
from litefs_watch.replay import Answering, FlyReplay, Forward
from litefs_watch.state import Role
from litefs_watch.watcher import Watcher

logger = logging.getLogger("litefs_watch")

READ_TIMEOUT = 1.0
"""Seconds for the read of ``-pos`` when a response starts: a frozen LiteFS blocks it for as long as it is frozen."""


_NOW_PRIMARY = Refuse("This node has just become the primary. Try again.", "a write was refused, and then the role changed")


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Pure ASGI; put it outermost.

    - A write (POST, PUT, PATCH, DELETE, any path of ``primary_paths``) on a replica is replayed to the primary, before its
      body is read.
    - A read on a replica waits, before the application runs, for the TXID that the client's cookie or header carries.
    - A response to a write on the primary carries the TXID in that cookie and header; after a GET that writes, call
      `mark_written`.
    - `watcher.ensure_primary`, ``ensure_instance``, and a write that SQLite refuses on a replica, raised before the response
      has started, are answered with the replay too. Django's and Quart's own error pages are replaced.
    - WebSockets are denied before they are accepted where their path is one of ``primary_paths``, or the handler raises
      `NotPrimary`; all else is passed through, and nothing is buffered.

    ``database`` is the watcher's own without it. ``replay`` is `FlyReplay` (the default), `Redirect`, `Forward`, or an
    ``async def (scope, receive, send, hostname)`` that answers an HTTP request. The other options, with their units and
    defaults, are those of `litefs_watch.consistency.Options`.

    Raises `ConfigError` for an option that can't work. A watcher that is not running makes reads run without waiting for
    anybody's writes only where they carry no token; all else is refused.
    """

    def __init__(
        self,
        app: App,
        watcher: Watcher,
        *,
        database: str | None = None,
        replay: Answering | Forward | Strategy | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        self.app = app
        self._policy = Policy(Options(**options))
        self._watcher = watcher
        self._hostname = watcher.hostname
        self._database = watcher.settings.database_or_default(database)
        self._responder = Responder(FlyReplay() if replay is None else replay, self._hostname)
        self._heedless = not self._responder.needs_body
        self._max_waiting = self._policy.options.max_waiting
        self._waiting = 0
        listen_for_reports()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, policy = scope["type"], self._policy
        if kind == "http":
            exchange = policy.begin(scope["method"], scope["path"], scope["headers"])
        elif kind == "websocket":
            exchange = policy.begin_websocket(scope["path"], scope["headers"])
        else:
            await self._lifespan(scope, receive, send)
            return
        if exchange is None:
            await self.app(scope, receive, send)
            return
        if exchange.asks and not policy.is_met(exchange, self._watcher.position(self._database)):
            action = policy.decide(exchange, self._node())
            if action is not RUN:
                action = await self._settle(exchange, action, lambda: policy.decide(exchange, self._node()))
            if action is not RUN:
                await self._responder.respond(action, scope, receive, send)
                return

        request = receive if self._heedless else Body(receive)

        def send_marked(message: Message) -> Awaitable[None]:
            if exchange.started:
                return send(message) if exchange.answered is None else _nothing()
            exchange.started = True
            if exchange.touched or exchange.written or message.get("status", 500) >= 500:
                return self._start(exchange, message, scope, request, send)
            return send(message)

        try:
            await self.app({**scope, SCOPE_KEY: exchange}, request, send_marked)
        except Exception as error:
            if exchange.answered is error:  # Starlette raises it once more when it has sent its own error page
                return
            verdict = None if exchange.started else policy.failed(exchange, self._node(), error)
            if verdict is None:
                raise
            await self._answer_error(exchange, verdict, error, scope, request, send)

    def _start(self, exchange: Exchange, message: Message, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The response starts (or a WebSocket is accepted, or closed): is it one to replace, or to add to?

        Called from where the application sends, so that an exception which it is just handling can be seen.
        """
        http = message["type"] == "http.response.start"
        error = (exchange.error or sys.exception()) if message["type"] != "websocket.accept" else None
        if error is not None and (not http or message["status"] >= 500):
            verdict = self._policy.failed(exchange, self._node(), error)
            if verdict is not None:
                exchange.answered = error
                return self._answer_error(exchange, verdict, error, scope, receive, send)
        if http and (exchange.touched or exchange.written):
            return self._send_marked(exchange, message, send)
        return send(message)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            await self._responder.aclose()

    def _node(self) -> Node:
        watcher = self._watcher
        room = self._waiting < self._max_waiting
        return Node(watcher.role, watcher.primary, self._hostname, watcher.position(self._database), room)

    async def _settle(self, exchange: Exchange, action: Action, decide: Callable[[], Action]) -> Action:
        """Wait as decided, until there is nothing to wait for."""
        while isinstance(action, Wait | Hold):
            self._waiting += 1
            try:
                await self._wait(action)
            finally:
                self._waiting -= 1
            if isinstance(action, Wait):
                exchange.waited = True
            else:
                exchange.held = True
            action = decide()
        return action

    async def _wait(self, action: Wait | Hold) -> None:
        try:
            if isinstance(action, Wait):
                await self._watcher.wait_for_tx(action.txid, database=self._database, timeout=action.timeout)
            elif action.here:
                await self._watcher.wait_for_role(Role.PRIMARY, timeout=action.timeout)
            else:
                await self._watcher.wait_for_primary(timeout=action.timeout)
        except WaitTimeout:
            pass  # what comes next depends on what is true now, not on how the wait ended
        except WatcherClosed as error:
            logger.warning("a request could not wait: %s", error)

    async def _answer_error(
        self, exchange: Exchange, action: Action, error: BaseException, scope: Scope, receive: Receive, send: Send
    ) -> None:
        policy = self._policy
        action = await self._settle(exchange, action, lambda: policy.failed(exchange, self._node(), error) or _NOW_PRIMARY)
        await self._responder.respond(action, scope, receive, send)

    async def _send_marked(self, exchange: Exchange, message: Message, send: Send) -> None:
        position = await self._read_position() if self._policy.wants_position(exchange, self._node()) else None
        sent = list(message.get("headers", ()))
        added = self._policy.headers(exchange, self._node(), position, sent)
        await send({**message, "headers": sent + added} if added else message)

    async def _read_position(self) -> Position | None:
        """The position in the file now. None where there is none, or it can't be read: a token from older knowledge would
        promise less than the response shows."""
        with anyio.move_on_after(READ_TIMEOUT):
            try:
                return await self._watcher.read_position(self._database)
            except (OSError, WatcherClosed) as error:
                logger.warning("a response carries no TXID: the position is unreadable: %s", error)
                return None
        logger.warning("a response carries no TXID: the position could not be read within %g s", READ_TIMEOUT)
        return None


async def _nothing() -> None:
    """Where the application's own response goes when it has been replaced."""
