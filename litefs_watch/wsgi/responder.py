"""Answers the requests that can't run here: with an `Answer`, or by sending them to the primary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from litefs_watch.consistency import Action, Answer, Refuse, Replay, named, refusal
from litefs_watch.errors import ConfigError
from litefs_watch.printable import by_name
from litefs_watch.replay import BODY_TAKEN, NOT_COUNTED, Answering, Forward
from litefs_watch.web.seldom import Refusals
from litefs_watch.wsgi.environ import Body, path_of, target_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from litefs_watch.wsgi.forwarder import Forwarder

Strategy = Callable[["WSGIEnvironment", "StartResponse", str], Iterable[bytes]]
"""Sends a request to the primary by means of its own: ``(environ, start_response, hostname)``."""


class Responder:
    """One middleware's ``replay=``, for the node ``hostname``. Raises `ConfigError` for what is no strategy."""

    def __init__(self, strategy: Answering | Forward | Strategy, hostname: str) -> None:
        self._refusals = Refusals()
        self._answering = strategy if isinstance(strategy, Answering) else None
        self._forwarder: Forwarder | None = None
        self._strategy: Strategy | None = None
        if isinstance(strategy, Forward):
            from litefs_watch.wsgi.forwarder import Forwarder  # needs an extra

            self._forwarder = Forwarder(strategy, hostname)
        elif callable(strategy):
            self._strategy = strategy
        elif self._answering is None:
            raise ConfigError(f"replay: FlyReplay(), Redirect(...), Forward(...) or a function, not {by_name(strategy)}")

    @property
    def needs_body(self) -> bool:
        """Whether a replay needs the request's body: the application is then to get a `Body` for its ``wsgi.input``."""
        return self._answering is None

    def respond(self, action: Action, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as decided: `Replay` or `Refuse`."""
        body = environ.get("wsgi.input")
        if isinstance(action, Replay):
            if self._answering is not None:
                return send(self._answering.answer(action.hostname, target_of(environ), action.state), start_response)
            if isinstance(body, Body) and body.taken:
                action = Refuse(*BODY_TAKEN)
            elif self._forwarder is not None:
                body = body if isinstance(body, Body) else Body(environ)
                return self._forwarder.forward(environ, start_response, body, action.hostname, action.state)
            elif self._strategy is not None and action.hops == 1:
                return self._strategy(environ, start_response, action.hostname)
            else:
                action = Refuse(*NOT_COUNTED)
        if not isinstance(action, Refuse):
            raise TypeError(f"not an answer: {action}")
        self._refusals.say(action, named(environ["REQUEST_METHOD"], path_of(environ)))
        return send(refusal(action.reason, action.status, action.headers), start_response)


def send(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    """The whole answer."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
    return [answer.body] if answer.body else []
