"""The rules at the top of state.py, by number. Times are plain numbers: the state has no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from litefs_watch import Position, PrimaryChange, Role, TxChange
from litefs_watch.core import state as state_module
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
from litefs_watch.position import Where

SETTLE = 0.025
DB = "app.db"
NEVER = 2**31 - 1


def at(txid: int, checksum: int = 7) -> Position:
    return Position(txid, checksum)


def read(
    began: float,
    *,
    primary: str | Named | None = None,
    lag: int | None = None,
    positions: Mapping[str, Position] | None = None,
    mount: Mount = Mount.LITEFS,
    faults: tuple[str, ...] = (),
) -> DirectoryRead:
    named = Named(primary) if isinstance(primary, str) else primary
    return DirectoryRead(began, mount, named, lag, positions or {}, dict.fromkeys(faults, "unreadable"))


class Driver:
    """A state, and all that came of it."""

    def __init__(self) -> None:
        self.state = NodeState("me", SETTLE)
        self.roles: list[tuple[Role, str | None]] = []
        self.positions: list[Position] = []

    def __call__(self, *readings: Reading) -> Driver:
        for reading in readings:
            for change in self.state.apply(reading):
                if isinstance(change, TxChange):
                    assert change.previous == (self.positions[-1] if self.positions else None)
                    self.positions.append(change.position)
                else:
                    before = self.roles[-1] if self.roles else (Role.UNKNOWN, None)
                    assert (change.previous_role, change.previous_primary) == before
                    self.roles.append((change.role, change.primary))
        return self


@pytest.fixture
def node() -> Driver:
    return Driver()


def primary(began: float, *, first: bool = False) -> RoleEvent:
    return RoleEvent(began, True, None, first)


def replica(began: float, of: str | None, *, first: bool = False) -> RoleEvent:
    return RoleEvent(began, False, of, first)


# Rule 1


def test_rule_1_an_older_read_raises_but_never_lowers(node: Driver) -> None:
    """What was read earlier and arrives later can only have missed something."""
    node(PositionsRead(2.0, {DB: at(5)}), PositionsRead(1.0, {DB: at(4)}))
    assert node.positions == [at(5)]
    node(PositionsRead(1.5, {DB: at(6)}))
    assert node.positions == [at(5), at(6)]


def test_rule_1_a_newer_read_lowers(node: Driver) -> None:
    """A reset replica, a restored database: positions go back."""
    node(PositionsRead(1.0, {DB: at(5)}), PositionsRead(2.0, {DB: at(3)}))
    assert node.positions == [at(5), at(3)]


def test_rule_1_the_same_txid_with_another_checksum_is_another_history(node: Driver) -> None:
    """It counts as lower: only a newer read may say so."""
    node(PositionsRead(2.0, {DB: at(5, 1)}), PositionsRead(1.0, {DB: at(5, 2)}))
    assert node.positions == [at(5, 1)]
    node(PositionsRead(3.0, {DB: at(5, 2)}))
    assert node.positions == [at(5, 1), at(5, 2)]


def test_rule_1_a_read_from_before_a_lowering_counts_no_more(node: Driver) -> None:
    """It saw the history that is gone."""
    node(PositionsRead(1.0, {DB: at(5)}), PositionsRead(3.0, {DB: at(2)}), PositionsRead(2.0, {DB: at(6)}))
    assert node.positions == [at(5), at(2)]


def test_a_read_of_the_same_position_moves_its_time(node: Driver) -> None:
    """Else a slow, older read could lower what has just been confirmed."""
    node(PositionsRead(1.0, {DB: at(5)}), PositionsRead(4.0, {DB: at(5)}), PositionsRead(3.0, {DB: at(4)}))
    assert node.positions == [at(5)]


# Rule 2


def test_rule_2_an_event_that_lowers_is_look_again(node: Driver) -> None:
    """A read ran ahead of the stream: its events are old news. No change, but a look."""
    node(PositionsRead(1.0, {DB: at(5)}), TxEvent(2.0, DB, at(4)))
    assert node.positions == [at(5)]
    assert node.state.look_again_at == 2.0


def test_rule_2_after_a_lowering_events_under_way_are_look_again(node: Driver) -> None:
    """They may belong to the history that is gone."""
    node(TxEvent(1.0, DB, at(8)), PositionsRead(2.0, {DB: at(5)}), TxEvent(2.1, DB, at(9)))
    assert node.positions == [at(8), at(5)]
    assert node.state.look_again_at == 2.1


def test_rule_2_the_stream_is_trusted_again_once_it_agrees_with_the_files(node: Driver) -> None:
    """An event that says what the files say, or files that say what the last event said."""
    node(TxEvent(1.0, DB, at(8)), PositionsRead(2.0, {DB: at(5, 9)}), TxEvent(2.1, DB, at(5, 9)), TxEvent(2.2, DB, at(6, 9)))
    assert node.positions == [at(8), at(5, 9), at(6, 9)]
    node(PositionsRead(3.0, {DB: at(2)}), TxEvent(3.1, DB, at(3)), PositionsRead(3.2, {DB: at(3)}), TxEvent(3.3, DB, at(4)))
    assert node.positions[3:] == [at(2), at(3), at(4)]


def test_rule_2_a_new_stream_must_agree_first(node: Driver) -> None:
    """What is known may have been read after it was opened, and so be ahead of its first events."""
    node(TxEvent(1.0, DB, at(8)), replica(3.0, "a", first=True), TxEvent(3.1, DB, at(9)))
    assert node.positions == [at(8)]
    assert node.state.look_again_at == 3.1
    node(PositionsRead(3.2, {DB: at(9)}), TxEvent(3.3, DB, at(10)))
    assert node.positions == [at(8), at(9), at(10)]


def test_rule_2_a_look_that_ran_ahead_puts_events_in_doubt(node: Driver) -> None:
    """The database went 3, 4, 5 and back to another 4; the look saw that one, the events of the first are under way."""
    node(TxEvent(1.0, DB, at(3)), PositionsRead(2.0, {DB: at(4, 9)}), TxEvent(2.1, DB, at(4)), TxEvent(2.2, DB, at(5)))
    assert node.positions == [at(3), at(4, 9)]
    assert node.state.look_again_at == 2.2
    node(TxEvent(2.3, DB, at(4, 9)), TxEvent(2.4, DB, at(5, 9)))
    assert node.positions == [at(3), at(4, 9), at(5, 9)]


def test_rule_2_a_position_that_was_passed_ends_the_doubt_as_well(node: Driver) -> None:
    """In a burst, only the newest event comes by itself: a look that ran into the middle of it would be doubted for long."""
    node(TxEvent(1.0, DB, at(3)), PositionsRead(2.0, {DB: at(5)}), TxEvent(2.1, DB, at(7), (at(4), at(5, 9), at(6))))
    assert node.positions == [at(3), at(5)]
    node(TxEvent(2.2, DB, at(9), (at(4), at(5), at(8))))
    assert node.positions == [at(3), at(5), at(9)]


def test_a_raising_event_counts_at_once(node: Driver) -> None:
    """The common case: no read in between."""
    node(TxEvent(1.0, DB, at(1)), TxEvent(2.0, DB, at(2)))
    assert node.positions == [at(1), at(2)]
    assert node.state.look_again_at is None


def test_databases_are_independent(node: Driver) -> None:
    """One that goes back takes no other with it."""
    node.state.apply(PositionsRead(1.0, {"a": at(5), "b": at(5)}))
    changes = node.state.apply(PositionsRead(2.0, {"a": at(3), "b": at(6)}))
    assert changes == [TxChange("a", at(3), at(5)), TxChange("b", at(6), at(5))]


def test_positions_stay_when_the_files_are_gone(node: Driver) -> None:
    """As last known: LiteFS was stopped, not the history undone."""
    node(read(1.0, positions={DB: at(5)}), read(2.0, mount=Mount.AWAY, faults=(".",)))
    assert node.state.positions == {DB: at(5)}


def test_the_number_of_databases_is_bounded(monkeypatch: pytest.MonkeyPatch, node: Driver) -> None:
    """A program that is not LiteFS may name any number."""
    monkeypatch.setattr(state_module, "DATABASE_LIMIT", 3)
    for number in range(10):
        node.state.apply(TxEvent(1.0, f"{number}.db", at(1)))
    assert len(node.state.positions) == len(node.state._agreement.last_event) == 3


# Rule 3


@pytest.mark.parametrize("lag", [NEVER, 506, -12])
def test_rule_3_no_primary_file_is_no_proof(node: Driver, lag: int) -> None:
    """Absent on a node that is cut off, too: .lag tells them apart."""
    node(read(1.0, lag=lag), read(2.0, lag=lag), read(3.0, lag=lag))
    assert node.roles == []


def test_rule_3_no_primary_file_and_no_lag_twice_is_primary(node: Driver) -> None:
    """On a second look."""
    node(read(1.0, lag=0))
    assert node.roles == []
    assert node.state.look_again_at == 1.0 + SETTLE
    node(read(1.0 + SETTLE, lag=0))
    assert node.roles == [(Role.PRIMARY, None)]


def test_rule_3_a_lag_that_passes_zero_is_no_proof(node: Driver) -> None:
    """Right after a disconnection .lag is small, and clock skew may take it through zero."""
    node(read(1.0, lag=0), read(1.0 + SETTLE, lag=25), read(2.0, lag=1000))
    assert node.roles == []


def test_rule_3_litefs_own_word_counts_at_once(node: Driver) -> None:
    """isPrimary from the stream, either way."""
    node(primary(1.0, first=True))
    assert node.roles == [(Role.PRIMARY, None)]
    node(replica(2.0, None))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None)]


def test_from_primary_to_replica_needs_no_detour(node: Driver) -> None:
    """Where LiteFS names the new primary in the same breath."""
    node(primary(1.0, first=True), replica(2.0, "b"))
    assert node.roles == [(Role.PRIMARY, None), (Role.REPLICA, "b")]


# Rule 4


def test_rule_4_without_lag_litefs_js_rule_serves_where_a_database_is(node: Driver) -> None:
    """An ordinary directory, or LiteFS before 0.5."""
    here = {"positions": {DB: at(1)}, "mount": Mount.ORDINARY}
    node(read(1.0, **here), read(2.0, **here))  # type: ignore[arg-type]
    assert node.roles == [(Role.PRIMARY, None)]
    node(read(3.0, primary="b", **here), read(4.0, primary="b", **here))  # type: ignore[arg-type]
    assert node.roles[1:] == [(Role.REPLICA, "b")]


def test_rule_4_an_empty_directory_is_unknown(node: Driver) -> None:
    """A mount point before LiteFS is up, or after a clean stop."""
    node(read(1.0, mount=Mount.ORDINARY), read(2.0, mount=Mount.ORDINARY))
    assert node.roles == []


def test_rule_4_does_not_outdo_a_stream(node: Driver) -> None:
    """Where LiteFS says that this node is not primary, the absence of files proves nothing."""
    node(replica(1.0, None, first=True), read(1.1, positions={DB: at(1)}), read(2.0, positions={DB: at(1)}))
    assert node.roles == []


def test_rule_4_an_unreadable_position_is_a_database_too(node: Driver) -> None:
    """One read error does not turn a directory with a database into an empty one."""
    here = {"mount": Mount.ORDINARY}
    node(read(1.0, positions={DB: at(1)}, **here), read(2.0, positions={DB: at(1)}, **here))  # type: ignore[arg-type]
    node(read(3.0, faults=(f"{DB}-pos",), **here), read(4.0, faults=(f"{DB}-pos",), **here))  # type: ignore[arg-type]
    assert node.roles == [(Role.PRIMARY, None)]


# Rule 5


def test_rule_5_the_flap_of_a_cut_off_replica_is_no_change(node: Driver) -> None:
    """Once a second the unreachable primary is named for about a millisecond."""
    node(replica(0.0, None, first=True))
    for second in range(1, 60):
        node(replica(second, "x"), replica(second + 0.001, None), read(second + SETTLE, lag=second * 1000))
    assert node.roles == []


def test_rule_5_even_a_read_that_hits_the_flap_is_no_change(node: Driver) -> None:
    """The file is there during the flap, too."""
    node(replica(1.0, "x", first=True), read(1.0005, primary="x", lag=5000), replica(1.001, None), read(1.03, lag=5030))
    assert node.roles == []


def test_rule_5_a_primary_that_stays_counts(node: Driver) -> None:
    """Confirmed by the files, after settling."""
    node(replica(1.0, "a", first=True), read(1.001, primary="a", lag=NEVER))
    assert node.roles == []
    assert node.state.look_again_at == 1.0 + SETTLE
    node(read(1.0 + SETTLE, primary="a", lag=NEVER))
    assert node.roles == [(Role.REPLICA, "a")]


def test_rule_5_without_files_the_stream_s_last_word_stands(node: Driver) -> None:
    """The name stayed, and the files prove nothing."""
    node(replica(1.0, "a", first=True), read(1.0 + SETTLE, mount=Mount.ORDINARY))
    assert node.roles == [(Role.REPLICA, "a")]


def test_rule_5_a_connection_that_blinks_is_no_change(node: Driver) -> None:
    """A connected replica that loses its primary for a few milliseconds."""
    node(replica(1.0, "a", first=True), read(2.0, primary="a", lag=1))
    node(replica(3.0, None), replica(3.002, "a"), read(3.03, primary="a", lag=1))
    assert node.roles == [(Role.REPLICA, "a")]


def test_rule_5_a_loss_that_stays_is_unknown(node: Driver) -> None:
    """A killed primary, seen from its replica."""
    node(replica(1.0, "a", first=True), read(2.0, primary="a", lag=1))
    node(replica(3.0, None), read(3.0 + SETTLE, lag=500))
    assert node.roles == [(Role.REPLICA, "a"), (Role.UNKNOWN, None)]


# Rule 6


def test_rule_6_a_hand_over_on_the_old_primary(node: Driver) -> None:
    """As measured: false/none, false/node-a (itself), false/none, false/node-b, within 1.1 s."""
    node(primary(0.0, first=True), read(0.1, lag=0))
    node(replica(1.0, None), read(1.01, lag=NEVER))
    node(replica(1.5, "me"), read(1.5005, primary="me", lag=NEVER), replica(1.501, None), read(1.6, lag=NEVER))
    node(replica(2.1, "b"), read(2.1 + SETTLE, primary="b", lag=NEVER))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None), (Role.REPLICA, "b")]


def test_rule_6_a_primary_that_is_named_as_its_own_replica_for_a_moment_stays(node: Driver) -> None:
    """By the file only: within the time that a claim must stay."""
    node(read(1.0, lag=0), read(2.0, lag=0), read(3.0, primary="me", lag=0), read(3.02, lag=0), read(4.0, lag=0))
    assert node.roles == [(Role.PRIMARY, None)]


def test_rule_6_named_so_for_ever_is_unknown(node: Driver) -> None:
    """Two nodes with the same hostname: whichever this is, it can't be replayed to."""
    node(read(1.0, primary="me", lag=5), read(2.0, primary="me", lag=5), read(3.0, primary="me", lag=5))
    assert node.roles == []


def test_a_hand_over_on_the_new_primary(node: Driver) -> None:
    """REPLICA, then PRIMARY; UNKNOWN in between only where it lasted."""
    node(replica(0.0, "a", first=True), read(0.1, primary="a", lag=3))
    node(replica(1.0, None), primary(1.01), read(1.1, lag=0))
    assert node.roles == [(Role.REPLICA, "a"), (Role.PRIMARY, None)]


def test_a_primary_without_a_name(node: Driver) -> None:
    """A static lease without lease.hostname: the stream says nothing, the file a lone newline. This is a replica."""
    node(replica(1.0, None, first=True), read(1.001, primary=Named(None), lag=3), read(1.1, primary=Named(None), lag=3))
    assert node.roles == [(Role.REPLICA, None)]
    assert node.state.settled
    node(StreamEnded(2.0), replica(2.1, None, first=True), read(2.2, primary=Named(None), lag=3))
    assert node.roles == [(Role.REPLICA, None)]
    node(replica(3.0, None), read(3.001, lag=100), read(3.1, lag=200))
    assert node.roles == [(Role.REPLICA, None), (Role.UNKNOWN, None)]


# Rule 7


@pytest.mark.parametrize("faults", [(".primary",), (".lag",), (".primary", ".lag"), (".", ".lag")])
@pytest.mark.parametrize(
    ("before", "role"),
    [({"primary": "a", "lag": 1}, (Role.REPLICA, "a")), ({"lag": 0}, (Role.PRIMARY, None)), ({"lag": 9}, None)],
)
def test_rule_7_a_fault_is_no_evidence(
    node: Driver, before: dict[str, Any], role: tuple[Role, str | None] | None, faults: tuple[str, ...]
) -> None:
    """Of a replica, a primary, or an unknown: it stays what it was, however often."""
    node(read(1.0, **before), read(2.0, **before))
    node(*(read(began, faults=faults, positions={DB: at(1)}) for began in (3.0, 4.0, 5.0)))
    assert node.roles == ([role] if role else [])


def test_an_unconfirmed_claim_does_not_make_the_reader_spin(node: Driver) -> None:
    """Where the second look fails, the next one is the safety net's, not at once and for ever."""
    node(read(1.0, primary="a", lag=1), read(2.0, faults=(".primary", ".lag")))
    assert node.state.look_again_at is None


# Rule 8


def test_rule_8_a_dead_mount_without_a_stream_is_unknown(node: Driver) -> None:
    """LiteFS was killed: the stream ended, and the mount answers ENOTCONN."""
    node(primary(1.0, first=True), read(1.1, lag=0), StreamEnded(2.0))
    assert node.roles == [(Role.PRIMARY, None)]
    assert node.state.look_again_at == 2.0
    node(read(2.001, mount=Mount.AWAY, faults=(".",)))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None)]


def test_rule_8_whichever_is_seen_first(node: Driver) -> None:
    """The mount died, and then the stream ended."""
    node(primary(1.0, first=True), read(1.1, lag=0), read(2.0, mount=Mount.AWAY, faults=(".",)))
    assert node.roles == [(Role.PRIMARY, None)]
    node(StreamEnded(2.001))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None)]


def test_rule_8_the_bare_directory_under_a_mount_proves_nothing(node: Driver) -> None:
    """After a clean stop what is left may even hold old files: no primary by litefs-js's rule."""
    node(read(1.0, lag=0), read(2.0, lag=0), read(3.0, mount=Mount.ORDINARY, positions={DB: at(1)}))
    node(read(4.0, mount=Mount.ORDINARY, positions={DB: at(1)}))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None)]


def test_rule_8_an_ended_stream_alone_changes_nothing(node: Driver) -> None:
    """The files go on telling."""
    node(replica(1.0, "a", first=True), read(1.1, primary="a", lag=1), StreamEnded(2.0), read(2.1, primary="a", lag=1))
    assert node.roles == [(Role.REPLICA, "a")]


def test_rule_8_silence_is_unknown_and_heals(node: Driver) -> None:
    """A frozen LiteFS; and the read that it held up says nothing about afterwards."""
    node(primary(1.0, first=True), read(1.1, lag=0), Silence(5.0), read(2.0, lag=0))
    assert node.roles == [(Role.PRIMARY, None), (Role.UNKNOWN, None)]
    node(read(6.0, lag=0), read(6.1, lag=0))
    assert node.roles[2:] == [(Role.PRIMARY, None)]


def test_lag_is_what_was_last_read(node: Driver) -> None:
    """None where LiteFS is away or frozen, kept over a fault."""
    node(read(1.0, primary="a", lag=506))
    assert node.state.lag_ms == 506
    node(read(2.0, primary="a", faults=(".lag",)))
    assert node.state.lag_ms == 506
    node(read(3.0, mount=Mount.AWAY, faults=(".",)))
    assert node.state.lag_ms is None
    node(read(4.0, primary="a", lag=7), Silence(9.0))
    assert node.state.lag_ms is None


def test_changes_say_what_was_before(node: Driver) -> None:
    """A change carries both sides."""
    (change,) = node.state.apply(primary(1.0, first=True))
    assert change == PrimaryChange(Role.PRIMARY, None, Role.UNKNOWN, None)


def test_a_primary_without_a_name_is_awaited_past_the_stream_s_silence(node: Driver) -> None:
    """The files were read first, the stream names nobody: the claim is still to be confirmed, not settled."""
    node(read(1.0, primary=Named(None), lag=3), replica(1.001, None, first=True))
    assert not node.state.settled
    late = Driver()(replica(1.001, None, first=True), read(1.0, primary=Named(None), lag=3))
    assert not late.state.settled
    late(read(1.1, primary=Named(None), lag=3), read(1.2, primary=Named(None), lag=3))
    assert late.state.settled
    assert late.roles == [(Role.REPLICA, None)]


def test_a_look_that_began_before_litefs_spoke_says_nothing_about_the_role(node: Driver) -> None:
    """Slow reads: the promotion came while they were under way."""
    node(primary(3.0, first=True), read(1.0, primary="b", lag=5), read(2.0, primary="b", lag=5))
    assert node.roles == [(Role.PRIMARY, None)]
    assert node.state.settled is False  # a newer look is still to come
    node(read(3.1, lag=0))
    assert node.state.settled


def test_rule_1_a_look_from_before_the_first_event_counts_no_more(node: Driver) -> None:
    """The database was reset while the look was under way, and the event of that came first."""
    node(TxEvent(2.0, DB, at(3, 9)), PositionsRead(1.0, {DB: at(8)}))
    assert node.positions == [at(3, 9)]


def test_litefs_own_word_stands_where_there_is_no_directory(node: Driver) -> None:
    """A wrong LITEFS_DIR: the stream tells the role all the same, and the status what is wrong."""
    gone: dict[str, Any] = {"mount": Mount.AWAY, "faults": (".",)}
    node(replica(1.0, "a", first=True), read(1.001, **gone), read(1.1, **gone))
    assert node.roles == [(Role.REPLICA, "a")]
    assert node.state.settled
    node(StreamEnded(2.0))
    assert node.roles[1:] == [(Role.UNKNOWN, None)]


# Rules 9 and 10: whole positions, and who vouches for them.


def follow(node: Driver, *, lag: int, of: str = "a", at_txid: int = 5) -> None:
    """A replica that has followed ``of`` for a while."""
    node(
        replica(1.0, of, first=True),
        read(1.0, primary=of, lag=lag, positions={DB: at(at_txid)}),
        read(1.1, primary=of, lag=lag + 100, positions={DB: at(at_txid)}),
    )
    assert DB in node.state.met


def test_a_replica_that_has_never_replicated_vouches_for_nothing(node: Driver) -> None:
    """``.primary`` names one before LiteFS has reset what it came back with. Its very position is there, though."""
    node(replica(1.0, "a", first=True), read(1.0, primary="a", lag=NEVER, positions={DB: at(5)}))
    node(read(1.1, primary="a", lag=NEVER, positions={DB: at(5)}))
    assert (node.state.role, node.state.vouched) == (Role.REPLICA, False)
    assert node.state.has(DB, 5) is None
    assert node.state.has(DB, at(5)) == at(5)
    assert node.state.has(DB, at(4)) is None
    node(read(1.2, primary="a", lag=3, positions={DB: at(5)}))
    assert (node.state.has(DB, 5), node.state.has(DB, at(4))) == (at(5), at(5))


def test_it_is_looked_again_until_a_replica_follows(node: Driver) -> None:
    """With growing pauses, and no more once it does."""
    node(replica(1.0, "a", first=True), read(1.0, primary="a", lag=NEVER, positions={DB: at(5)}))
    node(read(3.0, primary="a", lag=NEVER, positions={DB: at(5)}))
    assert node.state.look_again_at == pytest.approx(3.5)
    node(read(3.5, primary="a", lag=0, positions={DB: at(5)}))
    assert node.state.look_again_at is None


def test_another_primary_vouches_with_its_first_sign_of_life(node: Driver) -> None:
    """Until then ``.lag`` counts on from the one before it."""
    follow(node, lag=100)
    node(replica(2.0, "b"), read(2.0, primary="b", lag=1000, positions={DB: at(5)}))
    node(read(2.3, primary="b", lag=1300, positions={DB: at(5)}))
    assert (node.state.standing.primary, node.state.has(DB, 5)) == ("b", None)
    assert node.state.has(DB, at(5)) == at(5)
    node(read(2.6, primary="b", lag=50, positions={DB: at(5)}))
    assert node.state.has(DB, 5) == at(5)


def test_nothing_from_before_is_vouched_for_when_litefs_was_away(node: Driver) -> None:
    """It may have been another one since, which has not replicated yet: the files are looked at, and the role, too."""
    follow(node, lag=100)
    node(StreamEnded(2.0), PositionsRead(2.1, {DB: at(5)}))
    assert node.state.has(DB, 5) is None
    assert node.state.has(DB, at(5)) == at(5)
    node(read(2.2, primary="a", lag=NEVER, positions={DB: at(5)}))
    assert node.state.has(DB, 5) is None


@pytest.mark.parametrize("mount", [Mount.ORDINARY, Mount.LITEFS])
def test_nothing_is_here_when_the_files_are_gone(node: Driver, mount: Mount) -> None:
    """While LiteFS stops, a look may still find them, after the stream's end; the next one finds the bare directory."""
    node(replica(1.0, "a", first=True), read(1.1, primary="a", lag=1, positions={DB: at(5)}, mount=mount))
    node(StreamEnded(2.0), read(2.1, lag=1, positions={DB: at(5)}, mount=mount))
    assert node.state.has(DB, at(5)) == at(5)
    node(read(2.2, mount=Mount.ORDINARY))
    assert node.state.has(DB, at(5)) is None
    assert node.state.positions == {DB: at(5)}
    node(read(2.3, lag=1, positions={DB: at(5)}, mount=mount))
    assert node.state.has(DB, at(5)) == at(5)


@pytest.mark.parametrize("mount", [Mount.ORDINARY, Mount.AWAY])
def test_a_directory_where_nothing_ever_was_leaves_litefs_its_word(node: Driver, mount: Mount) -> None:
    """While LiteFS answers, what it tells counts: it is a wrong directory, or no database is there yet."""
    faults = (".",) if mount is Mount.AWAY else ()
    node(primary(1.0, first=True), read(1.1, mount=mount, faults=faults), TxEvent(1.2, DB, at(5)))
    assert (node.state.role, node.state.has(DB, 5)) == (Role.PRIMARY, at(5))
    node(read(1.3, mount=mount, faults=faults))
    assert (node.state.has(DB, 5), node.state.has(DB, at(5))) == (at(5), at(5))
    node(StreamEnded(2.0), read(2.1, mount=mount, faults=faults), read(2.2, mount=mount, faults=faults))
    assert (node.state.role, node.state.has(DB, 5), node.state.has(DB, at(5))) == (Role.UNKNOWN, None, None)


def test_a_primary_is_asked_anew_when_litefs_was_away(node: Driver) -> None:
    """A killed one comes back with what nobody else has: its position alone does not say that it still is the primary."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5)}))
    assert node.state.has(DB, 5) == at(5)
    node(StreamEnded(2.0), PositionsRead(2.1, {DB: at(5)}))
    assert (node.state.has(DB, 5), node.state.has(DB, at(5))) == (None, at(5))
    node(primary(2.2, first=True), read(2.3, lag=0, positions={DB: at(5)}))
    assert node.state.has(DB, 5) == at(5)


def test_a_stream_that_comes_back_makes_no_gap(node: Driver) -> None:
    """The replica follows still, and stands where it stood: what comes next goes on from there."""
    follow(node, lag=100)
    node(StreamEnded(2.0), replica(2.1, "a", first=True), read(2.2, primary="a", lag=10, positions={DB: at(5)}))
    node(read(2.3, primary="a", lag=10, positions={DB: at(5)}), PositionsRead(2.4, {DB: at(6)}))
    assert node.state.here[DB].where(at(5)) is Where.HERE


def test_a_role_that_ends_with_the_look_that_raises_a_position(node: Driver) -> None:
    """Nobody is met by it, and nothing breaks."""
    follow(node, lag=100)
    changes = node.state.apply(read(2.0, lag=NEVER, positions={DB: at(6)}))
    node.state.apply(read(2.1, lag=NEVER, positions={DB: at(7)}))
    assert [type(change) for change in changes] == [TxChange]
    assert (node.state.role, node.state.met) == (Role.UNKNOWN, {})
    assert DB in node.state.risen


def test_a_snapshot_with_the_next_txid_makes_no_history(node: Driver) -> None:
    """The old primary had just as many of its own as the new one has made since."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5, 1)}))
    node(replica(2.0, "b"), read(2.0, primary="b", lag=NEVER, positions={DB: at(5, 1)}))
    node(TxEvent(2.1, DB, at(6, 2)), read(2.2, primary="b", lag=1, positions={DB: at(6, 2)}))
    assert node.state.here[DB].where(at(5, 1)) is Where.UNTOLD
    view = node.state.view(DB)
    assert (view.where(at(5, 1)), view.where(at(4, 1))) == (Where.DOUBTED, Where.DOUBTED)


def test_a_transaction_of_the_new_primary_itself_goes_on_in_its_history(node: Driver) -> None:
    """What it had as a replica stays here."""
    follow(node, lag=100)
    node(primary(2.0), read(2.1, lag=0, positions={DB: at(5)}), TxEvent(2.2, DB, at(6)))
    node(read(2.3, lag=0, positions={DB: at(6)}))
    assert node.state.here[DB].where(at(5)) is Where.HERE


def test_a_look_that_runs_ahead_of_the_new_primarys_stream_makes_no_gap_for_good(node: Driver) -> None:
    """The stream says where it took over, and then each of its transactions: what was lost there is elsewhere."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), RoleEvent(2.0, False, None), primary(2.1))
    node(PositionsRead(2.2, {DB: at(8)}), *(TxEvent(2.3 + txid / 100, DB, at(txid)) for txid in (6, 7, 8)))
    node(read(2.6, lag=0, positions={DB: at(8)}))
    lineage = node.state.here[DB]
    assert [lineage.where(at(txid)) for txid in (5, 6, 7, 8)] == [Where.HERE] * 4
    assert lineage.where(at(6, 1)) is Where.ELSEWHERE


@pytest.mark.parametrize(("back", "dropped"), [(at(3), 2), (at(5, 1), 1)])
def test_a_change_that_goes_back_says_how_much_was_dropped(node: Driver, back: Position, dropped: int) -> None:
    """At least: what is under the lower position may be another history, too."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5)}))
    (change,) = node.state.apply(read(2.0, lag=0, positions={DB: back}))
    assert isinstance(change, TxChange)
    assert change.rewound == dropped


def test_a_primary_that_is_named_another_one_is_doubted_at_once(node: Driver) -> None:
    """By the look that reads a position: it may have been reset before that, and its role has not changed yet. On a replica
    that says nothing new."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5, 1)}))
    term = node.state.term
    node(PositionsRead(2.0, {DB: at(6, 2)}, Named("b")))
    assert node.state.role is Role.PRIMARY
    assert node.state.term != term
    assert node.state.look_again_at is not None
    assert node.state.view(DB).where(at(5, 1)) is Where.DOUBTED
    assert node.state.has(DB, 5) is None
    node(read(3.0, primary="b", lag=10, positions={DB: at(6, 2)}))
    term = node.state.term
    node(PositionsRead(4.0, {DB: at(7, 2)}, Named("b")))
    assert node.state.term == term


@pytest.mark.parametrize("claimed", [2.0, 2.5], ids=["nobody is known", "a look that began later has seen the old one"])
def test_who_is_named_after_a_position_was_read_is_doubted_whatever_else_is_known(node: Driver, claimed: float) -> None:
    """The node has lost its lease; or another look, which began after the read and ended before it, still says primary."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5, 1)}))
    node(StreamEnded(1.5), read(claimed, lag=NEVER if claimed == 2.0 else 0, positions={DB: at(5, 1)}))
    node(read(claimed + SETTLE, lag=NEVER if claimed == 2.0 else 0))
    assert node.state.role is (Role.UNKNOWN if claimed == 2.0 else Role.PRIMARY)
    term = node.state.term
    node(PositionsRead(2.1, {DB: at(6, 2)}, Named("b")))
    assert node.state.term != term
