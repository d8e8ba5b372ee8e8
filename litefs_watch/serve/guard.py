"""Who is let in.

Without a token the sidecar is on loopback, and whoever runs on this machine may ask. A page of elsewhere in a browser on it
is somebody else: neither by a name of its own that leads here (DNS rebinding), nor by asking and not being told.
"""

from __future__ import annotations

import hmac
import logging
import re

from starlette.datastructures import Headers

from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from litefs_watch.printable import safe
from litefs_watch.serve.endpoints import Refusal

logger: logging.Logger = logging.getLogger("litefs_watch")

LOCAL = frozenset(("localhost", "127.0.0.1", "[::1]"))
LOCAL_ONLY = "without a token it goes by localhost, 127.0.0.1 or [::1], so that no page of elsewhere can ask"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(?::[0-9]*)?")
LONGEST_QUERY = 2000
"""Bytes: a database's name has 250 at most, of three each."""


class Guard:
    """ASGI middleware: nobody else reaches ``app``. ``own`` is the name that it listens on, if that is another one."""

    def __init__(self, app: App, token: str | None, own: str | None = None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._names = LOCAL if own is None else LOCAL | {own.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1000})
            return
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, note)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except Exception:
            logger.exception("%s failed through a fault of litefs_watch", safe(scope["path"][:100]))
            if not started:
                await Refusal(500, "this is a fault of litefs_watch: its log tells more").response()(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._token is not None:
            self._check_token(headers.get("authorization", ""))
        else:
            self._check_place(headers, scope["method"])
        if len(scope["query_string"]) > LONGEST_QUERY:
            raise Refusal(414, f"the query is longer than {LONGEST_QUERY} bytes")

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            raise Refusal(401, "a token is wanted: authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        if not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Refusal(401, "the token is another one than that of this sidecar", challenge)

    def _check_place(self, headers: Headers, method: str) -> None:
        for host in headers.getlist("host"):  # a load balancer's check may have none; a browser always has
            if _without_port(host) not in self._names:
                raise Refusal(403, f"it is asked for by the name {safe(host[:80])}: {LOCAL_ONLY}")
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers.get('host', '')}":
            raise Refusal(403, f"a page of {safe(origin[:80])} may not ask")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_click(headers, method):
            raise Refusal(403, "a page of elsewhere may not ask")


def _is_click(headers: Headers, method: str) -> bool:
    """A link that somebody follows, not an image or a frame."""
    return method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _without_port(host: str) -> str | None:
    found = _HOST.fullmatch(host.lower())
    return None if found is None else found[1]
