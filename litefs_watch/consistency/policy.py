"""What is done with a request, at each of the moments at which something can be done. Pure: who calls does the waiting.

A shell (ASGI, WSGI, Django) drives it::

    exchange = policy.begin(method, path, headers)     # None: leave it alone
    if exchange.asks:                                  # else it runs
    while (action := policy.decide(exchange, node)) is not RUN:
        Wait, Hold, Confirm     do it, set exchange.waited, held or asked, and decide again with the node as it is then
        Replay, Refuse          answer so: done
    the application runs; where it raises before the response has started: policy.failed(exchange, node, error)
    when the response starts: policy.wants_position(…), read the position if so, and add policy.headers(…)

``waited``, ``held`` and ``asked`` only ever become true, and each answers its question for good: the loop ends.

The rules.

1. **The primary runs everything.** Nothing else runs a write: not on a guess, not when time is up. It waits for nothing
   but a look whether it still is the primary, where its client has seen what it has not: that is lost, or this node is the
   primary no more. Where nothing tells, it refuses.
2. **A read waits before the application runs**, hence before any BEGIN: on LiteFS, an open read transaction on a replica
   stops that database's replication. What is met, and what is not: `Node.has`.
3. **What must go to the primary is replayed, and each hop is counted** (`litefs_watch.consistency.hops`): two more than the
   first, to another node than this one and the one that has sent it. Where a primary is known, nobody waits for another: who
   can't go there is refused. Where none is known it is held until any is, for ``hold_writes`` on all its nodes together.
   A sender that has been named as the primary *since* is no sender any more: that is a hand-over, in which the new primary
   still believed the old one, and what this node knows is newer than what made that one send it.
4. **Who may not wait** (too many do, or the TXID is absurdly far ahead) is treated as if the time had passed. A pin waits
   for nothing: only the primary meets it.
5. **Another history is never served**, whatever ``on_timeout`` says.
6. **What may have committed runs once.** A request that was let in as PRIMARY, and that fails since this node is not any
   more, goes on only where the position has not moved since, by the file and by the stream; else its error stays, and says
   so. So does that of one which has held the HALT lock, wherever it was. A write that is refused on what seems to be the
   primary makes it look anew.

What a response carries has rules of its own: `litefs_watch.consistency.carrying`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from litefs_watch.changes import Role
from litefs_watch.consistency.carrying import SAFE_METHODS, Carrying
from litefs_watch.consistency.exchange import (
    HURRIED,
    RUN,
    Action,
    Confirm,
    Exchange,
    Headers,
    Hold,
    Look,
    Node,
    Refuse,
    Replay,
    Undone,
    Unreplicated,
    Wait,
)
from litefs_watch.consistency.faults import asks_for_primary, is_dead_connection, is_refused_write, waited_in_vain
from litefs_watch.consistency.hops import HOSTNAME as _HOSTNAME
from litefs_watch.consistency.hops import MOST_HOPS, Hops, Trail
from litefs_watch.consistency.options import Options, compile_paths
from litefs_watch.consistency.tokens import PIN, Verdict, txid_of
from litefs_watch.errors import WrongInstance
from litefs_watch.position import Position, Where


class Policy:
    """The decisions of one middleware. It keeps nothing of a request: that is in the `Exchange`."""

    def __init__(self, options: Options, database: str = "") -> None:
        self.options = options
        self.database: str = database
        self.watcher: Any = None
        """Set by the gate: whose node this is."""
        self._tokens = options.tokens(database)
        self._header_tokens = options.header_tokens(database)
        self._cookie = options.cookies
        self._accepted = [options.accepted(name) for name in options.accept]
        self._needles = tuple(name.encode() for name in (options.cookie, *options.accept) if name)
        self._header = options.header.lower().encode() if options.header else b""
        self.carriers: frozenset[bytes] = frozenset(filter(None, (b"cookie" if self._needles else b"", self._header)))
        """The names of the headers that may carry a token."""
        self._primary_path = compile_paths("primary_paths", options.primary_paths)
        self._read_path = compile_paths("read_paths", options.read_paths)
        self._passthrough_path = compile_paths("passthrough_paths", options.passthrough_paths)
        self._monotonic = options.monotonic
        self._max_ahead = None if options.secrets else options.max_ahead
        self._carrying = Carrying(options, database)
        self._hops = Hops(options.secrets)

    # When the request arrives.

    def begin(self, method: str, path: str, headers: Headers, carried: Headers | None = None) -> Exchange | None:
        """What a request asks for; None where the application wants it left alone.

        ``method`` is in upper case; ``headers`` have their names in lower case. ``carried`` are those of them that are named
        in `carriers`, where it costs less to find only these.
        """
        if self._passthrough_path is not None and self._passthrough_path(path):
            return None
        exchange = Exchange()
        exchange.policy = self
        exchange.method = method
        exchange.headers = headers
        writes = method not in SAFE_METHODS and (self._read_path is None or not self._read_path(path))
        if writes or (self._primary_path is not None and method != "OPTIONS" and self._primary_path(path)):
            exchange.writes = exchange.asks = True
        if self._monotonic:
            exchange.touched = exchange.asks = True
        carriers, any_carried = self.carriers, False
        for name, value in headers if carried is None else carried:
            if name in carriers:
                if name != b"cookie":
                    any_carried = True
                    self._take_header(exchange, value)
                    continue
                for needle in self._needles:
                    if needle in value:  # most cookies are not ours
                        any_carried = True
                        self._take_cookie(exchange, value)
                        break
        if any_carried:
            token, other = exchange.cookie_token, exchange.header_token
            if token is None or (other is not None and txid_of(other) > txid_of(token)):
                token = other
            exchange.token = exchange.accepted if token is None else token
            exchange.asks = exchange.asks or exchange.token is not None
        return exchange

    def _take_header(self, exchange: Exchange, value: bytes) -> None:
        found = self._header_tokens.decode(value)
        if exchange.header_token is None and not isinstance(found, Verdict):
            exchange.header_token = found

    def _take_cookie(self, exchange: Exchange, value: bytes) -> None:
        if self._cookie is not None and exchange.cookie_token is None and not exchange.garbage:
            raw = self._cookie.find(value)
            found = None if raw is None else self._tokens.decode(raw)
            if type(found) is not Verdict:  # isinstance would ask the metaclass of enums, for each request
                exchange.cookie_token = found
            elif found is Verdict.GARBAGE:
                exchange.garbage = exchange.touched = True
        for cookie, tokens in self._accepted:
            raw = cookie.find(value)
            found = Verdict.GARBAGE if raw is None else tokens.decode(raw)
            if exchange.accepted is None and not isinstance(found, Verdict):
                exchange.accepted = found

    def begin_websocket(self, path: str, headers: Headers) -> Exchange | None:
        """The same of a WebSocket, which has no method. It waits for no TXID: a connection is no read."""
        exchange = self.begin("GET", path, ())
        if exchange is not None:
            exchange.headers = headers
        return exchange

    def decide(self, exchange: Exchange, node: Node) -> Action:
        """What to do now. Call it again after each wait, with the node as it is then, until it is `RUN` or an answer."""
        if node.misplaced is not None and (exchange.writes or exchange.token is not None) and not self.options.unmounted:
            return self._misplaced(exchange, node, node.misplaced)
        if node.role is Role.PRIMARY:
            return self._on_primary(exchange, node)
        if exchange.writes or exchange.token == PIN:
            return self._to_primary(exchange, node)
        if exchange.token is None or node.has(exchange.token):
            return self._let_in(exchange, node)
        if node.where(exchange.token) is Where.DOUBTED and node.vouched:  # no wait tells: the primary does
            return self._in_vain(exchange, node)
        if self._may_wait(exchange, node):
            exchange.touched = True
            return Wait(exchange.token, self.options.timeout * (HURRIED if node.hurried else 1.0))
        return self._in_vain(exchange, node)

    def _misplaced(self, exchange: Exchange, node: Node, detail: str) -> Action:
        """Of what is in this directory LiteFS knows nothing: a token that its stream has met is not met here."""
        if node.role is not Role.PRIMARY:
            return self._to_primary(exchange, node)
        return Refuse("LiteFS is not mounted where this node looks for it: nothing is written here.", detail)

    def _on_primary(self, exchange: Exchange, node: Node) -> Action:
        token = exchange.token
        if token == PIN and node.new:
            exchange.doubted = txid_of(token)
        if token is None or token == PIN:
            return self._let_in(exchange, node)
        where = node.where(token)
        if where is Where.DOUBTED:
            exchange.touched, exchange.doubted = True, txid_of(token)
        if where in (Where.HERE, Where.UNTOLD, Where.DOUBTED):
            return self._let_in(exchange, node)
        exchange.touched = True  # ahead, elsewhere, or nothing confirms what was known: a look does
        if not exchange.asked and node.room:
            return Confirm(max(self.options.timeout, self.options.hold_writes))
        if not exchange.confirmed or where is None:
            return Refuse(
                "This node can't tell whether it still is the primary. Try again shortly.",
                f"at {node.position}; the client has seen {token}"
                + ("" if exchange.asked else "; too many requests wait already"),
            )
        exchange.lost = txid_of(token)
        return self._let_in(exchange, node)

    def _may_wait(self, exchange: Exchange, node: Node) -> bool:
        if exchange.waited or not node.room or exchange.token is None:
            return False
        here = node.position.txid if node.position is not None else 0
        return self._max_ahead is None or txid_of(exchange.token) <= here + self._max_ahead

    def _in_vain(self, exchange: Exchange, node: Node) -> Action:
        """A read whose token is not met, and that waits no more."""
        elsewhere = node.where(exchange.token or 0) in (Where.ELSEWHERE, Where.DOUBTED)
        on_timeout = self.options.on_timeout
        if on_timeout == "stale" and not elsewhere:
            exchange.stale = exchange.touched = True
            return self._let_in(exchange, node)
        if on_timeout == "error":
            return Refuse(
                "This replica does not have what you have written yet. Try again shortly.",
                f"at {node.position}{', of another history' if elsewhere else ''}; the client has seen {exchange.token}"
                + ("" if exchange.waited or node.room else "; too many requests wait, or have waited in vain (max_waiting)"),
            )
        return self._to_primary(exchange, node)

    def _let_in(self, exchange: Exchange, node: Node) -> Action:
        exchange.role, exchange.term, exchange.vouched, exchange.before = node.role, node.term, node.vouched, node.position
        if node.role is Role.PRIMARY and (exchange.writes or exchange.token == PIN):
            exchange.touched = True
        return RUN

    def _to_primary(self, exchange: Exchange, node: Node) -> Action:
        trail = self._hops.read(exchange.headers, node.hostname)
        if node.role is Role.REPLICA:
            return self._send_on(exchange, node.primary, node.hostname, trail)
        seconds = min(self.options.hold_writes - trail.waited, node.hold_for)
        if not exchange.held and node.holds and seconds > 0:
            return Hold(seconds)
        detail = (
            "no primary is known"
            if node.holds or exchange.held
            else "no primary is known, and none can be waited for: too many do (max_held), or the watcher was stopped"
        )
        return Refuse("No primary is known at this moment. Try again shortly.", detail)

    def _send_on(self, exchange: Exchange, hostname: str | None, own: str, trail: Trail) -> Action:
        """To the node ``hostname``, if that is another one. ``trail`` is how it came here."""
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
        back = hostname in trail.senders and not exchange.held  # after a hold, what this node knows is newer
        if hostname == own or back or trail.hops >= MOST_HOPS:
            return Refuse(
                "The nodes don't agree on who is the primary at this moment. Try again shortly.",
                f"sent here by {trail}; this node is a replica of {hostname!r}",
            )
        hops = trail.hops + 1
        return Replay(hostname, hops, self._hops.state(hops, trail.waited + exchange.held_for))

    # When the application raises before the response has started.

    def failed(self, exchange: Exchange, node: Node, error: BaseException) -> Action | None:
        """What an exception of the application calls for; None: it stays the error that it is.

        `Undone`, `NotPrimary`, `WrongInstance` and `NoPrimary` anywhere; a write that SQLite refused, on all nodes but the
        primary. After a `Hold` and a `Look` call it again. Never `RUN`: the handler has run already.

        A read over a connection that is dead stays the error that it is: the node is well, the next connection reads, and an
        answer from elsewhere would hide, for as long as a pool lives, that this node serves nothing.
        """
        if isinstance(error, Undone):
            return Refuse(
                "A fail-over went on during this request: what it has written may be lost.", str(error), status=500
            )
        if isinstance(error, Unreplicated):
            where = "nowhere else yet" if not error.having else f"on too few other nodes yet ({error.having})"
            reason = (
                f"This write stands on this node, and {where}. It is not undone: to send it again would be to do it twice."
            )
            return Refuse(reason, str(error), headers=error.headers)
        if exchange.halted:
            return None
        if (waited := waited_in_vain(error)) is not None:
            return self._waited_in_vain(exchange, node, waited)
        asked = asks_for_primary(error)
        if isinstance(asked, WrongInstance) and not exchange.writes:  # chosen by the handler, before it does anything
            return self._to_instance(exchange, node, asked)
        if asked is None and not is_refused_write(error) and not (exchange.writes and is_dead_connection(error)):
            return None
        role, before = exchange.admitted or (exchange.role, exchange.before)
        led = role is Role.PRIMARY and error is not exchange.reset
        if not exchange.looked and (led or (node.role is Role.PRIMARY and asked is None)):
            return Look(max(self.options.timeout, self.options.hold_writes))
        if asked is None and node.role is Role.PRIMARY and not exchange.held:
            return None
        if led and not (before is not None and before == exchange.after == node.position):
            known = (before, exchange.after, node.position)
            exchange.committed = max((each.txid for each in known if each is not None), default=0)
            exchange.touched = True
            return None
        if isinstance(asked, WrongInstance):
            return self._to_instance(exchange, node, asked)
        if node.role is Role.PRIMARY:
            return Refuse("This node has just become the primary. Try again.", str(asked or "a write was refused before"))
        return self._to_primary(exchange, node)

    def _to_instance(self, exchange: Exchange, node: Node, asked: WrongInstance) -> Action:
        trail = self._hops.read(exchange.headers, node.hostname)
        if asked.primary == node.hostname or trail.hops:
            return Refuse("This request belongs on another node, and was sent here.", str(asked))
        return self._send_on(exchange, asked.primary, node.hostname, trail)

    def _waited_in_vain(self, exchange: Exchange, node: Node, waited: Exception) -> Action | None:
        """As ``on_timeout`` says of the waits that are ours; there is nothing stale that could be served."""
        if exchange.wrote and node.position != exchange.before:
            return None  # who is told to try again would write twice
        if self.options.on_timeout == "error" or node.role is Role.PRIMARY:
            return Refuse("What this request waits for has not come. Try again shortly.", str(waited))
        return self._to_primary(exchange, node)

    # When the response starts.

    def wants_position(self, exchange: Exchange, node: Callable[[], Node]) -> bool:
        """Whether `headers` needs the position as it is in the file now. Only asked where `Exchange.touched` or ``written``
        says that there may be headers."""
        return self._carrying.wants_position(exchange, node)

    def headers(
        self, exchange: Exchange, node: Node, position: Position | None, sent: Iterable[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """The headers to add to those that the application has ``sent``.

        ``position`` is as read since the response began to start; None where it was not wanted, or could not be read.
        """
        return self._carrying.headers(exchange, node, position, sent)
