"""What looks have seen, and what the stream tells late of it: which of the two is older, and what follows for a history."""

from __future__ import annotations

from litefs_watch import TxChange
from litefs_watch.core.readings import PositionsRead, StreamEnded, TxEvent
from litefs_watch.position import Where
from tests.core.test_state import DB, NEVER, Driver, at, follow, node, primary, read, replica

__all__ = ["node"]


def where(node: Driver, *positions: tuple[int, int]) -> list[Where | None]:
    view = node.state.view(DB)
    return [view.where(at(*position)) for position in positions]


def test_a_run_that_begins_before_what_a_look_has_seen_drops_nothing(node: Driver) -> None:
    """A look has run ahead to 8; what came together with 9 tells of the way there. It was taken for going back to 7."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), PositionsRead(1.3, {DB: at(8)}), TxEvent(1.4, DB, at(6)))
    era = node.state.view(DB).era
    (change,) = node.state.apply(TxEvent(1.4, DB, at(10), passed=(at(7), at(8), at(9))))
    assert isinstance(change, TxChange)
    assert (change.previous, change.position, change.rewound) == (at(8), at(10), 0)
    node(PositionsRead(1.5, {DB: at(10)}))
    assert where(node, (5, 7), (7, 7), (9, 7), (4, 7)) == [Where.HERE] * 3 + [Where.UNTOLD]
    assert node.state.view(DB).era is era


def test_after_an_event_that_goes_back_events_alone_count_no_more(node: Driver) -> None:
    """The stream and the files agreed; what goes on above from there is another history's, until a look has seen it."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), TxEvent(1.3, DB, at(6)))
    node(*(TxEvent(1.4, DB, at(txid, 1)) for txid in (5, 6, 7)))
    assert node.state.positions[DB] == at(6)
    assert where(node, (6, 7), (7, 1)) == [None, None]
    node(PositionsRead(1.5, {DB: at(7, 1)}))
    assert where(node, (6, 7), (5, 7), (7, 1)) == [Where.DOUBTED, Where.DOUBTED, Where.HERE]


def test_what_a_look_joins_the_stream_takes_apart(node: Driver) -> None:
    """A restored database has just the next TXID when it is looked at; the way there was another one."""
    node(primary(1.0, first=True), read(1.0, lag=0, positions={DB: at(5)}), TxEvent(1.1, DB, at(5)))
    node(TxEvent(1.2, DB, at(6)), PositionsRead(1.3, {DB: at(7, 1)}), TxEvent(1.4, DB, at(5, 1)))
    node(PositionsRead(1.5, {DB: at(7, 1)}))
    assert where(node, (5, 7), (6, 7), (7, 1)) == [Where.DOUBTED, Where.DOUBTED, Where.HERE]


def test_a_look_that_does_not_count_is_no_agreement(node: Driver) -> None:
    """It began before what is known was seen: that it says what the stream says proves nothing of what is known."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), PositionsRead(2.0, {DB: at(6)}), TxEvent(2.1, DB, at(5, 1)))
    node(PositionsRead(1.9, {DB: at(5, 1)}), TxEvent(2.2, DB, at(7, 1)))
    assert node.state.positions[DB] == at(6)


def test_what_is_there_before_replication_begins_is_no_history_yet(node: Driver) -> None:
    """The machine has started: the watcher's first look finds what LiteFS had before, and its new primary resets it."""
    node(read(1.0, primary="a", lag=NEVER, positions={DB: at(5)}), read(1.1, primary="a", lag=NEVER, positions={DB: at(5)}))
    node(replica(1.2, "a", first=True), read(2.0, primary="a", lag=3, positions={DB: at(6, 1)}))
    assert where(node, (5, 7), (6, 1)) == [Where.DOUBTED, Where.HERE]


def test_what_moves_before_replication_begins_is_no_history_yet(node: Driver) -> None:
    """Killed at 6, it comes back at 5: the snapshot with the next TXID does not go on from there."""
    follow(node, lag=100, at_txid=6)
    node(StreamEnded(2.0), read(2.1, primary="b", lag=NEVER, positions={DB: at(5)}))
    node(read(3.0, primary="b", lag=3, positions={DB: at(6, 1)}))
    assert where(node, (5, 7), (6, 1)) == [Where.DOUBTED, Where.HERE]


def test_a_look_has_seen_what_came_after_a_change_of_the_primary(node: Driver) -> None:
    """The event loop was blocked: the look is heard first, and the stream then tells that there was no primary before it."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)))
    era = node.state.view(DB).era
    node(read(5.0, primary="a", lag=20, positions={DB: at(6, 1)}))
    assert where(node, (5, 7), (6, 1)) == [Where.HERE, Where.HERE]  # nothing tells yet
    node(replica(5.1, None), replica(5.1, "a"), TxEvent(5.1, DB, at(6, 1)))
    for began in (5.2, 6.2, 7.2):
        node(read(began, primary="a", lag=20, positions={DB: at(6, 1)}))
    assert where(node, (5, 7), (6, 1)) == [Where.DOUBTED, Where.HERE]
    assert node.state.view(DB).era is not era


def test_what_the_stream_has_not_told_when_it_ends_is_not_told_any_more(node: Driver) -> None:
    """As above, and LiteFS is killed before the stream has told of it."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), read(5.0, primary="a", lag=20, positions={DB: at(6, 1)}), StreamEnded(5.1))
    node(read(5.2, primary="a", lag=20, positions={DB: at(6, 1)}), read(6.2, primary="a", lag=20, positions={DB: at(6, 1)}))
    assert where(node, (5, 7), (6, 1)) == [Where.DOUBTED, Where.HERE]


def test_a_slow_look_s_word_for_a_primary_is_not_newer_than_the_stream_s(node: Driver) -> None:
    """It began before the stream named another one, and found that one's sign of life: what was known before may go."""
    follow(node, lag=100)
    node(TxEvent(1.2, DB, at(5)), TxEvent(3.0, DB, at(6)), replica(3.0, None), replica(3.0, "b"))
    node(read(2.0, primary="b", lag=1, positions={DB: at(9, 1)}))
    node(TxEvent(3.1, DB, at(7, 1)), TxEvent(3.1, DB, at(9, 1), passed=(at(8, 1),)))
    for began in (3.2, 4.2, 5.2):
        node(read(began, primary="b", lag=1, positions={DB: at(9, 1)}))
    assert where(node, (5, 7), (6, 7), (9, 1)) == [Where.DOUBTED, Where.DOUBTED, Where.HERE]


def test_the_last_sign_of_the_primary_before_is_none_of_the_next_one(node: Driver) -> None:
    """It came after the last look at it; between the two nobody was named for too short a time to be looked at."""
    follow(node, lag=100)
    node(replica(3.0, None), replica(3.001, "b"), read(3.002, primary="b", lag=500, positions={DB: at(5)}))
    node(read(3.1, primary="b", lag=598, positions={DB: at(5)}))
    assert (node.state.standing.primary, node.state.has(DB, 5)) == ("b", None)
    node(read(4.0, primary="b", lag=30, positions={DB: at(5)}))
    assert node.state.has(DB, 5) == at(5)
