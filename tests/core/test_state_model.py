"""The state against a model that remembers everything: it never says *here* of what is in no history any more.

A node commits, loses its primary, follows another one, which replaces what it has, is restored, killed and restarted, while
looks take their time and run ahead of a stream whose events come late and together. All by numbers that a seed gives.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from litefs_watch import Position, Role, TxChange
from litefs_watch.core.readings import (
    NEVER_REPLICATED_MS,
    DirectoryRead,
    Mount,
    Named,
    PositionsRead,
    Reading,
    RoleEvent,
    StreamEnded,
)
from litefs_watch.core.state import NodeState
from litefs_watch.position import Where
from litefs_watch.sources.burst import Burst

DB = "app.db"
SEEDS, STEPS = 600, 60

NOBODY, PRIMARY = ("nobody", None), ("primary", None)
Told = tuple[str, str | None] | Position


@dataclass
class Look:
    """One that is under way."""

    began: float
    version: int
    positions_first: bool
    """Then it is one at some positions, and not at everything."""
    away: bool = False
    primary: Named | None = None
    lag_ms: int = 0
    position: Position = field(default_factory=lambda: Position(0, 0))
    parts: int = 0


class Node:
    """The truth, and what is told of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.state = NodeState("me", 0.025)
        self.clock, self.serial = 0.0, 0
        self.history: list[Position] = []
        self.version = 0  # of the history
        self.ever: set[Position] = set()
        self.dropped = self.rewound = 0
        self.role: tuple[str, str | None] = ("replica", "a")
        self.follows, self.has_followed, self.heard_at = True, True, 0.0
        self.up, self.streaming, self.begun = True, False, False
        self.under_way: list[Told] = []
        self.restored = False  # and looks may have run ahead of what tells of it
        self.look: Look | None = None
        self.looked = -1  # of which version the last look was
        self.eras: list[tuple[object, frozenset[Position]]] = []
        for _ in range(self.random.randint(1, 4)):
            self.add()

    def tick(self, seconds: float | None = None) -> float:
        self.clock += self.random.choice([0.001, 0.001, 0.01, 0.03, 0.5, 1.0]) if seconds is None else seconds
        return self.clock

    def tell(self, news: Told) -> None:
        if self.streaming:
            self.under_way.append(news)

    # The truth.

    def add(self) -> Position:
        self.serial += 1
        position = Position(self.history[-1].txid + 1 if self.history else 1, self.serial)
        self.history.append(position)
        self.ever.add(position)
        self.version += 1
        return position

    def drop(self, count: int) -> None:
        if count:
            del self.history[-count:]
            self.dropped += count
            self.version += 1

    def set_role(self, role: tuple[str, str | None]) -> None:
        self.role, self.follows = role, role == PRIMARY
        self.tell(role)
        if not self.streaming:
            self.look_at_once()  # what happens between two looks is not told

    def commit(self) -> None:
        if self.up and self.role != NOBODY and self.follows:
            for _ in range(self.random.choice([1, 1, 1, 2, 5, 12])):
                self.tell(self.add())
            self.heard_at = self.clock

    def lose_primary(self) -> None:
        if self.up and self.role != NOBODY:
            self.has_followed = self.has_followed and self.role != PRIMARY
            self.set_role(NOBODY)

    def follow(self) -> None:
        if self.up and self.role == NOBODY:
            self.set_role(("replica", self.random.choice("abc")))

    def take_over(self) -> None:
        if self.up and self.role == NOBODY:
            self.set_role(PRIMARY)

    def begin_replication(self) -> None:
        """With what is there, or with a snapshot of the new primary's, which may have any TXID."""
        if self.up and not self.follows and self.role != NOBODY:
            match self.random.choice(["as it is", "snapshot", "snapshot", "catch up"]):
                case "snapshot":
                    before = self.history[-1]
                    self.drop(self.random.randint(0, min(4, len(self.history) - 1)))
                    # Where it goes back to a position of its own, nothing tells an event of before from one of after.
                    for _ in range(self.random.randint(int(bool(self.under_way or self.look)), 5)):
                        self.add()
                    if self.history[-1] != before:
                        self.tell(self.history[-1])
                case "catch up":
                    for _ in range(self.random.randint(1, 4)):
                        self.tell(self.add())
            self.follows, self.has_followed, self.heard_at = True, True, self.tick(1.0)

    def give_a_sign(self) -> None:
        if self.role != NOBODY and self.follows:
            self.heard_at = self.tick(1.0)

    def restore(self) -> None:
        """The primary goes back, and on in another history, though nobody else has become the primary."""
        if self.role == PRIMARY and self.streaming and self.begun and self.look is None and len(self.history) > 1:
            self.drop(self.random.randint(1, len(self.history) - 1))
            self.tell(self.add())
            self.restored = True

    def kill(self) -> None:
        if self.up:
            self.up, self.role, self.follows, self.has_followed = False, NOBODY, False, False
            self.drop(int(self.random.random() < 0.3 and len(self.history) > 1))
            self.end_stream()

    def restart(self) -> None:
        self.up = True

    # What is told.

    def connect(self) -> None:
        if self.up and not self.streaming:
            self.streaming, self.begun, self.under_way = True, False, [self.role]

    def cut(self) -> None:
        """What it would have said of the primary is told: else nobody ever tells that there was none for a moment."""
        if all(isinstance(news, Position) for news in self.under_way):
            self.end_stream()

    def end_stream(self) -> None:
        streaming, self.streaming, self.under_way = self.streaming, False, []
        if streaming and self.begun:
            self.apply(StreamEnded(self.tick()))
        self.look_at_once()

    def deliver(self) -> None:
        """Some of what is under way, at once."""
        count = self.random.randint(0, len(self.under_way))
        now, burst = self.tick(), Burst(self.apply)
        for news in [self.under_way.pop(0) for _ in range(count)]:
            if isinstance(news, Position):
                burst.put(now, DB, news)
            else:
                burst.flush(now)
                first, self.begun = not self.begun, True
                self.apply(RoleEvent(now, news == PRIMARY, news[1], first))
        burst.flush(now)

    def begin_look(self) -> None:
        if self.look is None:
            self.look = Look(self.tick(), self.version, positions_first=self.random.random() < 0.3)

    def go_on_looking(self) -> None:
        look = self.look
        if look is None:
            return
        if look.parts == 2:
            self.look = None
            self.end_look(look)
        elif not self.up:
            look.away = True
        elif look.positions_first == (look.parts == 0):
            look.position = self.history[-1]
        else:
            look.primary = Named(self.role[1]) if self.role[0] == "replica" else None
            since = max(1, int((self.clock - self.heard_at) * 1000))
            look.lag_ms = 0 if self.role == PRIMARY else since if self.has_followed else NEVER_REPLICATED_MS
        look.parts += 1

    def end_look(self, look: Look) -> None:
        if look.positions_first:
            if not look.away:
                self.looked = look.version
                self.apply(PositionsRead(look.began, {DB: look.position}, look.primary))
        elif look.away:
            self.apply(DirectoryRead(look.began, Mount.AWAY, faults={".": "not connected"}))
        else:
            self.looked = look.version
            self.apply(DirectoryRead(look.began, Mount.LITEFS, look.primary, look.lag_ms, {DB: look.position}))

    def look_at_once(self) -> None:
        while self.look is not None:
            self.go_on_looking()
        self.look = Look(self.tick(), self.version, positions_first=False)
        while self.look is not None:
            self.go_on_looking()

    # What is said.

    def apply(self, reading: Reading) -> None:
        for change in self.state.apply(reading):
            self.rewound += change.rewound if isinstance(change, TxChange) else 0
        assert self.rewound <= self.dropped
        lineage = self.state.here.get(DB)
        untold = self.restored or not all(isinstance(news, Position) for news in self.under_way)
        if self.looked == self.version and lineage is not None and not untold:
            true = set(self.history)
            for position in self.ever:
                where = lineage.where(position)
                assert where is not Where.HERE or position in true
                assert where is not Where.ELSEWHERE or position not in true

    def become_quiet(self) -> None:
        """Whatever went before: the truth is known in the end, who waits for it is met, and an era is one history."""
        self.restart()
        self.follow() if self.random.random() < 0.6 else self.take_over()
        self.begin_replication()
        while self.under_way:
            self.deliver()
        self.look_at_once()
        self.restored = False
        for _ in range(3):
            self.tick(1.0)
            self.give_a_sign()
            self.look_at_once()
        state, newest = self.state, self.history[-1]
        assert state.standing == (Role(self.role[0]), self.role[1])
        assert state.has(DB, newest) == state.has(DB, newest.txid) == newest
        assert state.has(DB, newest.txid + 1) is None
        view, history = state.view(DB), frozenset(self.history)
        for era, before in self.eras:
            assert era is not view.era or before <= history
        self.eras.append((view.era, history))

    def live(self) -> None:
        often = [self.commit] * 6 + [self.deliver] * 5 + [self.go_on_looking] * 8 + [self.begin_look] * 2
        others = [self.connect, self.restart, self.begin_replication] * 2 + [self.follow, self.give_a_sign, self.take_over]
        seldom = [self.lose_primary, self.look_at_once, self.become_quiet, self.restore, self.kill, self.cut]
        for _ in range(STEPS):
            self.random.choice(often if self.random.random() < 0.6 else others if self.random.random() < 0.7 else seldom)()
        self.become_quiet()


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_here_that_is_in_no_history(part: int) -> None:
    """Nor does what was dropped look like more than it was, nor does anybody wait for what is here."""
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        try:
            Node(seed).live()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
