"""`LiteFSMiddleware` for Django's ``MIDDLEWARE``: does what `litefs_watch.consistency` decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.core.handlers.exception import response_for_exception
from django.db import OperationalError, connections, router
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from litefs_watch.changes import Role
from litefs_watch.consistency import (
    RUN,
    SCOPE_KEY,
    Action,
    Answer,
    Exchange,
    Refuse,
    Replay,
    current_exchange,
    exchange_of,
    named,
    refusal,
)
from litefs_watch.consistency.faults import MESSAGES
from litefs_watch.django.conf import get_awaitable_watcher, get_watcher, load_or_refuse
from litefs_watch.django.connections import watch_connections
from litefs_watch.django.quiet import keep_replays_quiet
from litefs_watch.replay import NOT_COUNTED, Answering, target
from litefs_watch.web.error_signals import listen_for_reports
from litefs_watch.web.late import route_named
from litefs_watch.web.seldom import Refusals
from litefs_watch.web.several import AsyncGates, BlockingGates, gate_of
from litefs_watch.web.swallowed import SwallowedWrites
from litefs_watch.web.waiting import AsyncGate, BlockingGate
from litefs_watch.wsgi.environ import LOST_KEY, query_of, raw_path_of, sent_headers_of

logger: logging.Logger = logging.getLogger("litefs_watch")

GetResponse = Callable[[HttpRequest], Any]


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Put it first in ``MIDDLEWARE``.

    What `litefs_watch.asgi.LiteFSMiddleware` does, configured by the setting ``LITEFS_WATCH`` (`litefs_watch.django.conf`).
    A request waits before whatever opens a transaction or reads a session. A session in the database that was modified
    counts as a write. Where a refused write, `NotPrimary` or `NoPrimary` of a view or of another middleware becomes the
    replay, it is neither logged as an error nor mailed to ``ADMINS``. Refused writes are noted on Django's connections
    (`litefs_watch.django.connections`): they become the replay also where a view catches them and answers 400 and above.
    What is lost is in ``META`` as ``litefs_watch.lost``. Sync under WSGI; under ASGI async, where no thread waits with a
    request.

    Raises `ImproperlyConfigured` when Django builds its handler and ``LITEFS_WATCH`` can't work.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._warned = False
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        self._swallowed = SwallowedWrites()
        self._refusals = Refusals()
        self._configure()
        listen_for_reports()
        keep_replays_quiet()
        watch_connections()

    def _configure(self) -> None:
        configuration = load_or_refuse()
        replay = configuration.replay
        self._answering = replay if isinstance(replay, Answering) else None
        self._strategy = self._async_strategy = None
        if not isinstance(replay, Answering):
            self._strategy = async_to_sync(replay) if iscoroutinefunction(replay) else replay
            self._async_strategy = replay if iscoroutinefunction(replay) else sync_to_async(replay)
        watcher, awaitable = get_watcher(), get_awaitable_watcher()
        databases, given = configuration.databases, configuration.options
        self._gate = gate_of(watcher, None, databases, given, BlockingGate, BlockingGates)
        self._async_gate = gate_of(awaitable, None, databases, given, AsyncGate, AsyncGates)
        self._awaitable = awaitable
        self._watcher = watcher  # last: other threads ask whether it is still the one

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if get_watcher() is not self._watcher:  # a test has overridden the settings
            self._configure()
        if (around := exchange_of(request)) is not None:
            return self._tell_async(around, request) if self._is_async else self._tell(around, request)
        return self._run_async(request) if self._is_async else self._run(request)

    def _run(self, request: HttpRequest) -> HttpResponse:
        outer = current_exchange.get()
        try:
            with self._gate.budget.crowd:
                return self._handle(request)
        finally:
            if outer is not None:  # a request that a view makes to the project that it is part of
                current_exchange.set(outer)

    async def _run_async(self, request: HttpRequest) -> HttpResponse:
        outer = current_exchange.get()
        try:
            return await self._handle_async(request)
        finally:
            if outer is not None:  # as above
                current_exchange.set(outer)

    def _handle(self, request: HttpRequest) -> HttpResponse:
        exchange = self._begin(request)
        if exchange is None:
            return self.get_response(request)
        if exchange.asks:
            self._warn_in_transaction(exchange)
            if (action := self._gate.enter(exchange)) is not RUN:
                return self._answer(request, action)
            _tell_lost(exchange, request)
        else:
            self._gate.admit(exchange)
        try:
            response = self.get_response(request)
        except Exception as error:  # DEBUG_PROPAGATE_EXCEPTIONS
            blamed = exchange.blamed(error)
            if not exchange.may_belong_elsewhere(blamed) or (answer := self._gate.failed(exchange, blamed)) is None:
                raise
            return self._answer(request, answer)
        _look(exchange, request, response)
        if (fault := self._fault(exchange, response)) is not None:
            if (answer := self._gate.failed(exchange, fault)) is not None:
                return self._answer(request, answer)
            response = _own(request, response, exchange.error or fault)
        exchange.speak()
        if exchange.refused is not None:
            self._swallowed.look(exchange, _route(request), self._watcher.role)
        if exchange.touched or exchange.written:
            exchange.scheme = request.scheme or "http"
            position: Any = self._gate.position(exchange)
            self._gate.replicate(exchange, position, response.status_code)
            exchange.late = response.streaming and not exchange.written  # it may commit yet
            added = self._gate.headers_at(exchange, position, _sent(response))
            if exchange.reset is not None:
                return self._answer(request, self._gate.failed(exchange, exchange.reset))
            _add(response, added)
        return response

    def _tell(self, exchange: Exchange, request: HttpRequest) -> HttpResponse:
        """Where the whole application is wrapped in a middleware of ours: that one answers, and is told of the session."""
        response: HttpResponse = self.get_response(request)
        _look(exchange, request, response)
        return response

    async def _tell_async(self, exchange: Exchange, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = await self.get_response(request)
        _look(exchange, request, response)
        return response

    async def _handle_async(self, request: HttpRequest) -> HttpResponse:
        await self._awaitable.start()
        exchange = self._begin(request)
        if exchange is None:
            return await self.get_response(request)
        if exchange.asks:
            if (action := await self._async_gate.enter(exchange)) is not RUN:
                return await self._answer_async(request, action)
            _tell_lost(exchange, request)
        else:
            self._gate.admit(exchange)
        try:
            response = await self.get_response(request)
        except Exception as error:  # as above
            blamed = exchange.blamed(error)
            if not exchange.may_belong_elsewhere(blamed):
                raise
            if (answer := await self._async_gate.failed(exchange, blamed)) is None:
                raise
            return await self._answer_async(request, answer)
        _look(exchange, request, response)
        if (fault := self._fault(exchange, response)) is not None:
            if (answer := await self._async_gate.failed(exchange, fault)) is not None:
                return await self._answer_async(request, answer)
            response = await sync_to_async(_own)(request, response, exchange.error or fault)
        if exchange.withheld:
            await sync_to_async(exchange.speak)()
        if exchange.refused is not None:
            self._swallowed.look(exchange, _route(request), self._watcher.role)
        if exchange.touched or exchange.written:
            exchange.scheme = request.scheme or "http"
            position: Any = await self._async_gate.position(exchange)
            await self._async_gate.replicate(exchange, position, response.status_code)
            exchange.late = response.streaming and not exchange.written  # it may commit yet
            added = self._async_gate.headers_at(exchange, position, _sent(response))
            if exchange.reset is not None:
                return await self._answer_async(request, await self._async_gate.failed(exchange, exchange.reset))
            _add(response, added)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """What a view raised: Django would log it as an error, and mail it to ``ADMINS``."""
        exchange = exchange_of(request)
        if exchange is None or not exchange.may_belong_elsewhere(exchange.blamed(exception)):
            return None
        if Role.PRIMARY in (exchange.role, self._watcher.role):
            return None  # it may stay an error: Django makes its page, which `quiet` keeps out of the log for the time being
        exchange.error = exception
        return _Withheld(status=500)  # the answer takes its place when it comes through `__call__`

    def _begin(self, request: HttpRequest) -> Exchange | None:
        """None where the request is to be left alone."""
        scope = getattr(request, "scope", None)
        headers = sent_headers_of(request.META) if scope is None else scope["headers"]
        exchange = self._gate.policy.begin(request.method or "GET", request.path_info, headers)
        if exchange is not None:
            request.META[SCOPE_KEY] = exchange
            current_exchange.set(exchange)
        return exchange

    def _fault(self, exchange: Exchange, response: HttpResponse) -> BaseException | None:
        """The exception behind an error page which says that the request belongs elsewhere."""
        self._gate.look_back(exchange)
        error = exchange.hidden_error(response.status_code)
        return error if error is not None and exchange.may_belong_elsewhere(error) else None

    def _warn_in_transaction(self, exchange: Exchange) -> None:
        if self._warned or exchange.token is None or self._watcher.role is not Role.REPLICA:
            return
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                self._warned = True
                logger.error(
                    "a request reached LiteFSMiddleware within a transaction on %r, which stops this replica's replication: "
                    "it waits in vain; put litefs_watch.django.LiteFSMiddleware before the middleware that begins it",
                    connection.alias,
                )

    def _answer(self, request: HttpRequest, action: Action | None) -> HttpResponse:
        if isinstance(action, Replay) and self._strategy is not None and action.hops == 1:
            own: HttpResponse = self._strategy(request, action.hostname)
            return own
        return self._ours(request, action)

    async def _answer_async(self, request: HttpRequest, action: Action | None) -> HttpResponse:
        if isinstance(action, Replay) and self._async_strategy is not None and action.hops == 1:
            own: HttpResponse = await self._async_strategy(request, action.hostname)
            return own
        return self._ours(request, action)

    def _ours(self, request: HttpRequest, action: Action | None) -> HttpResponse:
        if isinstance(action, Replay):
            if self._answering is not None:
                return _to_response(self._answering.answer(action.hostname, _target(request), action.state))
            action = Refuse(*NOT_COUNTED)
        if not isinstance(action, Refuse):
            raise TypeError(f"not an answer: {action}")
        self._refusals.say(action, named(request.method or "GET", request.path))
        return _to_response(refusal(action.reason, action.status, action.headers))


class _Withheld(HttpResponse):
    """In place of an error page that is not wanted."""


def _own(request: HttpRequest, response: HttpResponse, error: BaseException) -> HttpResponse:
    """The application's own response: the error page after all, where this node has become the primary meanwhile."""
    if not isinstance(response, _Withheld):
        return response
    try:
        raise error  # noqa: TRY301 - Django's handler asks for the exception that is being handled
    except Exception as raised:  # noqa: BLE001
        page: HttpResponse = response_for_exception(request, raised)
        return page


def _tell_lost(exchange: Exchange, request: HttpRequest) -> None:
    if exchange.lost is not None:
        request.META[LOST_KEY] = exchange.lost


def _look(exchange: Exchange, request: HttpRequest, response: HttpResponse) -> None:
    """What Django's session middleware tells nobody: that it has written, or that SQLite has refused it, which it answers
    with 400 'Bad Request'. On the primary that is the view's own: nothing is refused there."""
    session: Any = getattr(request, "session", None)
    if not hasattr(session, "get_model_class"):  # none, or one that is not kept in a table
        return
    if session.modified:
        exchange.written = True
    if response.status_code != 400 or exchange.error is not None or session.is_empty():
        return
    if session.modified or django_settings.SESSION_SAVE_EVERY_REQUEST:
        table = connections[router.db_for_write(session.model)]
        if table.vendor == "sqlite":
            exchange.error = OperationalError(MESSAGES[0])


def _route(request: HttpRequest) -> str:
    """What the route is called that has handled it."""
    match = request.resolver_match
    return route_named(request.method or "GET", f"/{match.route}" if match is not None else None, request.path_info)


def _target(request: HttpRequest) -> str:
    """Path and query, percent-encoded. Django has decoded the path of the environ by now."""
    scope = getattr(request, "scope", None)
    if scope is not None:
        query = scope.get("query_string", b"")
        return target(request.path, scope.get("raw_path"), query.encode() if isinstance(query, str) else query)
    return target(request.path, raw_path_of(request.META), query_of(request.META))


def _sent(response: HttpResponse) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]


def _add(response: HttpResponse, added: list[tuple[bytes, bytes]]) -> None:
    for name, value in added:
        text = value.decode("latin-1")
        if name == b"set-cookie":
            response.cookies.load(text)  # so that Django's test client, and middlewares further out, know of it
        elif name == b"vary":
            patch_vary_headers(response, text.split(", "))
        elif name == b"access-control-expose-headers" and (said := response.headers.get("Access-Control-Expose-Headers")):
            response.headers["Access-Control-Expose-Headers"] = f"{said}, {text}"
        else:
            response.headers[name.decode("latin-1")] = text


def _to_response(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status)
    del response.headers["Content-Type"]
    for name, value in answer.headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    response._has_been_logged = True  # by us where it is worth it; Django would mail each 503 to ADMINS
    return response
