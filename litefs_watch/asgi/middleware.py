"""`LiteFSMiddleware`: does what `litefs_watch.consistency` decides."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Sequence
from typing import Any, Unpack

import anyio

from litefs_watch.asgi.client import Client, ClientLeft
from litefs_watch.asgi.late import LateResponse, route_in
from litefs_watch.asgi.open_websockets import OpenWebSocket, OpenWebSockets, WebSocketClosed
from litefs_watch.asgi.reply import Reply
from litefs_watch.asgi.responder import Body, Responder
from litefs_watch.asgi.types import WATCHER_KEY, App, Message, Receive, Scope, Send, Strategy
from litefs_watch.changes import Role
from litefs_watch.consistency import RUN, SCOPE_KEY, Exchange, OptionKeywords, Refuse, current_exchange, named
from litefs_watch.consistency.faults import is_of_database
from litefs_watch.consistency.options import route_of
from litefs_watch.replay import Answering, FlyReplay, Forward
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.checks import RefusedInWebSocket, check_async
from litefs_watch.web.error_signals import listen_for_reports
from litefs_watch.web.late import LateRoutes
from litefs_watch.web.seldom import Seldom, more
from litefs_watch.web.several import AsyncGates, gate_of
from litefs_watch.web.swallowed import SwallowedWrites
from litefs_watch.web.waiting import AsyncGate

logger: logging.Logger = logging.getLogger("litefs_watch")

_STOPPING = Refuse("This node is being stopped. Try again shortly.", "the server was stopped while it was held")
_LAST_WORD = 1.0
"""Seconds for saying so: a server that stops waits no longer than its own grace, which may be less than a hold lasts."""


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Pure ASGI; put it outermost.

    - A write (POST, PUT, PATCH, DELETE, any path of ``primary_paths``) on a replica is replayed to the primary, before its
      body is read.
    - A read on a replica waits, before the application runs, for the TXID that the client's cookie or header carries.
    - A response to a write on the primary carries the position in that cookie and header; after a GET that writes, call
      `mark_written`.
    - What a client has written and a fail-over has lost is said by the primary: in the response's ``litefs-lost``, and to
      the application by `lost_transaction`, or ``request.state.litefs_lost``.
    - `watcher.ensure_primary`, ``ensure_instance``, and a write that SQLite refuses on a replica, raised before the response
      has started, are answered with the replay too. Django's and Quart's own error pages are replaced; others that are sent
      after the exception was handled, once the handler calls `mark_failed`, or the driver tells (`litefs_watch.refusals`).
    - A write's response that starts before anything was committed (FastAPI's dependencies with ``yield`` commit after it) is
      held until the application returns, for ``late_commits`` seconds at most; who commits later still sends its client to
      the primary for the next read.
    - With ``replicated_to`` the response to a write waits until so many other nodes have it (``Settings.peers``).
    - WebSockets are denied before they are accepted where their path is one of ``primary_paths``, or the handler raises
      `NotPrimary`; what is open on a node that ceases to be the primary is closed with 1012 (``close_websockets``). All else
      is passed through, and no stream is held.

    ``database`` is the watcher's own without it. With ``databases`` the middleware serves several: each has a cookie and a
    header of its own, set where it was written. ``replay`` is `FlyReplay` (the default), `Redirect`, `Forward`, or an
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
        databases: Sequence[str] = (),
        replay: Answering | Forward | Strategy | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        self.app = app
        check_async(watcher, "LiteFSMiddleware")
        self._gate = gate_of(watcher, database, databases, options, AsyncGate, AsyncGates)
        self._policy = self._gate.policy
        self._responder = Responder(FlyReplay() if replay is None else replay, self._gate.hostname)
        self._watcher = watcher
        self._heedless = not self._responder.needs_body
        self._late = LateRoutes()
        self._websockets = OpenWebSockets(watcher, self._policy.options)
        self._refused = RefusedInWebSocket(self._policy.options)
        self._swallowed = SwallowedWrites()
        self._seldom = Seldom()
        listen_for_reports()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind, policy = scope["type"], self._policy
        if kind == "http":
            path = scope["path"] if not scope.get("root_path") else _route(scope)
            exchange = policy.begin(scope["method"], path, scope["headers"])
        elif kind == "websocket":
            exchange = policy.begin_websocket(_route(scope), scope["headers"])
        else:
            await self._lifespan(scope, receive, send)
            return
        if exchange is None:
            await self.app(scope, receive, send)
            return
        if not exchange.asks:
            self._gate.admit(exchange)
        elif not self._gate.is_met(exchange):
            client = Client(receive)
            try:
                action = await self._gate.enter(exchange, client.watched)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(_LAST_WORD, shield=True):
                    await self._responder.respond(_STOPPING, scope, client.receive, send)
                raise
            except ClientLeft:
                if (unsaid := self._seldom.due(ClientLeft)) is not None:
                    left = named(exchange.method, scope["path"])
                    logger.info("a client has left while %s waited: it is not run%s", left, more(unsaid))
                return
            receive = client.receive
            if action is not RUN:
                await self._responder.respond(action, scope, receive, send)
                return
            if exchange.lost is not None:
                scope.setdefault("state", {})["litefs_lost"] = exchange.lost

        # The application's own: what it puts there is for who is around us, too (Litestar's hooks, tracing, metrics).
        given, scope = scope, {**scope}  # what is answered after it has run is not of what it has made of it
        if SCOPE_KEY in given:  # a middleware for another database is around this one
            exchange.outer = given[SCOPE_KEY]
        given[SCOPE_KEY], given[WATCHER_KEY] = exchange, self._watcher
        around = current_exchange.get()
        current_exchange.set(exchange)
        request = receive if self._heedless else Body(receive)
        reply = late = websocket = None
        sends: Send = send
        follow = sends if kind == "http" else self._overheard(exchange, scope["path"], sends)
        if exchange.writes and exchange.before is not None and exchange.role is Role.PRIMARY and kind == "http":
            reply = Reply(self._gate, self._responder, exchange, scope, request, sends)
            late = reply.late = LateResponse(self._gate, exchange, given, sends, self._late, reply.answer_reset)
            follow = late.send

        def send_marked(message: Message) -> Awaitable[None]:
            if exchange.started:
                return follow(message) if exchange.answered is None else _nothing()
            exchange.started = True
            if exchange.token is not None:
                self._gate.look_back(exchange)
            faulty = message.get("status", 500) >= 500 or exchange.error is not None or exchange.reset is not None
            if faulty or exchange.touched or exchange.written:
                return (reply or Reply(self._gate, self._responder, exchange, scope, request, sends)).start(message)
            return sends(message)

        try:
            if kind == "websocket" and self._websockets.concern(exchange):
                websocket = OpenWebSocket(self._websockets, request, send_marked)  # what answers in its place is none
                await self.app(given, websocket.receive, websocket.send)
            else:
                await self.app(given, request, send_marked)
            if late is not None:
                await late.finish()
        except Exception as error:
            if exchange.answered is error:  # Starlette raises it once more when it has sent its own error page
                return
            if kind == "websocket" and exchange.started:
                if WebSocketClosed.is_behind(error):  # by us: it goes into no log
                    return
                exchange.error = error
            exchange.shown = True
            held = late is not None and await late.take_back()
            blamed = exchange.blamed(error)
            if (held or not exchange.started) and self._gate.is_fault_of_node(exchange, blamed):
                reply = reply or Reply(self._gate, self._responder, exchange, scope, request, sends)
                if await reply.answer(blamed):
                    return
                if exchange.committed is not None and kind == "http" and (not held or is_of_database(error)):
                    await reply.send_error()
                    raise
            if late is not None and not is_of_database(error):
                await late.finish()
            raise
        finally:
            if late is not None:
                late.close()
            exchange.headers = ()  # a server's timers keep the request's context, for as long as its connection is open
            if exchange.tells and exchange.answered is None:
                exchange.speak()
                if exchange.started and kind == "http":
                    self._swallowed.look(exchange, route_in(given), self._watcher.role)
            if kind == "websocket":
                told = exchange.refused if exchange.error is None else exchange.blamed(exchange.error)
                if exchange.started and exchange.answered is None and told is not None:
                    self._refused.look(exchange, scope["path"], told)
                if websocket is not None:
                    await websocket.end()
            if around is not None:  # a request that a handler makes in its own task, to the application that it is part of
                current_exchange.set(around)

    def _overheard(self, exchange: Exchange, path: str, send: Send) -> Send:
        """What the handler of an open WebSocket sends. It may be open for days: what was refused before this is said now."""

        def send_overheard(message: Message) -> Awaitable[None]:
            if message["type"] == "websocket.close":
                exchange.error = exchange.error or sys.exception()  # that Litestar handles
            if exchange.refused is not None and not exchange.shown:
                exchange.shown = True
                self._refused.look(exchange, path, exchange.refused)
            return send(message)

        return send_overheard

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            await self._responder.aclose()


def _route(scope: Scope) -> str:
    return route_of(scope["path"], scope.get("root_path", ""))


async def _nothing() -> None:
    """Where the application's own response goes when it has been replaced."""
