"""What an application can choose: each option with its unit, its default, and where the default comes from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypedDict, get_args
from urllib.parse import quote
from zlib import crc32

from litefs_watch.consistency.tokens import COOKIE_NAME, Cookie, Format, Tokens
from litefs_watch.errors import ConfigError
from litefs_watch.printable import did_you_mean

OnTimeout = Literal["replay", "error", "stale"]
SameSite = Literal["lax", "strict", "none"]
OnUnreplicated = Literal["answer", "error"]
CloseWebSockets = Literal["primary_paths", "all", "none"]
Paths = Sequence[str | re.Pattern[str]] | Callable[[str], bool]
Secret = str | bytes


class OptionKeywords(TypedDict, total=False):
    """`Options`, for the signature of whoever passes them on."""

    cookie: str | None
    cookie_format: Format | None
    accept: Sequence[str]
    header: str | None
    secret: Secret | Sequence[Secret] | None
    max_age: int
    secure: bool
    same_site: SameSite
    domain: str | None
    path: str
    timeout: float
    on_timeout: OnTimeout
    max_waiting: int | None
    max_held: int | None
    max_ahead: int
    hold_writes: float
    late_commits: float
    replicated_to: int
    replication_timeout: float
    on_unreplicated: OnUnreplicated
    close_websockets: CloseWebSockets
    websocket_grace: float
    primary_paths: Paths
    read_paths: Paths
    passthrough_paths: Paths
    monotonic: bool
    unmounted: bool


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every middleware. What can't work raises `ConfigError`."""

    cookie: str | None = "litefs_pos"
    """The cookie's name. ``txnum`` to work together with litefs-js, ``__txid`` with LiteFS's proxy: these two carry a TXID
    alone, which names no history. None: only the header."""

    cookie_format: Format | None = None
    """``position`` (LiteFS's text, with the checksum), ``decimal`` (litefs-js), ``hex`` (LiteFS's proxy). None: by the name:
    decimal for ``txnum``, hex for ``__txid``, position for others."""

    accept: Sequence[str] = ()
    """Cookies of an older deployment, such as ``("txnum",)`` of litefs-js: they are read, unsigned, where the client has no
    token of this one, and never set. The format is their name's."""

    header: str | None = "litefs-txid"
    """The header that carries the token for clients without cookies, in both directions. None: only the cookie."""

    secret: Secret | Sequence[Secret] | None = field(default=None, repr=False)
    """Signs the token, so that nobody can make up one. Several: the first signs, all are believed (rotation)."""

    max_age: int = 300
    """Seconds that the cookie lives: the 5 minutes of LiteFS's proxy. More than a replica ever lags behind."""

    secure: bool = True
    """Whether browsers send the cookie over HTTPS only (and to localhost). litefs-js's."""

    same_site: SameSite = "lax"
    """The cookie's SameSite. litefs-js's."""

    domain: str | None = None
    """The cookie's Domain. None: the host that set it."""

    path: str = "/"
    """The cookie's Path. litefs-js's, and LiteFS's proxy's."""

    timeout: float = 0.5
    """Seconds that a read waits for the client's TXID. litefs-js's."""

    on_timeout: OnTimeout = "replay"
    """What becomes of a read whose TXID did not come: ``replay`` to the primary (litefs-js's), ``error`` (503), or
    ``stale`` (served, and marked with the header ``litefs-stale``)."""

    max_waiting: int | None = None
    """Requests of this process that may wait at once for a TXID; the next is treated as if its time had passed. None: 1,000
    under ASGI, where a waiter costs a connection and a task; under WSGI, where it costs a thread (gunicorn's examples have
    8, waitress has 4), 4 with a `secret`, and 2 without, as anybody may then make up a token that is waited for in vain;
    with one, the next waits for a tenth of ``timeout``; without, so does each once waits in vain have taken a second of
    threads, and none waits once they have taken two. Give fewer than half of a process's threads."""

    max_held: int | None = None
    """Requests of this process that may be held at once while no primary is known; the next is refused. None: as many as
    ``max_waiting``, if that is given; else 1,000 under ASGI, and 3 under WSGI: what needs no primary finds a thread. In the
    first two seconds without a primary, a planned hand-over, more are held there: in all threads that were seen but two."""

    max_ahead: int = 1_000_000
    """Transactions that a client may be ahead of this node and still be waited for; not applied to signed tokens. A quarter
    of an hour of 1,000 commits a second: what is further ahead won't be here within ``timeout``."""

    hold_writes: float = 5.0
    """Seconds that a write is held while no primary is known, on all the nodes together that it is sent to. A fail-over
    takes 2 to 10; the proxy of LiteFS says 503 at once."""

    late_commits: float = 0.05
    """Seconds that the response to a write may be held, under ASGI, where nothing has been committed when it starts: until
    the application returns, which is when the sessions of FastAPI's dependencies commit. A stream never is. A transaction
    takes LiteFS 3 to 20 ms. 0: none is held, and what commits later goes to the primary for its client's next read."""

    replicated_to: int = 0
    """Other nodes that are to have a write before it is answered (``Settings.peers``): the response says in
    ``litefs-replicated`` how many have. 0: it does not wait. A read never does."""

    replication_timeout: float = 0.5
    """Seconds that a write's response waits for them at most. Replication takes some 2 ms in one place."""

    on_unreplicated: OnUnreplicated = "answer"
    """What becomes of a write that fewer have got by then: it is ``answer``ed all the same, or ``error``: a 503, which says
    that the write stands here all the same."""

    close_websockets: CloseWebSockets = "primary_paths"
    """Which WebSockets, under ASGI, are closed when this node, which was the primary when they were opened, is not any more:
    with 1012 'Service Restart', so that their clients connect again. ``primary_paths``: whose path is one of those, since
    their clients are sent on to the new primary; elsewhere a replica serves as well, and any node may be found next.
    ``all``: where others write, too, or their handlers call ``ensure_primary`` before they accept. ``none``: all stay."""

    websocket_grace: float = 5.0
    """Seconds that such WebSockets stay open while no primary is known: as long as a write is held. Where another node is
    named as the primary, they are closed at once."""

    primary_paths: Paths = ()
    """Paths that go to the primary whatever the method (but OPTIONS): for a GET that writes. Patterns in which ``*`` is
    anything, slashes included (as in the configuration of LiteFS's proxy), compiled ones, which must match the whole
    path, or a function of the path. The path is the application's own, decoded, and without its root path: the same on
    every server, and where it is mounted below another."""

    read_paths: Paths = ()
    """Paths that only read, whatever the method (a search, a GraphQL query): a POST there waits and runs as a GET does. In
    the same notation; what is one of ``primary_paths`` as well is none."""

    passthrough_paths: Paths = ()
    """Paths that are left alone, in the same notation."""

    monotonic: bool = False
    """Whether every response carries the position that it may have shown, so that a client never sees an older state than
    it has seen, whichever replica answers. Costs a read of ``-pos`` for each response, and makes every page private."""

    unmounted: bool = False
    """Whether the primary takes writes, and reads with a token, while ``litefs_dir`` is no mount though LiteFS answers: an
    ordinary directory without any of its files, from which nothing is replicated. Else they are refused (503)."""

    def __post_init__(self) -> None:
        if self.cookie is None and self.header is None:
            raise ConfigError("cookie=None and header=None: nothing would carry the token; name one of them")
        _check(self.cookie is None or _is(COOKIE_NAME, self.cookie), "cookie", self.cookie, "the name of one, or None")
        _check(self.header is None or _is(_HEADER, self.header), "header", self.header, "the name of one, or None")
        _check(
            self.cookie_format in (None, *get_args(Format)),
            "cookie_format",
            self.cookie_format,
            "'position', 'decimal' or 'hex'",
        )
        _check(not isinstance(self.accept, str), "accept", self.accept, "a sequence of cookies' names")
        for name in self.accept:
            _check(_is(COOKIE_NAME, name) and name != self.cookie, "accept", name, "another cookie's name")
        _check(self.on_timeout in get_args(OnTimeout), "on_timeout", self.on_timeout, "'replay', 'error' or 'stale'")
        _check(self.same_site in get_args(SameSite), "same_site", self.same_site, "'lax', 'strict' or 'none'")
        _check(
            self.close_websockets in get_args(CloseWebSockets),
            "close_websockets",
            self.close_websockets,
            "'primary_paths', 'all' or 'none'",
        )
        if self.same_site == "none" and not self.secure:
            raise ConfigError("same_site='none' needs secure=True: browsers drop the cookie otherwise")
        _check(self.domain is None or _is(_DOMAIN, self.domain), "domain", self.domain, "one such as example.com")
        _check(_is(_PATH, self.path), "path", self.path, "the cookie's path, which begins with '/'")
        for name in ("timeout", "hold_writes", "late_commits", "replication_timeout", "websocket_grace"):
            seconds = getattr(self, name)
            _check(_is_number(seconds) and seconds >= 0, name, seconds, "a number of seconds, zero or more")
        _check(
            self.on_unreplicated in get_args(OnUnreplicated), "on_unreplicated", self.on_unreplicated, "'answer' or 'error'"
        )
        for name, least in (("max_age", 1), ("max_waiting", 0), ("max_held", 0), ("max_ahead", 0), ("replicated_to", 0)):
            number = getattr(self, name)
            if number is None and name in ("max_waiting", "max_held"):
                continue
            _check(type(number) is int and number >= least, name, number, f"a whole number, {least} or more")
        self.secrets  # noqa: B018 - these check what they are made from
        compile_paths("primary_paths", self.primary_paths)
        compile_paths("read_paths", self.read_paths)
        compile_paths("passthrough_paths", self.passthrough_paths)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """``secret``, as bytes."""
        if self.secret is None:
            return ()
        given = (self.secret,) if isinstance(self.secret, str | bytes) else tuple(self.secret)
        if not given or not all(isinstance(secret, str | bytes) and secret for secret in given):
            raise ConfigError("secret is a text or bytes, or several, and none empty; with None, tokens are not signed")
        return tuple(secret.encode() if isinstance(secret, str) else secret for secret in given)

    def tokens(self, database: str) -> Tokens:
        """What reads and writes the cookie's tokens."""
        form = self.cookie_format or _FORMATS.get(self.cookie or "", "position")
        return Tokens(self.cookie or self.header or "", form, self.secrets, database)

    def header_tokens(self, database: str) -> Tokens:
        """The header's: whole positions, whatever the cookie's format is. Signed for the database alone: a client or a job
        that has the secret need not know what the cookie is called."""
        return Tokens(Options.cookie or "", "position", self.secrets, database)

    def accepted(self, name: str) -> tuple[Cookie, Tokens]:
        """What finds and reads a cookie of an older deployment, and deletes it."""
        return Cookie(name, "; Path=/", self.max_age), Tokens(name, _FORMATS.get(name, "position"))

    @property
    def cookies(self) -> Cookie | None:
        """What finds and makes the cookie."""
        if self.cookie is None:
            return None
        attributes = f"; Path={self.path}" + (f"; Domain={self.domain}" if self.domain else "")
        attributes += f"; HttpOnly; SameSite={self.same_site.capitalize()}" + ("; Secure" if self.secure else "")
        return Cookie(self.cookie, attributes, self.max_age)


def options_of(given: Mapping[str, Any], database: str | None = None) -> Options:
    """The options that a middleware was given by keyword. Where it is for a ``database`` that is not its watcher's own, the
    cookie and the header that it was not given are named after it, so that those of several don't meet.

    Raises `ConfigError` for a value that can't work, and `TypeError`, as Python does, for a name that is none.
    """
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, [*known, "database", "databases", "replay", "watcher"])
            raise TypeError(f"LiteFSMiddleware() got an unexpected keyword argument {name!r}{hint}")
    named = {} if database is None else {"cookie": _cookie_of(database), "header": _header_of(database)}
    return Options(**(named | dict(given)))


def options_of_each(given: Mapping[str, Any], databases: Sequence[str], own: str | None) -> dict[str, Options]:
    """The options of a middleware for several databases: of each its own, ``own`` being the watcher's."""
    if isinstance(databases, str) or not databases or len(set(databases)) < len(databases):
        raise ConfigError(f"databases is a sequence of names, each once, not {databases!r}")
    for name in ("cookie", "header", "accept"):
        if given.get(name):
            raise ConfigError(f"{name}: each of several databases has its own; to name them, use a middleware for each")
    return {database: options_of(given, None if database == own else database) for database in databases}


def _cookie_of(database: str) -> str:
    return f"{Options.cookie}_{quote(database, safe='', errors='surrogateescape')}"  # '%' may be in a cookie's name


def _header_of(database: str) -> str:
    """Only what survives WSGI, and proxies that drop underscores; two names never give the same."""
    plain = re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", database) is not None
    name = re.sub("[^a-z0-9]+", "-", database.lower()).strip("-")
    return f"{Options.header}-{name}" + ("" if plain else f"-{crc32(database.encode('utf-8', 'surrogateescape')):08x}")


_FORMATS: Mapping[str, Format] = {"txnum": "decimal", "__txid": "hex"}
_HEADER = re.compile(r"[A-Za-z0-9_-]+")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_PATH = re.compile(r"/[!-:<-~]*")  # visible ASCII without the semicolon


def compile_paths(option: str, paths: Paths) -> Callable[[str], object] | None:
    """A function that tells whether a path is one of them; None where there are none. Raises `ConfigError`.

    Slashes that are doubled, and one at the end, change nothing: many applications route such a path the same.
    """
    if callable(paths):
        return partial(_matches, paths)
    if isinstance(paths, str | re.Pattern):
        raise ConfigError(f"{option} is a sequence of patterns, not a single one: write [{paths!r}]")
    alternatives = []
    for path in paths:
        if isinstance(path, re.Pattern) and isinstance(path.pattern, str):
            alternatives.append(path.fullmatch)
        elif isinstance(path, str) and path.startswith(("/", "*")):
            pattern = path.rstrip("/") or "/"
            alternatives.append(re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch)
        else:
            raise ConfigError(f"{option}: {path!r} is no pattern; write '/reports/*', '*.png', or re.compile(...)")
    return partial(_matches, lambda path: any(matches(path) for matches in alternatives)) if alternatives else None


def _matches(matches: Callable[[str], object], path: str) -> bool:
    return bool(matches(path)) or bool(matches(_SLASHES.sub("/", path).rstrip("/") or "/"))


_SLASHES = re.compile("//+")


def route_of(path: str, root_path: str) -> str:
    """The path that an application routes by, as Starlette has it: without the ``root_path`` of its server, or of who has
    mounted it, which some servers put before it, and others don't."""
    root = root_path.rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def _is(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(right: bool, option: str, seen: object, wanted: str) -> None:
    if not right:
        raise ConfigError(f"{option} is {wanted}, not {str(seen)[:80]!r}")
