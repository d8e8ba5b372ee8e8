"""Any interleaving of the sources shows a subsequence, in order, of what was true, and ends in the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from litefs_watch import Position, PrimaryChange, Role, TxChange
from litefs_watch.core.readings import (
    DirectoryRead,
    Mount,
    Named,
    PositionsRead,
    Reading,
    RoleEvent,
    Silence,
    StreamEnded,
    TxEvent,
)
from litefs_watch.core.state import NodeState

DB = "app.db"
SETTLE = 0.025


@dataclass
class Truth:
    """A database's history, and a stream whose events arrive whenever they like, in order."""

    history: list[Position] = field(default_factory=lambda: [Position(0, 0)])
    under_way: list[TxEvent] = field(default_factory=list)

    @property
    def now(self) -> Position:
        return self.history[-1]

    def move(self, txid: int, *, notify: bool) -> None:
        self.history.append(Position(txid, len(self.history)))  # a checksum for each: histories can be told apart
        if notify:
            self.under_way.append(TxEvent(0.0, DB, self.now))


class Interleavings(RuleBasedStateMachine):
    """Commits, resets, slow reads (one at a time, as the re-read makes them), and events that are late.

    ``notify=False`` is a change that nobody tells of. Not while a read is under way: which of two came first, the read's
    answer or the event's, can then only be told by the events in between; nor, likewise, is a read slow that begins after
    such a change and before the events from before it have come.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.truth = Truth()
        self.state = NodeState("me", SETTLE)
        self.seen: list[Position] = []
        self.reads: list[PositionsRead] = []
        self.untold = False

    def tick(self) -> float:
        self.clock += 1.0
        return self.clock

    def apply(self, reading: Reading) -> None:
        for change in self.state.apply(reading):
            assert isinstance(change, TxChange)
            self.seen.append(change.position)

    def move(self, txid: int, notify: bool) -> None:
        tells = notify or bool(self.reads)
        self.untold = self.untold or (not tells and bool(self.truth.under_way))
        self.truth.move(txid, notify=tells)

    @rule(step=st.integers(1, 3), notify=st.booleans())
    def commit(self, step: int, notify: bool) -> None:
        self.move(self.truth.now.txid + step, notify)

    @rule(back=st.integers(0, 4), notify=st.booleans())
    def reset(self, back: int, notify: bool) -> None:
        self.move(max(0, self.truth.now.txid - back), notify)

    @precondition(lambda self: not self.reads)
    @rule()
    def a_quick_read(self) -> None:
        self.apply(PositionsRead(self.tick(), {DB: self.truth.now}))

    @precondition(lambda self: not self.reads and not self.untold)
    @rule()
    def a_slow_read_begins(self) -> None:
        self.reads.append(PositionsRead(self.tick(), {DB: self.truth.now}))

    @precondition(lambda self: self.reads)
    @rule()
    def the_slow_read_ends(self) -> None:
        self.apply(self.reads.pop())

    @precondition(lambda self: self.truth.under_way)
    @rule()
    def an_event_arrives(self) -> None:
        event = self.truth.under_way.pop(0)
        self.untold = self.untold and bool(self.truth.under_way)
        self.apply(TxEvent(self.tick(), DB, event.position))

    @rule()
    def the_stream_breaks_and_comes_back(self) -> None:
        self.truth.under_way.clear()
        self.untold = False
        self.state.apply(StreamEnded(self.tick()))
        self.state.apply(RoleEvent(self.tick(), False, "a", first=True))

    @invariant()
    def what_was_seen_is_a_subsequence_in_order(self) -> None:
        rest = iter(self.truth.history)
        assert all(position in rest for position in self.seen), (self.seen, self.truth.history)

    def teardown(self) -> None:
        """When all is quiet, one look at the files ends in the truth, and late events change nothing."""
        self.reads.clear()
        self.apply(PositionsRead(self.tick(), {DB: self.truth.now}))
        for event in self.truth.under_way:
            self.apply(TxEvent(self.tick(), DB, event.position))
        self.apply(PositionsRead(self.tick(), {DB: self.truth.now}))
        assert self.state.positions[DB] == self.truth.now


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)

hostnames = st.sampled_from(["me", "a", "b", None])
looks = st.builds(
    DirectoryRead,
    began=st.just(0.0),
    mount=st.sampled_from(Mount),
    primary=st.none() | st.builds(Named, hostnames),
    lag_ms=st.none() | st.sampled_from([0, 5, -5, 2**31 - 1]),
    positions=st.dictionaries(st.just(DB), st.builds(Position, st.integers(0, 3), st.integers(0, 1))),
    faults=st.dictionaries(st.sampled_from([".", ".primary", ".lag", f"{DB}-pos"]), st.just("unreadable")),
)
events = st.builds(RoleEvent, st.just(0.0), st.booleans(), hostnames, st.booleans())
others = st.sampled_from([StreamEnded(0.0), Silence(0.0), TxEvent(0.0, DB, Position(2, 1))])


@given(st.lists(st.tuples(st.floats(0.0, 0.05), looks | events | others), max_size=30))
def test_any_readings_keep_the_invariants(sequence: list[tuple[float, Reading]]) -> None:
    """A node never is its own replica; only a replica has a primary; each change starts where the last one ended."""
    state = NodeState("me", SETTLE)
    clock = 0.0
    before: tuple[Role, str | None] = (Role.UNKNOWN, None)
    for pause, reading in sequence:
        clock += pause
        fields = {name: getattr(reading, name) for name in reading.__slots__} | {"began": clock}
        for change in state.apply(type(reading)(**fields)):
            if isinstance(change, PrimaryChange):
                assert (change.previous_role, change.previous_primary) == before
                assert (change.role, change.primary) != before
                before = (change.role, change.primary)
        assert (state.role, state.standing.primary) == before
        assert state.standing.primary != "me"
        assert state.standing.primary is None or state.role is Role.REPLICA
        assert state.look_again_at is None or state.look_again_at >= clock


@given(st.lists(st.tuples(st.floats(0.0, 0.05), looks | events | others), max_size=20), st.sampled_from(["a", "b", None]))
def test_a_later_good_reading_heals(sequence: list[tuple[float, Reading]], primary: str | None) -> None:
    """Whatever went before: two good looks, a settling time apart, and the truth stands."""
    state = NodeState("me", SETTLE)
    clock = 0.0
    for pause, reading in sequence:
        clock += pause
        fields = {name: getattr(reading, name) for name in reading.__slots__} | {"began": clock}
        state.apply(type(reading)(**fields))
    for moment in (clock + 1, clock + 2):
        state.apply(DirectoryRead(moment, Mount.LITEFS, Named(primary), 5, {DB: Position(9, 9)}))
    assert (state.role, state.standing.primary, state.positions[DB]) == (Role.REPLICA, primary, Position(9, 9))
