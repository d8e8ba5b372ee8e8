"""How a request gets to the primary: the strategies of ``replay=``.

=====================================================  ==============================================================
`FlyReplay()` (the default)                            409 with ``fly-replay``; Fly.io's edge sends the request again
`Redirect("https://{hostname}.example.com")`           307; the client sends it again, with its method and body
`Forward("http://{hostname}:8080")`                    this node sends it on, and streams the answer back
a callable                                             what you like: see the middleware that takes it
=====================================================  ==============================================================

The first two are answers, and the same for every kind of server. `Forward` is what is common to those who send it on: the
address, and which headers pass. ``{hostname}`` is the primary's name in LiteFS, of letters, digits, ``.``, ``_`` and ``-``:
with any other, nothing is sent anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from litefs_watch.consistency import Answer
from litefs_watch.consistency.hops import FORWARDED
from litefs_watch.errors import ConfigError

# RFC 9110, 7.6.1: between two neighbours only. `expect` has been answered by this server, `host` is dealt with apart.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"http2-settings",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

BODY_TAKEN = (
    "This write reached a replica, and its body has been read there: it can't be sent on. Try again at the primary.",
    "name its path in primary_paths: it is then sent on before anything is read",
)
"""Why it is refused, for the client and for the log, when its body can't be sent on any more."""

NOT_COUNTED = (
    "This request was sent here by another node, which takes this one for the primary. Try again shortly.",
    "a callable replay= carries no count of hops: it sends a request on once",
)
"""Why it is refused where it would be sent on once more by a strategy of one's own."""

HeaderList = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class FlyReplay:
    """409 with ``fly-replay: instance=HOSTNAME``, as litefs-js answers. Fly.io takes bodies up to 1 MB.

    Off Fly, nobody heeds the header, and 409 fails loudly. ``timeout`` (milliseconds that the primary may take to answer)
    and ``fallback`` are Fly's fields of these names; with a fallback, a request whose replay failed comes back here, and is
    refused, unless this node is the primary by now, or becomes it while none is known.

    A second hop, and one of a request that has been held, says so in Fly's ``state``.
    """

    timeout: int | None = None
    fallback: Literal["prefer_self", "force_self"] | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and (type(self.timeout) is not int or self.timeout <= 0):
            raise ConfigError(f"FlyReplay: timeout is a whole number of milliseconds, not {self.timeout!r}")
        if self.fallback not in (None, "prefer_self", "force_self"):
            raise ConfigError(f"FlyReplay: fallback is 'prefer_self' or 'force_self', not {self.fallback!r}")

    def answer(self, hostname: str, target: str, state: str = "") -> Answer:
        """The response. ``target`` (path and query) is not in it; ``state`` is what travels with the request."""
        fields = [f"instance={hostname}"]
        if state:
            fields.append(f"state={state}")
        if self.timeout is not None:
            fields.append(f"timeout={self.timeout}ms")
        if self.fallback is not None:
            fields.append(f"fallback={self.fallback}")
        return Answer.of(409, ("fly-replay", ";".join(fields)))


@dataclass(frozen=True, slots=True)
class Redirect:
    """307 to ``template`` with the primary's ``{hostname}`` in it, and the same path and query.

    Loops end with the client's own limit.
    """

    template: str

    def __post_init__(self) -> None:
        check_template("Redirect", self.template)

    def answer(self, hostname: str, target: str, state: str = "") -> Answer:
        """The response. ``target`` is path and query, percent-encoded. ``state`` is not in it."""
        return Answer.of(307, ("location", self.template.format(hostname=hostname) + target))


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request on to ``template`` with the primary's ``{hostname}`` in it, and stream its answer back.

    Bodies of any size, as they come, in both directions at the same time. In seconds: ``connect_timeout``; ``timeout``
    between two pieces of the answer, once the request is sent; ``upload_timeout`` between two pieces of the request's body,
    until the answer begins (30, or ``timeout`` where that is less). At most ``max_connections`` are open at once; where all
    are taken, uploads that are silent make room.

    WebSockets need wsproto (the extra ``forward``), have ``max_connections`` of their own, and may be silent for ever.

    ``host`` stays the client's, so that the primary makes the same links and accepts the same hosts; ``x-forwarded-for``,
    ``-host`` and ``-proto`` are added to.

    =======  ================================================================================================
    503      the primary could not be reached: nothing was sent, trying again is safe
    408      the client was silent in the middle of its body: the primary never had the whole request
    502      the primary broke off: whether it has done what was asked is not known
    504      the primary stayed silent: the same
    =======  ================================================================================================
    """

    template: str
    connect_timeout: float = 5.0
    timeout: float = 60.0
    max_connections: int = 100
    upload_timeout: float | None = None

    def __post_init__(self) -> None:
        check_template("Forward", self.template)
        if not (self.connect_timeout > 0 and self.timeout > 0 and self.max_connections > 0 and self.silent_for > 0):
            raise ConfigError("Forward: connect_timeout, timeout, upload_timeout and max_connections are more than zero")

    @property
    def silent_for(self) -> float:
        """Seconds that a client may be silent in the middle of its body."""
        return min(30.0, self.timeout) if self.upload_timeout is None else self.upload_timeout

    def url(self, hostname: str, target: str) -> str:
        """The address at the primary. ``target`` is path and query, percent-encoded."""
        return self.template.format(hostname=hostname) + target

    def request_headers(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        own: str,
        scheme: str,
        client: str | None,
        body: bool,
        state: str = "",
    ) -> HeaderList:
        """The headers to send. ``own`` is this node's hostname, ``scheme`` and ``client`` (its address) are the request's,
        ``body`` tells whether there is one, and ``state`` is what travels with it."""
        listed = [(name.lower(), value) for name, value in headers]
        names = {name for name, _ in listed}
        left_out = HOP_BY_HOP | _JOINED | {b"expect", FORWARDED}
        if b"transfer-encoding" in names:
            left_out |= {b"content-length"}  # RFC 9112, 6.3: then it says nothing
        passed = [(name, value) for name, value in listed if name not in left_out]
        if cookies := [value for name, value in listed if name == b"cookie"]:
            passed.append((b"cookie", b"; ".join(cookies)))
        hops = [value for name, value in listed if name == b"x-forwarded-for"] + ([client.encode()] if client else [])
        if hops:
            passed.append((b"x-forwarded-for", b", ".join(hops)))
        if b"x-forwarded-proto" not in names:
            passed.append((b"x-forwarded-proto", scheme.encode()))
        if b"x-forwarded-host" not in names:
            passed += [(b"x-forwarded-host", value) for name, value in passed if name == b"host"]
        if body and all(name != b"content-length" for name, _ in passed):
            passed.append((b"transfer-encoding", b"chunked"))
        passed.append((FORWARDED, (f"{own};state={state}" if state else own).encode()))
        return passed

    def response_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> HeaderList:
        """The headers of the primary's answer that are for the client. This node's server writes ``date`` and ``server``."""
        return [(name, value) for name, value in end_to_end(headers) if name not in (b"date", b"server")]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> HeaderList:
    """The headers of an answer that a proxy passes on, names in lower case: all but hop-by-hop ones, and what ``connection``
    names. Of a request, ``connection`` says nothing: a client could take away with it what a proxy before this node has
    added to tell who it is, and nobody knows what that is called.
    """
    listed = [(name.lower(), value) for name, value in headers]
    dropped = set(HOP_BY_HOP)
    for name, value in listed:
        if name == b"connection":
            dropped |= {each.strip().lower() for each in value.split(b",")} - _NEEDED
    return [(name, value) for name, value in listed if name not in dropped]


_NEEDED = frozenset((b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"set-cookie"))
_JOINED = frozenset((b"cookie", b"x-forwarded-for"))

Answering = FlyReplay | Redirect
"""The strategies whose answer needs neither the request's body nor any I/O."""


def target(path: str, raw_path: bytes | None, query: bytes) -> str:
    """Path and query as they go into an address: percent-encoded, in ASCII, whatever the server handed over."""
    raw = raw_path.partition(b"?")[0] if raw_path else quote(path.encode("utf-8", "surrogateescape")).encode()
    text = quote(raw if raw.startswith(b"/") else b"/" + raw, safe=_AS_IT_IS)
    return f"{text}?{quote(query, safe=_AS_IT_IS + '?')}" if query else text


_AS_IT_IS = "%/:@!$&'()*+,;=-._~"


def as_it_came(raw: bytes) -> bytes:
    """Path and query of a request line, byte for byte; but what can't stand there is percent-encoded."""
    return _UNPRINTABLE.sub(lambda byte: b"%%%02X" % byte[0][0], raw)


_UNPRINTABLE = re.compile(rb"[^!-~]")


def check_template(strategy: str, template: str) -> None:
    """Raise `ConfigError` unless it is the start of an address with at most ``{hostname}`` in it."""
    example = f'{strategy}("http://{{hostname}}:8080")'
    try:
        printed = template.format(hostname="node-a")
        parts = urlsplit(printed)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and not (parts.query or parts.fragment) and re.fullmatch(r"[!-~]+", printed) is not None
    except (AttributeError, KeyError, IndexError, ValueError):
        usable = False
    if not usable or printed.endswith("/"):
        raise ConfigError(
            f"{strategy}: {template!r} is no address to put the path behind; write {example}, without a '/' at the end"
        )
