"""`LiteFSMiddleware` for WSGI: Flask, Django under WSGI, and whatever else gunicorn runs.

It does what `litefs_watch.consistency` decides, as the ASGI middleware does. WSGI knows neither WebSockets nor a lifespan:
its `BlockingWatcher` starts by itself, after the server has forked.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack

from litefs_watch.blocking import BlockingWatcher
from litefs_watch.consistency import (
    RUN,
    SCOPE_KEY,
    Action,
    Answer,
    Exchange,
    Hold,
    Node,
    OptionKeywords,
    Options,
    Policy,
    Refuse,
    Replay,
    Wait,
    exchange_of,
    refusal,
)
from litefs_watch.errors import ConfigError, WaitTimeout, WatcherClosed
from litefs_watch.position import Position
from litefs_watch.replay import Answering, FlyReplay, target
from litefs_watch.state import Role

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("litefs_watch")

Strategy = Callable[["WSGIEnvironment", "StartResponse", str], Iterable[bytes]]
"""Sends a request to the primary by means of its own: ``(environ, start_response, hostname)``."""

_PHRASES = {307: "Temporary Redirect", 409: "Conflict", 503: "Service Unavailable"}
_NOW_PRIMARY = Refuse("This node has just become the primary. Try again.", "a write was refused, and then the role changed")


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Put it outermost.

    What `litefs_watch.asgi.LiteFSMiddleware` does, with the same options. ``replay`` is `FlyReplay` (the default),
    `Redirect`, or a function ``(environ, start_response, hostname)`` that answers the request. `mark_written` takes
    Flask's and Django's request, or the environ. Exceptions that Flask and Django turn into error pages are seen through
    their signals.

    Raises `ConfigError` for an option that can't work.
    """

    def __init__(
        self,
        app: WSGIApplication,
        watcher: BlockingWatcher,
        *,
        database: str | None = None,
        replay: Answering | Strategy | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        self.app = app
        self._policy = Policy(Options(**options))
        self._watcher = watcher
        self._hostname = watcher.hostname
        self._database = watcher.settings.database_or_default(database)
        self._replay: Answering | Strategy = FlyReplay() if replay is None else replay
        if not isinstance(self._replay, Answering) and not callable(self._replay):
            raise ConfigError(f"replay: FlyReplay(), Redirect(...) or a function, not {replay!r}")
        self._waiting = 0
        self._counting = threading.Lock()
        _listen_for_reports()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        exchange = self._policy.begin(environ["REQUEST_METHOD"], _path(environ), list(_headers(environ)))
        if exchange is None:
            return self.app(environ, start_response)
        action: Action = RUN
        if exchange.writes or exchange.token is not None:
            action = self._settle(exchange, lambda: self._policy.decide(exchange, self._node()))
        if action is not RUN:
            return self._answer(action, environ, start_response)

        environ[SCOPE_KEY] = exchange
        replaced: list[Action] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            verdict = self._replaces(exchange, status)
            if verdict is not None:
                replaced[:] = [verdict]
                return _nowhere
            exchange.started = True
            if exchange.touched or exchange.written:
                headers = headers + self._added(exchange, headers)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            body = self.app(environ, start)
        except Exception as error:
            failed = None if exchange.started else self._policy.failed(exchange, self._node(), error)
            if failed is None:
                raise
            return self._answer(self._settle_failure(exchange, failed, error), environ, start_response)
        if replaced:
            if hasattr(body, "close"):
                body.close()
            return self._answer(replaced[0], environ, start_response)
        return body

    def _replaces(self, exchange: Exchange, status: str) -> Action | None:
        """What an error page is replaced with, where a refused write or a wrong node is behind it."""
        error = exchange.error or sys.exception()
        if error is None or exchange.started or not status.startswith("5"):
            return None
        failed = self._policy.failed(exchange, self._node(), error)
        return None if failed is None else self._settle_failure(exchange, failed, error)

    def _node(self) -> Node:
        watcher, room = self._watcher, self._waiting < self._policy.options.max_waiting
        return Node(watcher.role, watcher.primary, self._hostname, watcher.position(self._database), room)

    def _settle(self, exchange: Exchange, decide: Callable[[], Action]) -> Action:
        """Wait as decided, until there is nothing to wait for."""
        while isinstance(action := decide(), Wait | Hold):
            self._count(1)
            try:
                self._wait(action)
            finally:
                self._count(-1)
            if isinstance(action, Wait):
                exchange.waited = True
            else:
                exchange.held = True
        return action

    def _count(self, step: int) -> None:
        with self._counting:
            self._waiting += step

    def _settle_failure(self, exchange: Exchange, first: Action, error: BaseException) -> Action:
        actions = [first]
        return self._settle(
            exchange,
            lambda: actions.pop() if actions else self._policy.failed(exchange, self._node(), error) or _NOW_PRIMARY,
        )

    def _wait(self, action: Wait | Hold) -> None:
        try:
            if isinstance(action, Wait):
                self._watcher.wait_for_tx(action.txid, database=self._database, timeout=action.timeout)
            elif action.here:
                self._watcher.wait_for_role(Role.PRIMARY, timeout=action.timeout)
            else:
                self._watcher.wait_for_primary(timeout=action.timeout)
        except WaitTimeout:
            pass  # what comes next depends on what is true now, not on how the wait ended
        except WatcherClosed as error:
            logger.warning("a request could not wait: %s", error)

    def _added(self, exchange: Exchange, sent: list[tuple[str, str]]) -> list[tuple[str, str]]:
        position = self._read_position() if self._policy.wants_position(exchange, self._node()) else None
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent]
        added = self._policy.headers(exchange, self._node(), position, given)
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in added]

    def _read_position(self) -> Position | None:
        try:
            return self._watcher.read_position(self._database)
        except (OSError, WatcherClosed) as error:
            logger.warning("a response carries no TXID: the position is unreadable: %s", error)
            return None

    def _answer(self, action: Action, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if isinstance(action, Replay):
            if not isinstance(self._replay, Answering):
                return self._replay(environ, start_response, action.hostname)
            query = environ.get("QUERY_STRING", "").encode("latin-1")
            raw = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
            path = raw.decode("utf-8", "surrogateescape")
            return _send(self._replay.answer(action.hostname, target(path, None, query)), start_response)
        if not isinstance(action, Refuse):
            raise TypeError(f"not an answer: {action}")
        logger.warning("503 for %s %s: %s %s", environ["REQUEST_METHOD"], _path(environ), action.reason, action.detail)
        return _send(refusal(action.reason), start_response)


def _path(environ: WSGIEnvironment) -> str:
    """The whole path, decoded: WSGI hands bytes over as latin-1."""
    raw = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return str(raw).encode("latin-1", "replace").decode("utf-8", "replace")


def _headers(environ: WSGIEnvironment) -> Iterable[tuple[bytes, bytes]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].lower().replace("_", "-").encode("latin-1", "replace"), str(value).encode("latin-1", "replace")


def _send(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    start_response(f"{answer.status} {_PHRASES.get(answer.status, 'Status')}", headers)
    return [answer.body] if answer.body else []


def _nowhere(data: bytes) -> None:
    """Where a response goes that has been replaced."""


def _listen_for_reports() -> None:
    """Flask and Django turn exceptions into responses, and send a signal. Listening twice is listening once."""
    if (flask := sys.modules.get("flask.signals")) is not None:
        flask.got_request_exception.connect(_flask_failed)
    if (django := sys.modules.get("django.core.signals")) is not None:
        django.got_request_exception.connect(_django_failed, dispatch_uid="litefs_watch.wsgi")


def _flask_failed(sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    from flask import has_request_context, request

    if has_request_context() and (exchange := exchange_of(request)) is not None:
        exchange.error = exception


def _django_failed(sender: Any, request: Any = None, **_: Any) -> None:
    if request is not None and (exchange := exchange_of(request)) is not None:
        exchange.error = sys.exception()
