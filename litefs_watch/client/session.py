"""What both clients decide: which token travels, where to, what an answer means, and whether it may be sent again. No I/O.

Rules.

1. **Nothing that may have run is sent twice.** Sent again is what no connection was made for, or what a node has answered
   with a replay: it has not done it, and says who should. A connection that breaks after the first byte is an error. Nor is
   the request sent on in whose handler that has happened.
2. **A token is believed as far as it can be read.** What is none, or is signed by nobody whom this process believes, is
   neither carried nor waited for; with a secret, no stranger's is.
3. **A session does not go back**, but where it is told to: an answer to a request that carried the session's token, or a
   later one, replaces it, whatever it says; that of another request only raises it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx2

from litefs_watch.changes import Role, Standing
from litefs_watch.consistency import PIN, Options, Token, Tokens, Verdict, note_halted
from litefs_watch.consistency.carrying import SAFE_METHODS
from litefs_watch.consistency.hops import HOSTNAME
from litefs_watch.consistency.options import Secret, options_of
from litefs_watch.consistency.tokens import txid_of
from litefs_watch.errors import ConfigError, NotHereYet, NotPrimary
from litefs_watch.printable import safe
from litefs_watch.replay import check_template
from litefs_watch.settings import check_timeout

if TYPE_CHECKING:
    from litefs_watch.settings import Settings

logger: logging.Logger = logging.getLogger("litefs_watch")

Address = str | Callable[[str], str]
"""``http://{hostname}:8080``, or a function of the primary's hostname that gives such an address."""

Headers = Mapping[str, str]

HEADER = "litefs-txid"

PRIMARY = "http://primary.litefs.invalid"
"""Stands for the primary, whichever node that is, until it is known. RFC 2606: it is nobody's name."""

MOST_TRIES = 20
"""Of one request."""

FIRST_PAUSE, LAST_PAUSE = 0.02, 1.0
"""Seconds before the next one, doubled each time; a change of the primary ends it."""

KEEP_ALIVE = 1.0
"""Seconds that an idle connection is used again: less than servers give it, so that no write meets one that is closed."""

_MOST_SERVICES = 1000
_MOST_DATABASES = 16  # of a service
_UNSIGNED = Tokens("", "position")
_NEVER_RAN = (httpx2.ConnectError, httpx2.ConnectTimeout)


class Session:
    """One client's token."""

    def __init__(self, settings: Settings, database: str | None, secret: Secret | Sequence[Secret] | None) -> None:
        name = settings.database_or_default(database)
        self.header: str = options_of({}, None if name == settings.database else name).header or HEADER
        """In which a middleware for that database has it."""
        self._tokens = Options(secret=secret).header_tokens(name)
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._text: str | None = None

    @property
    def text(self) -> str | None:
        return self._text

    def set(self, text: str | None) -> None:
        """Raises `ValueError` for what is no token."""
        token = None if text is None else self._read(text)
        if isinstance(token, Verdict):
            raise ValueError(f"{safe(str(text))[:60]!r} is no token ({token.value})")  # noqa: TRY004 - a string it is
        with self._lock:
            self._token, self._text = token, text

    def carried(self, request: httpx2.Request) -> tuple[Token | None, Headers]:
        """What a request is to carry, as a token and as headers; nothing where it has one of its own."""
        with self._lock:
            if self._text is None or self.header in request.headers:
                return None, {}
            return self._token, {self.header: self._text}

    def take(self, response: httpx2.Response, carried: Token | None) -> Token | Verdict | None:
        """The answer's token, which is the session's from now on. None where it has none."""
        text = response.headers.get(self.header)
        if text is None:
            return None
        token = self._read(text)
        if isinstance(token, Verdict):
            logger.warning("an answer's %s is %s, and ignored: %s", self.header, token.value, safe(text[:60]))
            return token
        with self._lock:
            knew = carried is not None and self._token is not None and txid_of(carried) >= txid_of(self._token)
            if self._token is None or knew or txid_of(token) > txid_of(self._token):
                self._token, self._text = token, text
        return token

    def _read(self, text: str) -> Token | Verdict:
        return self._tokens.decode(text.encode("utf-8", "replace"))


class Services:
    """A session for each origin: what one service says is no other's business. A service may have several databases."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, int | None], dict[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def carry(self, request: httpx2.Request) -> httpx2.Request:
        """The request with its service's tokens. Another one: what is put into the client's goes on with a redirection."""
        with self._lock:
            texts = self._texts.get(_origin(request), {})
            new = {header: text for header, text in texts.items() if header not in request.headers}
        return _copy(request, request.url, request.stream, new) if new else request

    def take(self, sent: httpx2.Request, response: httpx2.Response) -> None:
        """By rule 3, of what `carry` has made. Who has signed it is the service's matter."""
        told = {header: text for header, text in response.headers.items() if _is_token(header, text)}
        if not told:
            return
        origin = _origin(sent)
        with self._lock:
            texts = self._texts.setdefault(origin, {})
            for header, text in told.items():
                known = _reach(texts.get(header))
                if known < 0 and len(texts) >= _MOST_DATABASES:
                    continue
                if _reach(sent.headers.get(header)) >= known or _reach(text) > known:
                    texts[header] = text
            self._texts.move_to_end(origin)
            if len(self._texts) > _MOST_SERVICES:
                self._texts.popitem(last=False)


def _is_token(header: str, text: str) -> bool:
    named = header == HEADER or header.startswith(f"{HEADER}-")
    return named and len(header) <= 100 and len(text) <= 100 and text.isascii()


def _reach(text: str | None) -> int:
    """How far a token goes, whoever has signed it; what is none goes nowhere, and none is before all."""
    if text is None:
        return -1
    token = _UNSIGNED.decode(text.partition(".")[0].encode("ascii", "replace"))
    return 0 if isinstance(token, Verdict) else txid_of(token)


def _copy(request: httpx2.Request, url: httpx2.URL, stream: Any, added: Headers) -> httpx2.Request:
    headers = request.headers.copy()
    headers.update(added)
    return httpx2.Request(request.method, url, headers=headers, stream=stream, extensions=request.extensions)


def _origin(request: httpx2.Request) -> tuple[str, str, int | None]:
    return request.url.scheme, request.url.host, request.url.port


class Counted(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A request's body, and whether any of it was asked for: then something may have been sent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.begun: bool = False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        async for piece in self._stream:
            yield piece


class Way:
    """One request's way to the primary: where to, how often, until when."""

    def __init__(
        self, request: httpx2.Request, carried: Headers, settings: Settings, address: Address, patience: float
    ) -> None:
        url = request.url
        if (url.scheme, url.host) != ("http", "primary.litefs.invalid"):
            raise httpx2.UnsupportedProtocol(
                f"this client sends to the primary only: write a path, not {url}", request=request
            )
        self._request, self._carried, self._settings, self._address = request, carried, settings, address
        self._again = isinstance(request.stream, httpx2.ByteStream)
        self._ends = time.monotonic() + patience
        self._tries = 0
        self._pause = FIRST_PAUSE
        self._body = Counted(request.stream)
        self._sent_to, self._prefix = url, b""

    @property
    def left(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    @property
    def pause(self) -> float:
        """Seconds until the next try."""
        pause, self._pause = min(self._pause, self.left), min(self._pause * 2, LAST_PAUSE)
        return pause

    def to(self, standing: Standing) -> httpx2.Request:
        """The request as it goes to the primary. Raises `NotPrimary` where that has no name that can be sent to."""
        hostname = self._settings.node_name if standing.role is Role.PRIMARY else standing.primary
        if hostname is None or HOSTNAME.fullmatch(hostname) is None:
            seen = "has no hostname" if hostname is None else f"is called {safe(hostname)[:80]!r}, which is in no address"
            raise NotPrimary(hostname, f"nothing was sent: the primary {seen}; set lease.hostname in its litefs.yml")
        base = self._address(hostname) if callable(self._address) else self._address.format(hostname=hostname)
        self._tries += 1
        self._body = Counted(self._request.stream)
        url = httpx2.URL(base)
        self._prefix = url.raw_path.rstrip(b"/")
        self._sent_to = url = url.copy_with(raw_path=self._prefix + self._request.url.raw_path)
        request = _copy(self._request, url, self._body, self._carried)
        if request.headers.get("host") == self._request.url.host:
            request.headers["host"] = url.netloc.decode("ascii")
        return request

    def may_go_on(self, error: httpx2.TransportError) -> bool:
        """Whether nothing was sent, and there is time for another try."""
        never = isinstance(error, _NEVER_RAN) and not self._body.begun
        if not never:
            self.has_run()
        return never and self._tries < MOST_TRIES and self.left > 0

    def answered(self, response: httpx2.Response) -> None:
        """By who has done it. A redirection to that very node, as frameworks write one, is one to the primary."""
        self.has_run()
        if (location := response.headers.get("location")) is None:
            return
        try:
            url = self._sent_to.join(location)
        except httpx2.InvalidURL:
            return
        if url.netloc == self._sent_to.netloc and url.raw_path.startswith(self._prefix + b"/"):
            response.headers["location"] = url.raw_path[len(self._prefix) :].decode("ascii")

    def has_run(self) -> None:
        """It has, or may have: the handler that asked for it must not be sent to another node, to ask for it again."""
        if self._request.method not in SAFE_METHODS:
            note_halted()

    def is_replay(self, response: httpx2.Response) -> bool:
        """Whether another node should have it, which has not been done: Fly.io throws such an answer away, whatever it is.
        LiteFS's proxy says so with a 200 (http/proxy_server.go: serveNonRead). Raises nothing; `refuse` does."""
        return "fly-replay" in response.headers

    def refuse(self, standing: Standing) -> None:
        """Raise `NotPrimary` where a replayed request can't be sent again: its body is gone, or its time."""
        if not self._again:
            raise NotPrimary(standing.primary, "nothing was done: that node is no primary, and the body can't be sent again")
        if self._tries >= MOST_TRIES or self.left == 0:
            raise NotPrimary(standing.primary, f"nothing was done: no node took it as the primary (tries: {self._tries})")


def wanted_here(token: Token | Verdict | None, response: httpx2.Response) -> Token | None:
    """What is to be waited for here. Raises `NotHereYet` where nobody can tell."""
    if isinstance(token, Verdict):
        raise NotHereYet(_answered(response, f"its token is {token.value}"), response)
    if token == PIN:
        raise NotHereYet(_answered(response, "the position of what it wrote is not known yet"), response)
    return token


def late(response: httpx2.Response, error: Exception) -> NotHereYet:
    return NotHereYet(_answered(response, str(error)), response)


def _answered(response: httpx2.Response, why: str) -> str:
    return f"the primary has answered {response.status_code}, and may have written; it is not known to be here: {why}"


def check_address(client: str, address: Address) -> None:
    """Raises `ConfigError`."""
    if isinstance(address, str):
        check_template(client, address)
    elif not callable(address):
        raise ConfigError(
            f"{client}: the address is a template such as 'http://{{hostname}}:8080', or a function of hostname"
        )


def transport_options(client: str, options: Mapping[str, Any], *, given: bool) -> dict[str, Any]:
    """What of httpx2's options is for the transport below: httpx2 itself passes them over where it has one, as here. Raises
    `ConfigError` where nobody would heed them, and for what would lead around that transport."""
    for name in ("proxy", "mounts"):
        if options.get(name):
            raise ConfigError(f"{client}: with {name}= requests would not go to the primary: give a transport= that has it")
    found = {name: options[name] for name in ("verify", "cert", "http1", "http2", "limits") if name in options}
    if given and found:
        raise ConfigError(f"{client}: {', '.join(found)}= would be passed over: give it to the transport= instead")
    limits = found.get("limits") or httpx2.Limits()
    idle = KEEP_ALIVE if limits.keepalive_expiry is None else min(KEEP_ALIVE, limits.keepalive_expiry)
    found["limits"] = httpx2.Limits(
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=idle,
    )
    return found


def check_limits(patience: float, wait: float | None) -> None:
    """Raises `ValueError`."""
    if check_timeout(patience) is None:
        raise ConfigError("patience is a number of seconds, not None")
    check_timeout(wait)
