"""`LiteFSMiddleware`: does what `litefs_watch.consistency` decides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Unpack

from litefs_watch.consistency import ERROR, RUN, SCOPE_KEY, Exchange, OptionKeywords, Refuse, current_exchange
from litefs_watch.replay import Answering, FlyReplay, Forward
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.web.checks import check_blocking
from litefs_watch.web.error_signals import listen_for_reports
from litefs_watch.web.late import LateRoutes
from litefs_watch.web.several import BlockingGates, gate_of
from litefs_watch.web.swallowed import SwallowedWrites
from litefs_watch.web.waiting import BlockingGate
from litefs_watch.wsgi.environ import LOST_KEY, Body, Headers, carried_of, client_has_left, keys_of, route_of
from litefs_watch.wsgi.late import Begun, LateResponse, close
from litefs_watch.wsgi.responder import Responder, Strategy

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger: logging.Logger = logging.getLogger("litefs_watch")

_LEFT = Refuse("Nobody waits for the answer.", "its client has left while it was held: it is not run")


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Put it outermost.

    What `litefs_watch.asgi.LiteFSMiddleware` does, with the same options. What is lost is in the environ as
    ``litefs_watch.lost``. ``replay`` is `FlyReplay` (the default),
    `Redirect`, `Forward`, or a function ``(environ, start_response, hostname)`` that answers the request. `mark_written`
    takes Flask's and Django's request, or the environ. Exceptions that Flask and Django turn into error pages are seen
    through their signals; those that an error handler of the application's own answers, once it calls `mark_failed`, or the
    driver tells (`litefs_watch.refusals`).

    The response starts when the application has returned, so that what Flask's teardown commits is in its token; who commits
    later, in a generator, still sends its client to the primary for the next read. ``late_commits`` is of ASGI alone.

    Raises `ConfigError` for an option that can't work.
    """

    def __init__(
        self,
        app: WSGIApplication,
        watcher: BlockingWatcher,
        *,
        database: str | None = None,
        databases: Sequence[str] = (),
        replay: Answering | Forward | Strategy | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        self.app = app
        check_blocking(watcher, "LiteFSMiddleware")
        self._gate = gate_of(watcher, database, databases, options, BlockingGate, BlockingGates)
        self._carriers = keys_of(self._gate.policy.carriers)
        self._responder = Responder(FlyReplay() if replay is None else replay, self._gate.hostname)
        self._watcher = watcher
        self._late = LateRoutes()
        self._swallowed = SwallowedWrites()
        listen_for_reports()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        around = current_exchange.get()
        try:
            with self._gate.budget.crowd:
                return self._handle(environ, start_response)
        finally:
            if around is not None:  # a request that a handler makes to the application that it is part of
                current_exchange.set(around)

    def _handle(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The application's own: what it puts there is for who is around us, too.
        given, environ = environ, {**environ}  # Django changes what it gets: what is answered afterwards is not of that
        carried = carried_of(environ, self._carriers)
        exchange = self._gate.policy.begin(environ["REQUEST_METHOD"], route_of(environ), Headers(environ), carried)
        if exchange is None:
            return self.app(given, start_response)
        try:
            return self._run(exchange, given, environ, start_response)
        finally:
            exchange.headers = ()  # the thread's context keeps the exchange, and is not to keep the environ

    def _run(
        self, exchange: Exchange, given: WSGIEnvironment, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """``given`` is the application's, ``environ`` as it came."""
        gate = self._gate
        if exchange.asks:
            action = gate.enter(exchange)
            if exchange.held and client_has_left(environ):
                action = _LEFT
            if action is not RUN:
                return self._responder.respond(action, environ, start_response)

        else:
            gate.admit(exchange)

        if self._responder.needs_body:
            given["wsgi.input"] = environ["wsgi.input"] = Body(environ)
        if SCOPE_KEY in given:  # a middleware for another database is around this one
            exchange.outer = given[SCOPE_KEY]
        given[SCOPE_KEY] = exchange
        current_exchange.set(exchange)
        if exchange.lost is not None:
            given[LOST_KEY] = exchange.lost
        response = LateResponse(gate, exchange, environ, start_response, self._late)
        try:
            body = self.app(given, response)
            if not exchange.started:  # a generator starts the response when it is asked for the first chunk
                body = Begun(body)
        except Exception as error:
            response.end()
            blamed = exchange.blamed(error)
            fault = not response.begun and gate.is_fault_of_node(exchange, blamed)
            if fault and (answer := gate.failed(exchange, blamed)) is not None:
                return self._responder.respond(answer, environ, start_response)
            if exchange.withheld:
                exchange.speak()
            if exchange.committed is None or response.begun:
                raise
            logger.exception("an error of the application, answered here: what it may have committed is to be said")
            response.replace(ERROR)
            return [ERROR.body]
        except BaseException:
            response.end()
            raise
        response.returned(body)
        if response.replaced is not None:
            response.end()
            close(body)
            return self._responder.respond(response.replaced, environ, start_response)
        if exchange.tells:
            exchange.speak()
            self._swallowed.look(exchange, response.route, self._watcher.role)
        return response.deliver(body)
