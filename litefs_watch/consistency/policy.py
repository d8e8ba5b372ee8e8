"""What is done with a request, at each of the moments at which something can be done. Pure: who calls does the waiting.

A shell (ASGI, WSGI, Django) drives it::

    exchange = policy.begin(method, path, headers)     # None: leave it alone
    if exchange.asks:                                  # else it runs
    while (action := policy.decide(exchange, node)) is not RUN:
        Wait, Hold      do it, set exchange.waited or exchange.held, and decide again with the node as it is then
        Replay, Refuse  answer so: done
    the application runs; where it raises before the response has started: policy.failed(exchange, node, error)
    when the response starts: policy.wants_position(…), read the position if so, and add policy.headers(…)

``waited`` and ``held`` only ever become true, and each answers its question for good: the loop ends.

The rules.

1. **The primary runs everything, and never waits.** Nothing else runs a write: not on a guess, not when time is up.
2. **A read waits before the application runs**, hence before any BEGIN: on LiteFS, an open read transaction on a replica
   stops that database's replication.
3. **What must go to the primary is replayed once.** Who comes from another node and finds no primary here is held until this
   node is the primary, then refused. Where none is known, it is held until one is. No node replays to itself.
4. **Who may not wait** (too many do, or the TXID is absurdly far ahead) is treated as if the time had passed.
5. **The token is set after a write**: if the position moved during a request that writes by its method or path, or if the
   handler said so. It is the position read when the response starts: what the handler committed is in it.
6. **The cookie is deleted where it can never be met**: on the primary when it is ahead of the primary (a fail-over lost that
   transaction), and when it is no token. Nowhere else: the next request may reach another replica.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from litefs_watch.changes import Role
from litefs_watch.consistency.exchange import RUN, Action, Exchange, Headers, Hold, Node, Refuse, Replay, Wait
from litefs_watch.consistency.faults import asks_for_primary, is_refused_write
from litefs_watch.consistency.options import Options, compile_paths
from litefs_watch.consistency.tokens import Verdict
from litefs_watch.errors import WrongInstance
from litefs_watch.position import Position

# RFC 9110's and the QUERY method's. litefs-js calls POST, PUT, PATCH, DELETE writes; others (MKCOL, PURGE) are no reads.
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "QUERY"))
STALE_HEADER = (b"litefs-stale", b"true")

_HOSTNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")  # nothing in it can end a header, a field or a host


class Policy:
    """The decisions of one middleware. It keeps nothing of a request: that is in the `Exchange`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._tokens = options.tokens
        self._cookie = options.cookies
        self._needle = (options.cookie or "").encode()
        self._header = options.header.lower().encode() if options.header else b""
        self._carriers = frozenset(filter(None, (b"cookie" if options.cookie else b"", self._header)))
        self._primary_path = compile_paths("primary_paths", options.primary_paths)
        self._passthrough_path = compile_paths("passthrough_paths", options.passthrough_paths)
        self._monotonic = options.monotonic
        self._max_ahead = None if options.secrets else options.max_ahead

    # When the request arrives.

    def begin(self, method: str, path: str, headers: Headers) -> Exchange | None:
        """What a request asks for; None where the application wants it left alone.

        ``method`` is in upper case; ``headers`` have their names in lower case.
        """
        if self._passthrough_path is not None and self._passthrough_path(path):
            return None
        exchange = Exchange()
        exchange.method = method
        exchange.headers = headers
        if method not in SAFE_METHODS or (
            self._primary_path is not None and method != "OPTIONS" and self._primary_path(path)
        ):
            exchange.writes = exchange.asks = True
        if self._monotonic:
            exchange.touched = True
        carriers, needle = self._carriers, self._needle
        for name, value in headers:
            if name in carriers and (name != b"cookie" or needle in value):  # most cookies are not ours
                self._take(exchange, name, value)
        return exchange

    def _take(self, exchange: Exchange, carrier: bytes, value: bytes) -> None:
        if carrier != b"cookie":
            found = self._tokens.decode(value)
            if exchange.header_txid is None and not isinstance(found, Verdict):
                exchange.header_txid = found
                exchange.token = max(found, exchange.token or 0)
                exchange.asks = True
        elif self._cookie is not None and exchange.cookie_txid is None and not exchange.garbage:
            raw = self._cookie.find(value)
            if raw is None:
                return
            found = self._tokens.decode(raw)
            if found is Verdict.GARBAGE:
                exchange.garbage = exchange.touched = True
            elif not isinstance(found, Verdict):
                exchange.cookie_txid = found
                exchange.token = max(found, exchange.token or 0)
                exchange.asks = True

    def begin_websocket(self, path: str, headers: Headers) -> Exchange | None:
        """The same of a WebSocket, which has no method. It waits for no TXID: a connection is no read."""
        exchange = self.begin("GET", path, ())
        if exchange is not None:
            exchange.headers = headers
        return exchange

    def is_met(self, exchange: Exchange, position: Position | None) -> bool:
        """Whether this is a read whose TXID is here: it runs on every node, whatever its role. Short for `decide`."""
        token = exchange.token
        return not exchange.writes and token is not None and position is not None and token <= position.txid

    def decide(self, exchange: Exchange, node: Node) -> Action:
        """What to do now. Call it again after each wait, with the node as it is then, until it is `RUN` or an answer."""
        if node.role is Role.PRIMARY:
            return self._let_in(exchange, node)
        if exchange.writes:
            return self._to_primary(exchange, node)
        token, here = exchange.token, node.position.txid if node.position is not None else 0
        if token is None or token <= here:
            return self._let_in(exchange, node)
        if not exchange.waited and node.room and (self._max_ahead is None or token <= here + self._max_ahead):
            exchange.touched = True
            return Wait(token, self.options.timeout)
        if self.options.on_timeout == "stale":
            exchange.stale = exchange.touched = True
            return self._let_in(exchange, node)
        if self.options.on_timeout == "error":
            return Refuse(
                "This replica does not have what you have written yet. Try again shortly.",
                f"at transaction {here}, the client has seen {token}",
            )
        return self._to_primary(exchange, node)

    def _let_in(self, exchange: Exchange, node: Node) -> Action:
        exchange.role = node.role
        if node.role is Role.PRIMARY:
            here = node.position.txid if node.position is not None else 0
            if exchange.writes or (exchange.token or 0) > here:
                exchange.touched = True
            exchange.before = node.position
        return RUN

    def _to_primary(self, exchange: Exchange, node: Node) -> Action:
        replayed = exchange.replayed
        if node.role is Role.REPLICA and node.primary != node.hostname and not replayed:
            return self._replay(node.primary)
        if not exchange.held and node.room and self.options.hold_writes > 0:
            return Hold(self.options.hold_writes, here=replayed or node.role is Role.REPLICA)
        if replayed:
            detail = f"another node sent it here, and this node is {node.role}, of {node.primary!r}"
        else:
            detail = (
                "no primary is known"
                if node.room or exchange.held
                else "no primary is known, and none can be waited for: too many do, or the watcher was stopped"
            )
        return Refuse("No primary is known at this moment. Try again shortly.", detail)

    def _replay(self, hostname: str | None) -> Action:
        if hostname is None:
            return Refuse(
                "The primary has no hostname: this request can't be sent there.",
                "the primary has no hostname: set lease.hostname in its litefs.yml",
            )
        if _HOSTNAME.fullmatch(hostname) is None:
            return Refuse(
                "The primary's hostname is unusable: this request can't be sent there.",
                f"the primary's hostname is {hostname[:80]!r}; only letters, digits, '.', '_' and '-' may be in it",
            )
        return Replay(hostname)

    # When the application raises before the response has started.

    def failed(self, exchange: Exchange, node: Node, error: BaseException) -> Action | None:
        """What an exception of the application calls for; None: it stays the error that it is.

        `NotPrimary`, `WrongInstance` and `NoPrimary` anywhere; a write that SQLite refused, on all nodes but the primary.
        After a `Hold`, set ``exchange.held`` and call it again. It never answers `RUN`: the handler has run already.
        """
        asked = asks_for_primary(error)
        if isinstance(asked, WrongInstance):
            if asked.primary == node.hostname or exchange.replayed:
                return Refuse("This request belongs on another node, and was sent here.", str(asked))
            return self._replay(asked.primary)
        if asked is None and (node.role is Role.PRIMARY or not is_refused_write(error)):
            return None
        if node.role is Role.PRIMARY:
            return Refuse("This node has just become the primary. Try again.", str(asked))
        return self._to_primary(exchange, node)

    # When the response starts.

    def wants_position(self, exchange: Exchange, node: Node) -> bool:
        """Whether `headers` needs the position as it is in the file now. Only asked where `Exchange.touched` or ``written``
        says that there may be headers."""
        if exchange.written or self.options.monotonic:
            return True
        if exchange.role is not Role.PRIMARY:
            return False
        return exchange.writes or (exchange.token or 0) > (node.position.txid if node.position is not None else 0)

    def headers(
        self, exchange: Exchange, node: Node, position: Position | None, sent: Iterable[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """The headers to add to those that the application has ``sent``.

        ``position`` is as read since the response began to start; None where it was not wanted, or could not be read.
        """
        token = exchange.token
        primary = node.role is Role.PRIMARY and exchange.role is Role.PRIMARY
        lost = token is not None and primary and position is not None and token > position.txid
        carry = position.txid if position is not None and self._carries(exchange, position) else 0
        if token is not None and not lost and (carry or self.options.monotonic):
            carry = max(carry, token)

        added: list[tuple[bytes, bytes]] = []
        if exchange.stale:
            added.append(STALE_HEADER)
        if self._header and (carry or (lost and exchange.header_txid is not None)):
            shown = carry if carry or position is None else position.txid
            added.append((self._header, self._tokens.encode(shown).encode()))
        cookie = None
        if self._cookie is not None and carry:
            cookie = self._cookie.set(self._tokens.encode(carry))
        elif self._cookie is not None and (exchange.garbage or (lost and exchange.cookie_txid is not None)):
            cookie = self._cookie.delete()
        if cookie is not None:
            added.append((b"set-cookie", cookie))
        # Without the token, the same request might have had another body.
        depends = exchange.waited or exchange.stale or (cookie is not None and exchange.method in SAFE_METHODS)
        vary = {b"cookie"} if depends and self._cookie is not None else set()
        if depends and exchange.header_txid is not None:
            vary.add(self._header)
        return added + _said_to_caches(sent, private=cookie is not None, vary=vary)

    def _carries(self, exchange: Exchange, position: Position) -> bool:
        if exchange.written or self.options.monotonic:
            return True
        return exchange.writes and exchange.role is Role.PRIMARY and position != exchange.before


def _said_to_caches(sent: Iterable[tuple[bytes, bytes]], *, private: bool, vary: set[bytes]) -> list[tuple[bytes, bytes]]:
    """``cache-control: private``, unless the application has said anything; ``vary``, unless it has said so already."""
    if not private and not vary:
        return []
    for name, value in sent:
        field = name.lower()
        if field == b"cache-control":
            private = False
        elif field == b"vary":
            said = {each.strip().lower() for each in value.split(b",")}
            vary = set() if b"*" in said else vary - said
    added = [(b"cache-control", b"private")] if private else []
    return [*added, (b"vary", b", ".join(sorted(vary)))] if vary else added
