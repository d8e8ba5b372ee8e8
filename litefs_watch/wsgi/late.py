"""A response that starts when the application has returned: Flask's teardown has run by then, and what it commits is there.

Until its first chunk nothing of a response is sent anyway (PEP 3333), so nothing is kept longer than it would be. What
commits later, while the body is iterated or when it is closed, is pinned; so is a stream beside which another write has run,
until its route was seen to commit before its responses: nobody knows whose commit has moved the position.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from litefs_watch.changes import Role
from litefs_watch.consistency import Action, Answer, Exchange
from litefs_watch.web.late import LateRoutes, route_named
from litefs_watch.web.several import BlockingGates
from litefs_watch.web.waiting import BlockingGate
from litefs_watch.wsgi.environ import path_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

HeaderList = list[tuple[str, str]]


class LateResponse:
    """One response: what the application gets for ``start_response``. Whoever makes one calls `deliver`, or `end`."""

    def __init__(
        self,
        gate: BlockingGate | BlockingGates,
        exchange: Exchange,
        environ: Mapping[str, Any],
        real: StartResponse,
        routes: LateRoutes,
    ) -> None:
        self._gate = gate
        self._exchange = exchange
        self._environ = environ  # as it came: the application has another one
        self._real = real
        self._routes = routes
        self._route = ""
        self._given: tuple[str, HeaderList] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._position: Any = None  # that of a write, unless it says itself that it has written
        self._unmoved = self._marked = False
        self._streams = True  # as long as the body has not been seen
        self._writes = exchange.writes and exchange.before is not None and exchange.role is Role.PRIMARY
        self._number = routes.begin() if self._writes else 0
        self.replaced: Action | None = None
        """What answers instead of a response that is another node's to give. Nothing of it is sent."""

    @property
    def route(self) -> str:
        """What the route is called that has handled it."""
        return self._route or route_named(self._exchange.method, None, path_of(self._environ))

    @property
    def begun(self) -> bool:
        """Whether the server has been told of it: it can't be another one any more."""
        return self._write is not None

    def __call__(self, status: str, headers: HeaderList, exc_info: Any = None) -> Callable[[bytes], object]:
        exchange, gate = self._exchange, self._gate
        if self._write is not None:  # the server raises exc_info, where it is too late
            return self._real(status, headers, exc_info) if exc_info else self._real(status, headers)
        if exchange.token is not None:
            gate.look_back(exchange)
        error = exchange.hidden_error(int(status[:3]))
        belongs = error is not None and gate.is_fault_of_node(exchange, error)
        self.replaced = gate.failed(exchange, error) if error is not None and belongs else None
        self._given = status, headers  # and no exc_info: it would be about a start that the server has not been told of
        exchange.started = True
        if self._writes or exchange.refused is not None:
            self._route = route_named(exchange.method, _rule(), path_of(self._environ))
        return self._write_now

    def begin(self) -> Callable[[bytes], object]:
        """Tell the server, with what the response carries. Gives PEP 3333's ``write``; raises where nothing was started."""
        self.mark()
        if self.replaced is not None:
            return _nowhere
        if self._write is None:
            if self._given is None:
                raise RuntimeError("the application has not called start_response")
            self._write = self._real(*self._given)
        return self._write

    def returned(self, body: Iterable[bytes]) -> None:
        """The application has: of a list, and of what Django says is no stream, nothing is to come. Then `mark`."""
        self._streams = not isinstance(body, list | tuple) and getattr(body, "streaming", True) is not False
        self.mark()

    def mark(self) -> None:
        """Find out what the response carries, if it has been started; it may have to be `replaced` instead."""
        if self._marked or self._given is None or self.replaced is not None:
            return
        self._marked = True
        status, headers = self._given
        if self._exchange.touched or self._exchange.written:
            self._given = status, headers + self._added(headers, int(status[:3]))
            if self._exchange.reset is not None:
                self.replaced = self._gate.failed(self._exchange, self._exchange.reset)

    def replace(self, answer: Answer) -> None:
        """Tell the server of another one, with what it carries."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        self._real(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers + self._added(headers, answer.status))

    def deliver(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The application has returned: begin, and give the body to the server. Where the application may commit in it, it
        is looked at when it is closed."""
        try:
            if self._given is not None:
                self.begin()
        except BaseException:
            self.end()
            raise
        if self._position is None or isinstance(body, list | tuple):  # of a list nothing of the application is to run
            self.end()
            return body
        return _Closing(body, self._look)

    def end(self) -> None:
        """The application is done."""
        if self._writes:
            self._routes.end()

    def _look(self) -> None:
        """Whether it has committed since the response began."""
        self.end()
        if self._routes.wants(self._route, self._number, moved=not self._unmoved):
            now = self._gate.position(self._exchange)
            if now is not None and now != self._position:
                self._routes.say(self._route, self._position, now)

    def _added(self, sent: HeaderList, status: int) -> HeaderList:
        exchange, routes = self._exchange, self._routes
        position: Any = self._gate.position(exchange)
        contested = False
        if self._writes and not exchange.written:
            self._position = position
            self._unmoved = position is not None and position == exchange.before
            exchange.late = not self._unmoved and routes.knows(self._route)  # it was another one's commit
            streams = self._streams and not any(name.lower() == "content-length" for name, _ in sent)
            contested = streams and not routes.was_alone(self._number) and not routes.trusts(self._route)
        exchange.scheme = str(self._environ.get("wsgi.url_scheme", "http"))
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent]
        self._gate.replicate(exchange, position, status)
        exchange.late = exchange.late or contested
        added = self._gate.headers_at(exchange, position, given)
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in added]

    def _write_now(self, data: bytes) -> object:
        """PEP 3333's ``write``: it sends at once."""
        return self.begin()(data)


class Begun:
    """A response's body, whose first chunk has been taken already."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        chunks = iter(body)
        try:
            self._chunks = chain(list(islice(chunks, 1)), chunks)
        except BaseException:
            close(body)
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        close(self._body)


class _Closing:
    """A response's body; ``then`` is called when it has been closed, the first time."""

    def __init__(self, body: Iterable[bytes], then: Callable[[], None]) -> None:
        self._body = body
        self._then: Callable[[], None] | None = then

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        then, self._then = self._then, None
        try:
            close(self._body)
        finally:
            if then is not None:
                then()


def _nowhere(data: bytes) -> None:
    """Where a response goes that is replaced."""


def close(body: Iterable[bytes]) -> None:
    """As a server does."""
    if hasattr(body, "close"):
        body.close()


def _rule() -> str | None:
    """The route, in Flask, which tells it only while the request runs."""
    flask = sys.modules.get("flask")
    if flask is None or not flask.has_request_context() or flask.request.url_rule is None:
        return None
    return str(flask.request.url_rule.rule)
