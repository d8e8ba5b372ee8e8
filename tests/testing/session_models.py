"""What the check of session guarantees is checked with: its definitions, pair by pair; and small stores, right and wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from litefs_watch.testing import Guarantee, Operation

# The definitions, in time as n cubed.


def before(one: Operation, other: Operation) -> bool:
    """Whether it had ended when the other one started."""
    return one.end <= other.start and not other.end <= one.start


@dataclass
class Definitions:
    """The rules at the top of `litefs_watch.testing.session_check`, each as one sentence about two operations."""

    history: Sequence[Operation]
    log: Sequence[str]

    def place(self, written: object) -> int | None:
        return self.log.index(written) if written in self.log else None

    def wrote(self, one: Operation) -> bool:
        return one.written is not None and one.answer == "ok"

    def did_read(self, one: Operation) -> bool:
        return one.read is not None and one.answer == "ok"

    def gone(self, read: Operation) -> list[object]:
        return [seen for seen in read.read or () if seen not in self.log]

    def known(self, read: Operation) -> int | None:
        """The place of a read, where it is certain."""
        seen = [self.log.index(seen) for seen in read.read or () if seen in self.log]
        return max(seen, default=None if self.gone(read) else -1)

    def at_most(self, read: Operation) -> int:
        """The place of a read, or the highest that it can have had."""
        known = self.known(read)
        if known is not None:
            return known
        limits = [len(self.log) - 1]
        for lost in self.gone(read):
            for write in self.history:
                if write.written == lost and self.wrote(write):
                    limits += [
                        self.log.index(later.written) - 1
                        for later in self.history
                        if later.written in self.log and later.answer != "refused" and later.start >= write.end
                    ]
        return min(limits)

    def told(self, relied: Operation, later: Operation, *, itself: bool) -> bool:
        session = [one for one in self.history if one.session == later.session and one.told_lost and before(relied, one)]
        return any(before(one, later) or (itself and one is later) for one in session)

    def demands(self, guarantee: str, later: Operation) -> list[tuple[Operation, int | None]]:
        """What came before that counts, and its place; None where it is gone."""
        found: list[tuple[Operation, int | None]] = []
        for one in self.history:
            if one.session != later.session or not before(one, later):
                continue
            if guarantee in (Guarantee.READ_YOUR_WRITES, Guarantee.MONOTONIC_WRITES):
                found += [(one, self.place(one.written))] if self.wrote(one) else []
            elif self.did_read(one):
                known = self.known(one)
                found += [(one, known)] if known is not None else []
                found += [(one, None)] if self.gone(one) else []
        return found

    def subject(self, guarantee: str, later: Operation) -> int | None:
        """How much of the log an operation includes; None where the guarantee is not about it."""
        if guarantee in (Guarantee.READ_YOUR_WRITES, Guarantee.MONOTONIC_READS):
            return self.at_most(later) if self.did_read(later) else None
        place = self.place(later.written)
        return None if place is None or later.answer == "refused" else place - 1

    def misses(self, guarantee: str, relied: Operation, later: Operation, *, itself: bool) -> bool:
        """Whether something that is gone is missing from an operation, untold."""
        reading = guarantee in (Guarantee.READ_YOUR_WRITES, Guarantee.MONOTONIC_READS)
        if not reading and later.answer != "ok":
            return False
        return not (reading and self.gone(later)) and not self.told(relied, later, itself=itself)

    def violated(self, guarantee: str, later: Operation) -> bool:
        included = self.subject(guarantee, later)
        return included is not None and any(
            self.misses(guarantee, one, later, itself=True)
            if place is None
            else place > included and not self.told(one, later, itself=True)
            for one, place in self.demands(guarantee, later)
        )

    def shown(self, node: str | None, until: Operation) -> int:
        """The newest place that a node, or any of them, had shown."""
        places = [-1]
        for one in self.history:
            if before(one, until) and one.answer == "ok" and node in (None, one.node):
                places += [place for place in (self.place(one.written),) if place is not None]
                places += [known for known in (self.known(one),) if known is not None and one.read is not None]
        return max(places)

    def tested(self, guarantee: str, later: Operation) -> bool:
        if self.subject(guarantee, later) is None:
            return False
        demands = self.demands(guarantee, later)
        missing = any(place is None and self.misses(guarantee, one, later, itself=False) for one, place in demands)
        shown = self.shown(later.node, later)
        in_doubt = later.node != "" and any(
            place is not None and place > shown and not self.told(one, later, itself=False) for one, place in demands
        )
        return self.violated(guarantee, later) or (later.answer == "ok" and (missing or in_doubt))

    def violations(self) -> set[tuple[str, int]]:
        return {(g, number) for number, one in enumerate(self.history) for g in Guarantee if self.violated(g, one)}

    def tests(self) -> dict[str, int]:
        return {g: sum(self.tested(g, one) for one in self.history) for g in Guarantee}

    def already_gone(self) -> list[Operation]:
        reads = [one for one in self.history if self.did_read(one) and self.gone(one)]
        return [read for read in reads if self.shown(None, read) > self.at_most(read)]


# A shop with a primary and two replicas, and clients with cookies.

Cookie = Literal["position", "none", "one too low", "deleted by the first replica that has it", "bare number"]


@dataclass
class Client:
    branch: int = 0
    token: int = 0
    """How much of its branch's log a node must have."""


@dataclass
class Shop:
    """Nodes that replicate one log, clients that carry tokens, and fail-overs that lose what was not replicated."""

    cookie: Cookie
    seed: int
    fail_overs: bool = False
    history: list[Operation] = field(default_factory=list)

    def run(self, steps: int = 2000) -> list[str]:
        """Do so many operations; the log at the end."""
        self.chance = random.Random(self.seed)
        self.log: list[str] = []
        self.branch = 0
        self.branch_points: list[int] = []
        self.nodes = {"node-a": 0, "node-b": 0, "node-c": 0}
        self.primary = "node-a"
        self.time = 0.0
        clients = {name: Client() for name in ("alice", "bob", "carol", "dave")}
        for number in range(steps):
            for node in self.nodes:
                if node != self.primary and self.chance.random() < 0.3:
                    self.nodes[node] = min(self.nodes[node] + self.chance.randrange(3), len(self.log))
            if self.fail_overs and self.chance.random() < 0.03:
                self.fail_over()
            name = self.chance.choice(list(clients))
            (self.write if self.chance.random() < 0.4 else self.read)(name, clients[name], f"w{number}")
        return self.log

    def fail_over(self) -> None:
        """Another node becomes the primary, and what it has not got is lost."""
        self.primary = self.chance.choice([node for node in self.nodes if node != self.primary])
        del self.log[self.nodes[self.primary] :]
        self.branch += 1
        self.branch_points.append(len(self.log))
        self.nodes = {node: min(has, len(self.log)) for node, has in self.nodes.items()}

    def lost(self, client: Client) -> bool:
        """Whether a token's position is in no history any more: what no cookie, or a bare number, can't tell."""
        points = self.branch_points[client.branch :]
        return self.cookie not in ("none", "bare number") and bool(points) and client.token > min(points)

    def write(self, name: str, client: Client, written: str) -> None:
        told = self.lost(client)
        self.log.append(written)
        self.nodes[self.primary] = len(self.log)
        self.record(name, written=written, node=self.primary, told_lost=told)
        self.give(client)

    def read(self, name: str, client: Client, _: str) -> None:
        node = self.chance.choice(list(self.nodes))
        told = self.lost(client)
        if told:
            node = self.primary  # it waits in vain, and is replayed
        demanded = client.token - (self.cookie == "one too low")
        if self.cookie != "none":
            self.nodes[node] = max(self.nodes[node], min(demanded, len(self.log)))  # it waits
        if self.cookie == "deleted by the first replica that has it" and node != self.primary:
            client.token = 0
        elif told or client.token <= self.nodes[node]:
            self.give(client, node)
        seen = self.log[: self.nodes[node]][-10:]
        self.record(name, read=seen, node=node, told_lost=told)

    def give(self, client: Client, node: str | None = None) -> None:
        client.branch, client.token = self.branch, self.nodes[node or self.primary]

    def record(self, name: str, **what: object) -> None:
        self.history.append(Operation(name, self.time, self.time + 0.5, **what))  # type: ignore[arg-type]
        self.time += 1
