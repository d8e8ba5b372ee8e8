"""What can be wrong with how a middleware is used, and how to put it right: said where it is made, or once in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from litefs_watch.consistency import Exchange, Options, is_refused_write
from litefs_watch.consistency.faults import asks_for_primary, sqlite_says
from litefs_watch.errors import ConfigError
from litefs_watch.printable import safe
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.late import ROUTES, route_named
from litefs_watch.web.seldom import Seldom

logger: logging.Logger = logging.getLogger("litefs_watch")


def check_async(watcher: object, middleware: str) -> None:
    """Raises `ConfigError` for what is no watcher of an event loop."""
    if isinstance(watcher, BlockingWatcher):
        raise ConfigError(
            f"{middleware} needs a Watcher: a BlockingWatcher blocks the event loop. Write watcher = Watcher(settings), "
            "and watcher.lifespan for the application's lifespan; for WSGI there is litefs_watch.wsgi.LiteFSMiddleware"
        )
    if not isinstance(watcher, AwaitableWatcher):
        _check(watcher, middleware, "Watcher")


def check_blocking(watcher: object, middleware: str) -> None:
    """Raises `ConfigError` for what is no watcher of threads."""
    if isinstance(watcher, Watcher | AwaitableWatcher):
        raise ConfigError(
            f"{middleware} needs a BlockingWatcher: a {type(watcher).__name__} runs in an event loop, and here is none: "
            "it would know nothing. Write BlockingWatcher(settings); for ASGI there is litefs_watch.asgi.LiteFSMiddleware"
        )
    _check(watcher, middleware, "BlockingWatcher")


def _check(watcher: object, middleware: str, wanted: str) -> None:
    if isinstance(watcher, type) or not all(hasattr(watcher, name) for name in ("settings", "hostname", "wait_for_tx")):
        seen = f"the class {watcher.__name__}" if isinstance(watcher, type) else f"{type(watcher).__name__}"
        raise ConfigError(f"{middleware} needs a {wanted}, not {seen}: write {middleware}(app, watcher={wanted}(settings))")


class SecureCookie:
    """Of one middleware: says once that its cookie is ``Secure``, and comes over HTTP, so that nobody sends it back."""

    def __init__(self, options: Options) -> None:
        self._quiet = not options.secure or options.cookie is None

    def look(self, exchange: Exchange, added: Iterable[tuple[bytes, bytes]]) -> None:
        """``added`` are the headers that its response gets from us."""
        if self._quiet or exchange.scheme != "http" or all(name != b"set-cookie" for name, _ in added):
            return
        headers = {name: value for name, value in exchange.headers if name in _TELLING}
        if b"https" in headers.get(b"x-forwarded-proto", b"") or b"proto=https" in headers.get(b"forwarded", b"").lower():
            return  # a proxy in front of us has ended TLS
        host = headers.get(b"host", b"localhost")
        if _is_local(host):
            return
        self._quiet = True
        logger.warning(
            "a cookie that is Secure was set over HTTP, for %s: browsers and test clients don't send it back, and read "
            "stale data. Use HTTPS; behind a proxy that does, have it set x-forwarded-proto; in tests, "
            "base_url='https://...', or secure=False",
            host.decode("latin-1")[:80].encode("unicode_escape").decode(),
        )


_TELLING = frozenset((b"host", b"forwarded", b"x-forwarded-proto"))


def _is_local(host: bytes) -> bool:
    """Whether browsers take HTTP to it for safe."""
    name = host.lower() if host.startswith(b"[") else host.lower().partition(b":")[0]
    return name == b"localhost" or name.endswith(b".localhost") or name.startswith((b"127.", b"[::1]"))


class RefusedInWebSocket:
    """Of one middleware: says, once for each path, that a WebSocket writes where nothing can be written. It was accepted: no
    replay helps it any more."""

    def __init__(self, options: Options) -> None:
        self._closed = options.close_websockets
        self._said: set[str] = set()

    def look(self, exchange: Exchange, path: str, error: BaseException) -> None:
        """``error`` is what its handler has raised."""
        asked = asks_for_primary(error)
        if asked is None and not is_refused_write(error):
            return
        route = route_named("a WebSocket at", None, path)
        if route in self._said or len(self._said) >= ROUTES:
            return
        self._said.add(route)
        if not exchange.writes:
            remedy = "Name its path in primary_paths: it is then sent to the primary before it is accepted"
        elif self._closed == "none":
            remedy = "Close it when this node is the primary no more: close_websockets='primary_paths'"
        else:
            remedy = "This node has just ceased to be the primary: the client is to connect again, and to say it there"
        logger.warning(
            "%s was refused a write, after it was accepted: %s. %s", safe(route), asked or sqlite_says(error), remedy
        )


class LostTransactions:
    """Says which transactions are lost, not each by itself: a fail-over loses many."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def say(self, database: str, txid: int) -> None:
        if self._seldom.due(LostTransactions) is not None:
            logger.warning(
                "%s: transaction %d, which a client had written or seen, is lost: a fail-over has dropped it, or the "
                "database was replaced; statistics().lost counts them",
                database,
                txid,
                extra={"litefs_event": "lost", "litefs_database": database, "litefs_txid": txid},
            )
