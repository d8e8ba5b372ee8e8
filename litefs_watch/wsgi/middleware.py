"""`LiteFSMiddleware`: does what `litefs_watch.consistency` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Unpack

from litefs_watch.consistency import RUN, SCOPE_KEY, Exchange, OptionKeywords, Options
from litefs_watch.replay import Answering, FlyReplay, Forward
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.web.error_signals import listen_for_reports
from litefs_watch.web.waiting import BlockingGate
from litefs_watch.wsgi.environ import LOST_KEY, Body, headers_of, path_of
from litefs_watch.wsgi.responder import Responder, Strategy

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class LiteFSMiddleware:
    """Clients read their own writes, whichever node answers; writes go to the primary. Put it outermost.

    What `litefs_watch.asgi.LiteFSMiddleware` does, with the same options. What is lost is in the environ as
    ``litefs_watch.lost``. ``replay`` is `FlyReplay` (the default),
    `Redirect`, `Forward`, or a function ``(environ, start_response, hostname)`` that answers the request. `mark_written`
    takes Flask's and Django's request, or the environ. Exceptions that Flask and Django turn into error pages are seen
    through their signals; those that an error handler of the application's own answers, once it calls `mark_failed`.

    Raises `ConfigError` for an option that can't work.
    """

    def __init__(
        self,
        app: WSGIApplication,
        watcher: BlockingWatcher,
        *,
        database: str | None = None,
        replay: Answering | Forward | Strategy | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        self.app = app
        self._gate = BlockingGate(watcher, database, Options(**options))
        self._responder = Responder(FlyReplay() if replay is None else replay, self._gate.hostname)
        listen_for_reports()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        gate = self._gate
        exchange = gate.policy.begin(environ["REQUEST_METHOD"], path_of(environ), headers_of(environ))
        if exchange is None:
            return self.app(environ, start_response)
        if exchange.asks and (action := gate.enter(exchange)) is not RUN:
            return self._responder.respond(action, environ, start_response)

        if self._responder.needs_body:
            environ["wsgi.input"] = Body(environ)
        # The application's own: what it puts there is for who is around us, too.
        given, environ = environ, {**environ}  # Django changes what it gets: what is answered afterwards is not of that
        given[SCOPE_KEY] = exchange
        if exchange.lost is not None:
            given[LOST_KEY] = exchange.lost
        replaced: list[BaseException] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
            if not exchange.started:
                gate.look_back(exchange)
            error = exchange.hidden_error(int(status[:3])) if not exchange.started else None
            if error is not None and gate.is_fault_of_node(exchange, error):
                replaced[:] = [error]
                return _nowhere
            exchange.started = True
            if exchange.touched or exchange.written:
                headers = headers + self._added(exchange, headers)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            body = self.app(given, start)
            if not exchange.started and not replaced:  # a generator starts the response when it is asked for the first chunk
                body = _Begun(body)
        except Exception as error:
            if exchange.started or not gate.is_fault_of_node(exchange, error):
                raise
            return self._responder.respond(gate.failed(exchange, error), environ, start_response)
        if replaced:
            _close(body)
            return self._responder.respond(gate.failed(exchange, replaced[0]), environ, start_response)
        return body

    def _added(self, exchange: Exchange, sent: list[tuple[str, str]]) -> list[tuple[str, str]]:
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent]
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._gate.headers(exchange, given)]


class _Begun:
    """A response's body, whose first chunk has been taken already."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        chunks = iter(body)
        try:
            self._chunks = chain(list(islice(chunks, 1)), chunks)
        except BaseException:
            _close(body)
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        _close(self._body)


def _close(body: Iterable[bytes]) -> None:
    if hasattr(body, "close"):
        body.close()


def _nowhere(data: bytes) -> None:
    """Where a response goes that has been replaced."""
