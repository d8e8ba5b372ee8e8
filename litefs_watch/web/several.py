"""One middleware for several databases: a gate, a cookie and a header for each, and one request that goes through them all.

What runs where is decided once: the primary is that of all of a node's databases. What is waited for, and what is carried,
is each database's own; where a write has moved one of them, the others need no pin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from litefs_watch.consistency import RUN, Action, Exchange, Options, Policy
from litefs_watch.consistency.exchange import Headers
from litefs_watch.consistency.options import options_of, options_of_each
from litefs_watch.errors import ConfigError
from litefs_watch.position import Position
from litefs_watch.web.budget import Budget
from litefs_watch.web.waiting import AsyncGate, BlockingGate, Watched

HeaderList = list[tuple[bytes, bytes]]
Positions = tuple[Position | None, ...]
GateT = TypeVar("GateT")
GatesT = TypeVar("GatesT")


class Joint(Exchange):
    """A request for several databases: what the handler and the shell see of it."""

    def halt(self) -> None:
        """As `Exchange.halt`: of all."""
        super().halt()
        for exchange in self.each:
            exchange.halt()

    def tell(self) -> None:
        """Each database what the handler and the shell have said."""
        for exchange in self.each:
            exchange.written, exchange.late, exchange.scheme = self.written, self.late, self.scheme
            exchange.started = self.started

    def gather(self) -> None:
        """What the databases have found."""
        joint: Exchange = self  # whose attributes these are
        for exchange in self.each:
            joint.role = joint.role or exchange.role
            joint.held = joint.held or exchange.held
            joint.touched = joint.touched or exchange.touched
            joint.lost = exchange.lost if joint.lost is None else joint.lost
            joint.reset = joint.reset or exchange.reset
            joint.replicated = _least(joint.replicated, exchange.replicated)
            joint.committed = exchange.committed if joint.committed is None else joint.committed
        joint.before = tuple(exchange.before for exchange in self.each)  # type: ignore[assignment]


def _joint(exchange: Exchange) -> Sequence[Exchange]:
    return exchange.each if isinstance(exchange, Joint) else ()


class JointPolicy:
    """Takes a request apart for each database."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.options: Options = policies[0].options
        self.carriers: frozenset[bytes] = frozenset().union(*(policy.carriers for policy in policies))
        self._policies = policies

    def begin(self, method: str, path: str, headers: Headers, carried: Headers | None = None) -> Exchange | None:
        """As `Policy.begin`."""
        return self._begin(lambda policy: policy.begin(method, path, headers, carried))

    def begin_websocket(self, path: str, headers: Headers) -> Exchange | None:
        """As `Policy.begin_websocket`."""
        return self._begin(lambda policy: policy.begin_websocket(path, headers))

    def _begin(self, begin: Callable[[Policy], Exchange | None]) -> Exchange | None:
        each = [exchange for policy in self._policies if (exchange := begin(policy)) is not None]
        if not each:  # which paths are left alone is an option of all
            return None
        joint = Joint()
        joint.each, joint.method, joint.headers, joint.writes = each, each[0].method, each[0].headers, each[0].writes
        joint.asks = any(exchange.asks for exchange in each)
        joint.touched = any(exchange.touched for exchange in each)
        joint.token = next((exchange.token for exchange in each if exchange.token is not None), None)
        return joint


class _Gates:
    def __init__(self, gates: Sequence[AsyncGate] | Sequence[BlockingGate]) -> None:
        self._all = gates
        self.budget: Budget = gates[0].budget
        for gate in gates:  # of one server's threads, and of one request
            gate.budget = self.budget
            gate.tells_failures = gate is gates[0]
        self.hostname: str = gates[0].hostname
        self.policy: JointPolicy = JointPolicy([gate.policy for gate in gates])

    def is_met(self, exchange: Exchange) -> bool:
        """As `AsyncGate.is_met`: of all."""
        for gate, each in zip(self._all, _joint(exchange), strict=True):
            if not each.asks:
                gate.admit(each)
            elif not gate.is_met(each):
                return False
        return True

    def admit(self, exchange: Exchange) -> None:
        """As `AsyncGate.admit`."""
        for gate, each in zip(self._all, _joint(exchange), strict=True):
            gate.admit(each)

    def look_back(self, exchange: Exchange) -> None:
        """As `AsyncGate.look_back`."""
        for gate, each in zip(self._all, _joint(exchange), strict=True):
            each.written = exchange.written
            if each.token is not None:
                gate.look_back(each)
            exchange.reset = exchange.reset or each.reset

    def headers_at(self, exchange: Exchange, positions: Positions | None, sent: Iterable[tuple[bytes, bytes]]) -> HeaderList:
        """As `AsyncGate.headers_at`."""
        if not isinstance(exchange, Joint):
            return []
        exchange.tell()
        at = positions or (None,) * len(self._all)
        changed = [now is not None and now != each.before for now, each in zip(at, exchange.each, strict=True)]
        given = list(sent)
        added: HeaderList = []
        for gate, each, now, moved in zip(self._all, exchange.each, at, changed, strict=True):
            each.spared = any(changed) and not moved and now is not None
            more = gate.headers_at(each, now, given + added)
            added += [pair for pair in more if pair not in added]
        exchange.gather()
        return added

    def is_fault_of_node(self, exchange: Exchange, error: BaseException) -> bool:
        """As `AsyncGate.is_fault_of_node`: where one of them may have been written, it is not."""
        return all(gate.is_fault_of_node(each, error) for gate, each in zip(self._all, _joint(exchange), strict=True))


class BlockingGates(_Gates):
    """Several `BlockingGate`."""

    def __init__(self, gates: Sequence[BlockingGate]) -> None:
        super().__init__(gates)
        self._gates = gates

    def enter(self, exchange: Exchange) -> Action:
        """As `BlockingGate.enter`, one after the other."""
        for gate, each in zip(self._gates, _joint(exchange), strict=True):
            if each.asks and (action := gate.enter(each)) is not RUN:
                return action
        if isinstance(exchange, Joint):
            exchange.gather()
        return RUN

    def failed(self, exchange: Exchange, error: BaseException) -> Action | None:
        """As `BlockingGate.failed`: what may have committed to one of them is not sent on."""
        actions = (gate.failed(each, error) for gate, each in zip(self._gates, _joint(exchange), strict=True))
        action = None
        for action in actions:
            if action is None:
                break
        if isinstance(exchange, Joint):
            exchange.gather()
        return action

    def replicate(self, exchange: Exchange, positions: Positions | None, status: int) -> None:
        """As `BlockingGate.replicate`, one after the other."""
        _tell(exchange)
        for gate, each, position in zip(self._gates, _joint(exchange), positions or (), strict=False):
            gate.replicate(each, position, status)

    def position(self, exchange: Exchange) -> Positions | None:
        """As `BlockingGate.position`: of each. None where all are."""
        _tell(exchange)
        positions = tuple(gate.position(each) for gate, each in zip(self._gates, _joint(exchange), strict=True))
        return positions if any(positions) else None


class AsyncGates(_Gates):
    """Several `AsyncGate`."""

    def __init__(self, gates: Sequence[AsyncGate]) -> None:
        super().__init__(gates)
        self._gates = gates

    async def enter(self, exchange: Exchange, watched: Watched | None = None) -> Action:
        """As `AsyncGate.enter`, one after the other."""
        for gate, each in zip(self._gates, _joint(exchange), strict=True):
            if each.asks and not gate.is_met(each) and (action := await gate.enter(each, watched)) is not RUN:
                return action
        if isinstance(exchange, Joint):
            exchange.gather()
        return RUN

    async def failed(self, exchange: Exchange, error: BaseException) -> Action | None:
        """As `BlockingGates.failed`."""
        action = None
        for gate, each in zip(self._gates, _joint(exchange), strict=True):
            action = await gate.failed(each, error)
            if action is None:
                break
        if isinstance(exchange, Joint):
            exchange.gather()
        return action

    async def replicate(self, exchange: Exchange, positions: Positions | None, status: int) -> None:
        """As `BlockingGates.replicate`."""
        _tell(exchange)
        for gate, each, position in zip(self._gates, _joint(exchange), positions or (), strict=False):
            await gate.replicate(each, position, status)

    async def position(self, exchange: Exchange) -> Positions | None:
        """As `AsyncGate.position`: of each. None where all are."""
        _tell(exchange)
        positions = [await gate.position(each) for gate, each in zip(self._gates, _joint(exchange), strict=True)]
        return tuple(positions) if any(positions) else None


def _least(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)


def _tell(exchange: Exchange) -> None:
    if isinstance(exchange, Joint):
        exchange.tell()


def gate_of(
    watcher: Any,
    database: str | None,
    databases: Sequence[str],
    given: Mapping[str, Any],
    one: Callable[[Any, str | None, Options], GateT],
    several: Callable[[list[GateT]], GatesT],
) -> GateT | GatesT:
    """What a middleware's ``database``, ``databases`` and options ask for. Raises `ConfigError`, and `TypeError` for an
    option that is none."""
    own = watcher.settings.database
    if database is not None and databases != ():
        raise ConfigError("database and databases are both given: give one of them")
    if databases == ():
        return one(watcher, database, options_of(given, None if database == own else database))
    each = options_of_each(given, databases, own)
    return several([one(watcher, name, options) for name, options in each.items()])
