"""What a response carries: the token, what is lost, what caches are told. Pure, as the policy is.

The rules.

1. **After a write the response carries a token**: if the position moved during a request that writes by its method or path,
   or if the handler said that it has written. It is the position read when the response starts: what the handler committed
   is in it. What the watcher has heard of until then may be others' writes, and this one not yet among them.
2. **A write whose position is not known yet is pinned**: it has not moved (the commit may follow the response), or may move
   again (the application runs on, or its route was seen to commit late), or it is unreadable. Only the primary meets a pin,
   and replaces it at the client's next request there. So is one whose node has followed another primary meanwhile: the
   file may be of another history. What is known to be gone by then is not acknowledged at all: that is `Policy.failed`'s
   matter. Of several databases, one that has not moved needs no pin where another one has.
3. **A token never goes back**, unless what it names is lost.
4. **What is lost is said**, by the primary alone, which has the one history that counts: the client's transaction was ahead
   or elsewhere when a look confirmed that this is the primary, and the file does not say otherwise. ``litefs-lost`` names
   it, and the token is replaced by where the primary is. So it is with what the primary can't tell of: it was given the
   database after that, or has taken over since the client was pinned: ``litefs-doubted``.
5. **A cookie is deleted where it is no token**: it can never be met.
6. **What depends on a token says so to caches**, and what carries one is for its client alone.
7. **What may have been done is said**, and its client is pinned: ``litefs-committed`` names the last transaction in which it
   can be, of a request that failed on a node which was the primary when it began.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from litefs_watch.changes import Role
from litefs_watch.consistency.exchange import Exchange, Node
from litefs_watch.consistency.options import Options
from litefs_watch.consistency.tokens import PIN, Token, is_beyond, txid_of
from litefs_watch.position import Position, Where

# RFC 9110's and the QUERY method's. litefs-js calls POST, PUT, PATCH, DELETE writes; others (MKCOL, PURGE) are no reads.
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "QUERY"))
STALE_HEADER = (b"litefs-stale", b"true")
LOST_HEADER = b"litefs-lost"
COMMITTED_HEADER = b"litefs-committed"
DOUBTED_HEADER = b"litefs-doubted"
REPLICATED_HEADER = b"litefs-replicated"

HeaderList = list[tuple[bytes, bytes]]


class Carrying:
    """What the responses of one middleware carry. It keeps nothing of a request: that is in the `Exchange`."""

    def __init__(self, options: Options, database: str) -> None:
        self._monotonic = options.monotonic
        self._tokens = options.tokens(database)
        self._header_tokens = options.header_tokens(database)
        self._cookie = options.cookies
        self._accepted = [options.accepted(name)[0] for name in options.accept]
        self._header = options.header.lower().encode() if options.header else b""

    def wants_position(self, exchange: Exchange, node: Callable[[], Node]) -> bool:
        """Whether `headers` needs the position as it is in the file now. ``node`` is not asked where a write tells."""
        if exchange.committed is not None:
            return False
        if exchange.written or self._monotonic:
            return True
        if exchange.role is not Role.PRIMARY:
            return False
        return exchange.writes or self._is_doubtful(exchange, node(), Where.HERE, Where.UNTOLD)

    def headers(
        self, exchange: Exchange, node: Node, position: Position | None, sent: Iterable[tuple[bytes, bytes]]
    ) -> HeaderList:
        """As `Policy.headers`."""
        exchange.lost = self._lost(exchange, node, position)
        if self._followed(exchange, node) and exchange.lost is None and self._is_doubtful(exchange, node, Where.HERE):
            exchange.doubted = txid_of(exchange.token or 0)
        seen = self._seen(exchange, node, position)
        if position is None and seen is None:
            exchange.doubted = None  # its token stays: it is said at the next request
        anew = exchange.lost is not None or exchange.doubted is not None
        token = self._newest(exchange, seen) if not anew else position if seen is None else seen
        added = [STALE_HEADER] if exchange.stale else []
        if exchange.lost is not None:
            added.append((LOST_HEADER, b"%016x" % exchange.lost))
        elif exchange.doubted is not None:
            added.append((DOUBTED_HEADER, b"pin" if exchange.doubted == PIN else b"%016x" % exchange.doubted))
        if exchange.committed is not None:
            added.append((COMMITTED_HEADER, b"%016x" % exchange.committed))
        if exchange.replicated is not None:
            added.append((REPLICATED_HEADER, b"%d" % exchange.replicated))
        in_header, cookies = self._said(exchange, token, everywhere=seen is not None)
        sent = list(sent)
        exposed = _exposed(sent, [name for name, _ in added + in_header])
        caches = _said_to_caches(sent, self._depends(exchange, cookies), private=bool(cookies))
        return added + in_header + exposed + cookies + caches

    @staticmethod
    def _followed(exchange: Exchange, node: Node) -> bool:
        """Whether this node may have been reset while the request wrote: it has followed another primary."""
        return exchange.wrote and node.term != exchange.term

    @staticmethod
    def _is_doubtful(exchange: Exchange, node: Node, *known: Where) -> bool:
        """Whether what the client has seen may be lost, unless it is what is ``known``; a pin tells nothing."""
        token = exchange.token
        return token is not None and (token == PIN or node.where(token) not in known)

    @staticmethod
    def _lost(exchange: Exchange, node: Node, position: Position | None) -> int | None:
        """Rule 4: the TXID of what is lost."""
        token = exchange.token
        if position is None:  # of a write the token is replaced, and nobody could tell later
            return exchange.lost if exchange.writes else None
        if exchange.lost is None or token is None or token == position:
            return None
        elsewhere = isinstance(token, Position) and node.where(token) is not Where.HERE
        return exchange.lost if elsewhere or is_beyond(token, position) else None

    def _seen(self, exchange: Exchange, node: Node, position: Position | None) -> Token | None:
        """Rules 1 and 2: the token of what this response has written or shown; None where it needs none."""
        before, wrote = exchange.before, exchange.wrote
        pin = PIN if self._tokens.can_pin and not node.standalone else None
        if exchange.committed is not None:
            return pin
        if self._followed(exchange, node):
            return pin or position
        if exchange.late and wrote and pin is not None:
            return pin
        moved = exchange.writes and wrote and position != before
        if position is not None and (exchange.written or self._monotonic or moved):
            return position
        if exchange.spared:
            return position if exchange.token == PIN else None
        if wrote or exchange.written:
            return pin or (_newer(node.position, before) if wrote and position is None else None)
        replaces = exchange.token == PIN and exchange.role is Role.PRIMARY is node.role
        return position if replaces else None

    @staticmethod
    def _newest(exchange: Exchange, seen: Token | None) -> Token | None:
        """Rule 3."""
        token = exchange.token
        if seen is None or seen == PIN or token is None or token == PIN or txid_of(token) <= txid_of(seen):
            return seen
        return token

    def _said(self, exchange: Exchange, token: Token | None, *, everywhere: bool) -> tuple[HeaderList, HeaderList]:
        """The token in our header, and the cookies to set; what only replaces the client's goes where that came from."""
        in_header: HeaderList = []
        if self._header and token is not None and (everywhere or exchange.header_token is not None):
            in_header.append((self._header, self._header_tokens.encode(token).encode()))
        cookies: HeaderList = []
        if self._cookie is not None:
            from_browser = exchange.cookie_token is not None or exchange.accepted is not None
            if token is not None and (everywhere or from_browser):
                cookies.append((b"set-cookie", self._cookie.set(self._tokens.encode(token))))
            elif exchange.garbage:
                cookies.append((b"set-cookie", self._cookie.delete()))
        if (exchange.lost is not None or exchange.doubted is not None) and exchange.accepted is not None:
            cookies += [(b"set-cookie", cookie.delete()) for cookie in self._accepted]
        return in_header, cookies

    def _depends(self, exchange: Exchange, cookies: HeaderList) -> set[bytes]:
        """Rule 6: what the response varies by. Without the token, the same request might have had another body."""
        if not (exchange.waited or exchange.stale or (cookies and exchange.method in SAFE_METHODS)):
            return set()
        vary = {b"cookie"} if self._cookie is not None else set()
        return vary | {self._header} if exchange.header_token is not None else vary


def _newer(known: Position | None, before: Position | None) -> Position | None:
    """What is known of a write's position, if that is newer than when it began: the best there is without pins."""
    return known if known is not None and before is not None and known.txid > before.txid else None


def _exposed(sent: HeaderList, ours: list[bytes]) -> HeaderList:
    """Scripts of other origins may read our headers, where the application lets them read its answer (CORS)."""
    if not ours or all(name.lower() != b"access-control-allow-origin" for name, _ in sent):
        return []
    return [(b"access-control-expose-headers", b", ".join(ours))]


def _said_to_caches(sent: Iterable[tuple[bytes, bytes]], vary: set[bytes], *, private: bool) -> HeaderList:
    """``cache-control: private``, unless the application has said anything else than that everybody may have it: our cookie
    is one client's. ``vary``, unless it has said so already."""
    if not private and not vary:
        return []
    for name, value in sent:
        field = name.lower()
        if field == b"cache-control":
            private = private and _SHARED.search(value.lower()) is not None
        elif field == b"vary":
            said = {each.strip().lower() for each in value.split(b",")}
            vary = set() if b"*" in said else vary - said
    added = [(b"cache-control", b"private")] if private else []
    return [*added, (b"vary", b", ".join(sorted(vary)))] if vary else added


# RFC 9111, 5.2.2: with `private` no shared cache stores it, whatever else is said.
_SHARED = re.compile(rb"\b(public|s-maxage)\b")
