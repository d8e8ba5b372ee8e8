"""A path's methods, and errors as JSON: ``{"error": "what is wrong, what was seen, what to do"}``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.errors import WatcherClosed
from litefs_watch.printable import safe

Handler = Callable[[Request], Awaitable[App]]
FRESH = {"cache-control": "no-store"}


class Refusal(Exception):
    """An answer that is none, with its status and the words of it. ``more`` is in its JSON, too."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: object) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers
        self.more = more

    def response(self) -> Response:
        return answer({"error": str(self), **self.more}, self.status, self.headers)


def answer(record: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, on a line of its own: names from outside can't reach a terminal's control codes."""
    content = json.dumps(record, ensure_ascii=True).encode() + b"\n"
    return Response(content, status, {**FRESH, **(headers or {})}, "application/json")


class Endpoint:
    """An ASGI application of one path: a handler for each method. HEAD is for who may GET, unless that can take long.

    ``otherwise`` is for all other methods; without one they are refused.
    """

    def __init__(self, handlers: Mapping[str, Handler], *, head: bool = False, otherwise: Handler | None = None) -> None:
        self._handlers = dict(handlers)
        self._otherwise = otherwise
        if head:
            self._handlers["HEAD"] = handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._handler(scope["method"])(Request(scope, receive, send))
            await response(scope, receive, send)
        except Refusal as refusal:  # before anything of another answer was sent
            await refusal.response()(scope, receive, send)
        except WatcherClosed as closed:
            await Refusal(503, str(closed), {"retry-after": "1"}).response()(scope, receive, send)

    def _handler(self, method: str) -> Handler:
        handler = self._handlers.get(method, self._otherwise)
        if handler is None:
            allowed = ", ".join(self._handlers)
            raise Refusal(405, f"{safe(method[:20])} is not answered here: {allowed}", {"allow": allowed})
        return handler
