"""A request whose headers are anybody's, on any node: what is decided, and what the response carries, keeps the rules."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator
from string import ascii_letters, digits

from litefs_watch.changes import Role, Standing
from litefs_watch.consistency import (
    PIN,
    Action,
    Confirm,
    Exchange,
    Hold,
    Node,
    Options,
    Policy,
    Refuse,
    Replay,
    Run,
    Token,
    Wait,
)
from litefs_watch.core.history import Lineage, View
from litefs_watch.errors import NotPrimary
from litefs_watch.position import Position

SECRETS = ("new", "old")
FIRST, LAST = 32, 42
"""The node's database has these transactions; what is before them is not known."""
OPTIONS = [
    Options(),
    Options(secret=SECRETS, on_timeout="error"),
    Options(cookie="txnum", on_timeout="stale"),
    Options(cookie="__txid", accept=("txnum",), header=None),
    Options(monotonic=True, accept=("txnum", "__txid"), hold_writes=0),
    Options(cookie=None, secret=SECRETS[0], on_timeout="stale", max_ahead=0),
]
METHODS = ["GET", "POST", "HEAD", "PROPFIND"]
PRIMARIES = ["node-a", "node-b", None, "a b;c\r\nd"]
_DATABASE = "app.db"
_POLICIES = [Policy(options, _DATABASE) for options in OPTIONS]
_SAFE = frozenset(ascii_letters + digits + "._-")
_REPLAYED = frozenset((b"fly-replay-src", b"fly-replay-failed", b"litefs-forwarded"))
_TCHAR = frozenset(ascii_letters + digits + "!#$%&'*+-.^_`|~")

HeaderList = list[tuple[bytes, bytes]]


def checksum(txid: int) -> int:
    """Of the node's own history."""
    return txid * 7


def request(raw: bytes) -> None:
    """Three bytes choose the options, the node before a wait and after it; what follows are headers, a line each."""
    if len(raw) < 3:
        return
    policy, headers = _POLICIES[raw[0] % len(_POLICIES)], list(_headers(raw[3:]))
    nodes = [_node(raw[1]), _node(raw[2])]
    exchange = policy.begin(METHODS[raw[0] >> 6], "/", headers)
    assert exchange is not None
    if policy.options.secrets and exchange.token is not None:
        _is_ours(policy.options, exchange.token, raw)
    action, node = _settle(policy, exchange, nodes)
    if isinstance(action, Replay):
        _may_be_sent(policy, exchange, node, action)
    elif isinstance(action, Run):
        _may_run(policy, exchange, node)
        for error in (NotPrimary("node-b"), sqlite3.OperationalError("attempt to write a readonly database")):
            assert not isinstance(policy.failed(exchange, nodes[1], error), Run)
        _responds(policy, exchange, nodes[1], headers)


def _headers(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in raw.split(b"\n"):
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip(b" \t")


def _node(byte: int) -> Node:
    role = (Role.PRIMARY, Role.REPLICA, Role.REPLICA, Role.UNKNOWN)[byte & 3]
    vouched, room, known = role is Role.PRIMARY or bool(byte & 4), bool(byte & 8), not byte & 16
    standing = Standing(role, PRIMARIES[byte >> 6] if role is Role.REPLICA else None)
    position = Position(LAST, checksum(LAST)) if known else None
    lineage = Lineage(FIRST, array("Q", map(checksum, range(FIRST, LAST + 1)))) if known and not byte & 32 else None
    where = View(standing, vouched, position, lineage).where
    return Node(*standing, "node-a", position, where, vouched, room=room, holds=room)


def _settle(policy: Policy, exchange: Exchange, nodes: list[Node]) -> tuple[Action, Node]:
    """As a middleware does: each wait is made once."""
    node = nodes[0]
    for _ in range(4):
        action = policy.decide(exchange, node)
        if isinstance(action, Wait):
            assert not exchange.waited
            assert action.token == exchange.token
            exchange.waited = True
        elif isinstance(action, Hold):
            assert not exchange.held
            exchange.held = True
        elif isinstance(action, Confirm):
            assert not exchange.asked
            exchange.asked, exchange.confirmed = True, node.role is Role.PRIMARY
        else:
            assert isinstance(action, Run | Replay | Refuse)
            return action, node
        node = nodes[1]
    raise AssertionError("it waits a fourth time")


def _is_ours(options: Options, token: Token, raw: bytes) -> None:
    for secret in options.secrets:
        alone = Options(cookie=options.cookie, secret=secret)
        for tokens in (alone.tokens(_DATABASE), alone.header_tokens(_DATABASE)):
            if tokens.encode(token).encode() in raw:
                return
    raise AssertionError(f"nobody has signed {token}")


def _may_be_sent(policy: Policy, exchange: Exchange, node: Node, action: Replay) -> None:
    """To the primary; and nowhere where it has been, or may have been, nor more often than counted."""
    assert action.hostname == node.primary != node.hostname
    assert node.role is Role.REPLICA
    assert _SAFE.issuperset(action.hostname)
    sent = [(name, value) for name, value in exchange.headers if name in _REPLAYED]
    names = [name for name, _ in sent]
    assert len(set(names)) == len(names)
    assert b"fly-replay-failed" not in names
    assert (2 if sent else 1) <= action.hops <= 3
    digit = action.state[7:8] or "1"
    assert action.hops == int(digit)
    assert _SAFE.issuperset(action.state)
    for name, value in sent:
        fields = [b"".join(field.split()) for field in value.split(b";")]
        named = [fields[0]] if name == b"litefs-forwarded" else [f[9:] for f in fields if f.startswith(b"instance=")]
        assert len(named) == 1
        assert named[0] not in (b"", b"node-a")
        assert exchange.held or named[0].decode("latin-1") != action.hostname
        for field in fields:
            if field.startswith(b"state=litefs."):
                assert field[13:14] < digit.encode()
                assert not policy.options.secrets or len(field.split(b".")) == 4


def _may_run(policy: Policy, exchange: Exchange, node: Node) -> None:
    """Writes on the primary; reads where their token is, or nearly so and said to be stale; no other history anywhere."""
    if node.role is Role.PRIMARY:
        return
    assert not exchange.writes
    token = exchange.token
    if token is None:
        return
    assert token != PIN
    txid = token.txid if isinstance(token, Position) else token
    known = node.where(0) is not None and node.position is not None
    if known and isinstance(token, Position) and FIRST <= txid <= LAST:
        assert token.checksum == checksum(txid)
    elif not exchange.stale:
        assert known
        assert txid <= LAST
        assert node.vouched
    assert not exchange.stale or policy.options.on_timeout == "stale"


def _responds(policy: Policy, exchange: Exchange, node: Node, sent: HeaderList) -> None:
    """Headers that can be sent; a token that is no older than the client's, unless that is lost."""
    policy.wants_position(exchange, lambda: node)
    for position in (None, Position(LAST + 1, 1), node.position):
        added = policy.headers(exchange, node, position, sent)
        for name, value in added:
            assert _TCHAR.issuperset(name.decode("ascii"))
            assert all(32 <= byte != 127 for byte in value)
        assert exchange.lost is None or node.role is Role.PRIMARY
        if exchange.lost is None and exchange.token is not None and exchange.token != PIN:
            for carried in _carried(policy.options, added):
                assert _txid(carried) >= _txid(exchange.token)


def _carried(options: Options, added: HeaderList) -> Iterator[object]:
    cookie = options.cookies
    for name, value in added:
        if cookie is not None and name == b"set-cookie" and (raw := cookie.find(value)):
            yield options.tokens(_DATABASE).decode(raw)
        elif options.header is not None and name == options.header.encode():
            yield options.header_tokens(_DATABASE).decode(value)


def _txid(token: object) -> int:
    assert isinstance(token, int | Position), token
    return token.txid if isinstance(token, Position) else token
