"""Which positions belong together. A model that remembers everything says what may be answered, and what must."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.core import history as history_module
from litefs_watch.core.history import LIMIT, Histories, History
from litefs_watch.position import Where


def at(txid: int, checksum: int = 7) -> Position:
    return Position(txid, checksum)


def test_what_was_seen_one_after_the_other_is_here() -> None:
    """Each position of an unbroken run; its TXID with another checksum elsewhere, the next ahead, what is older untold."""
    history = History(at(5))
    for txid in range(6, 10):
        history.move(at(txid, txid), LIMIT)
    where = history.lineage.where
    assert [where(at(5)), *(where(at(txid, txid)) for txid in range(6, 10))] == [Where.HERE] * 5
    assert (where(at(7, 8)), where(at(10, 10)), where(at(4))) == (Where.ELSEWHERE, Where.AHEAD, Where.UNTOLD)


def test_a_gap_proves_nothing() -> None:
    """What came before it may be another history's: a replica that is reset by a snapshot stands at any TXID."""
    history = History(at(5))
    assert history.move(at(8), LIMIT) == 0
    assert (history.lineage.where(at(5)), history.lineage.where(at(8))) == (Where.UNTOLD, Where.HERE)


def test_a_gap_is_closed_by_what_is_told_of_late() -> None:
    """A look has run ahead of the stream."""
    history = History(at(5))
    history.move(at(8), LIMIT)
    for txid in (6, 7, 8):
        history.fill(at(txid), LIMIT)
    history.move(at(9), LIMIT)
    assert [history.lineage.where(at(txid)) for txid in range(5, 10)] == [Where.HERE] * 5


@pytest.mark.parametrize("late", [(at(6), at(7), at(8, 1)), (at(7), at(8)), (at(6), at(7))])
def test_a_gap_is_not_closed_by_another_history_nor_by_a_part(late: tuple[Position, ...]) -> None:
    """Only by an unbroken run that ends in the very position behind the gap."""
    history = History(at(5))
    history.move(at(8), LIMIT)
    for position in late:
        history.fill(position, LIMIT)
    assert history.lineage.where(at(5)) is Where.UNTOLD


def test_each_of_several_gaps_is_closed() -> None:
    """Looks run ahead of a busy stream one after the other; what is told of late comes in order, between them and after."""
    history = History(at(5))
    era = history.era
    for txid in (8, 10, 13):
        history.move(at(txid), LIMIT)
    for txid in (6, 7, 8, 9):
        history.fill(at(txid), LIMIT)
    history.move(at(14), LIMIT)
    history.move(at(17), LIMIT)
    assert [history.lineage.where(at(txid)) for txid in (5, 14, 17)] == [Where.UNTOLD, Where.UNTOLD, Where.HERE]
    for txid in range(10, 18):
        history.fill(at(txid), LIMIT)
    assert [history.lineage.where(at(txid)) for txid in range(5, 18)] == [Where.HERE] * 13
    assert history.era is era


def test_what_is_told_of_late_closes_no_gap_across_another_history() -> None:
    """What a look has seen at 8 is not what the stream tells of: neither leads on to what came after."""
    history = History(at(5))
    history.move(at(8, 1), LIMIT)
    history.move(at(10, 1), LIMIT)
    for position in (at(6), at(7), at(8), at(9), at(9, 1), at(10, 1)):
        history.fill(position, LIMIT)
    assert [history.lineage.where(at(txid)) for txid in range(5, 10)] == [Where.UNTOLD] * 5
    assert history.lineage.where(at(10, 1)) is Where.HERE


def test_what_is_told_of_late_may_contradict_what_came_before_a_gap() -> None:
    """A database that was restored at 3 goes on from there: its 6 does not continue the old 5."""
    history = History(at(1))
    for txid in (2, 3, 4, 5, 10):
        history.move(at(txid, 9 if txid == 10 else 7), LIMIT)
    era = history.era
    for txid in (3, 4, 5, 6, 7, 8, 9, 10):
        history.fill(at(txid, 9), LIMIT)
    assert [history.lineage.where(at(txid)) for txid in (1, 2, 5)] == [Where.UNTOLD] * 3
    assert history.lineage.where(at(10, 9)) is Where.HERE
    assert history.replaced
    assert history.era is not era


def test_what_is_told_of_late_may_contradict_what_is_known_now() -> None:
    """Then only where it is stays known, and the next transaction proves nothing."""
    history = History(at(5))
    history.move(at(6), LIMIT)
    history.fill(at(5, 9), LIMIT)
    assert (history.lineage.where(at(5)), history.lineage.where(at(6))) == (Where.UNTOLD, Where.HERE)
    history.move(at(7, 9), LIMIT)
    assert (history.lineage.where(at(6)), history.lineage.where(at(7, 9))) == (Where.UNTOLD, Where.HERE)


def test_what_is_told_of_late_is_no_more_than_the_limit_and_a_quarter() -> None:
    """Though the gap is wider than that."""
    history = History(at(1))
    history.move(at(1_000), 8)
    for txid in range(2, 1_000):
        history.fill(at(txid), 8)
        assert sum(len(older.checksums) for older in history._older) <= 10


def test_what_came_before_gaps_is_no_more_than_the_limit_and_a_quarter() -> None:
    history = History(at(1))
    for txid in range(2, 9):
        history.move(at(txid), 8)
    for txid in range(10, 40, 2):
        history.move(at(txid), 8)
        assert sum(len(older.checksums) for older in history._older) <= 10
        assert len(history._older) <= 8


@pytest.mark.parametrize("replaced", [True, False], ids=["doubted", "went back"])
def test_an_era_ends_where_the_database_may_have_been_replaced_or_went_back(replaced: bool) -> None:
    """A gap ends none: nothing of what is before it has gone."""
    history = History(at(5))
    era = history.era
    history.move(at(8), LIMIT)
    assert history.era is era
    history.fill(at(6), LIMIT)
    assert history.era is era
    if replaced:
        history.doubt()
    history.move(at(9) if replaced else at(8, 1), LIMIT)
    assert history.era is not era


def test_an_era_ends_with_a_doubt_after_a_gap() -> None:
    """Nothing tells any more whether that was one to another history."""
    history = History(at(5))
    history.move(at(8), LIMIT)
    era = history.era
    history.doubt()
    history.trust()
    assert history.era is not era
    era = history.era
    history.doubt()
    history.trust()
    assert history.era is era


def test_after_a_doubt_the_next_transaction_proves_nothing() -> None:
    """The snapshot of a new primary may have just the next TXID; late events close no such gap either."""
    history = History(at(5))
    history.doubt()
    history.move(at(6), LIMIT)
    assert history.lineage.where(at(5)) is Where.UNTOLD
    history.fill(at(6), LIMIT)
    assert history.lineage.where(at(5)) is Where.UNTOLD


def test_a_doubt_that_was_without_cause_is_dropped() -> None:
    """The same position stood there when all that could have replaced it was over."""
    history = History(at(5))
    history.doubt()
    history.trust()
    history.move(at(6), LIMIT)
    assert history.lineage.where(at(5)) is Where.HERE


@pytest.mark.parametrize(
    ("position", "dropped", "still"),
    [(at(6), 2, [5, 6]), (at(6, 1), 3, []), (at(8, 1), 1, []), (at(3), 5, [])],
)
def test_going_back(position: Position, dropped: int, still: list[int]) -> None:
    """To an earlier position of its own all before it stays; to another history's nothing. What was dropped is counted."""
    history = History(at(5))
    for txid in (6, 7, 8):
        history.move(at(txid), LIMIT)
    assert history.move(position, LIMIT) == dropped
    assert [txid for txid in range(5, 9) if history.lineage.where(at(txid)) is Where.HERE] == still
    assert history.lineage.last == position


steps = st.lists(
    st.tuples(st.sampled_from(["commit", "commit", "jump", "reset", "doubt", "branch"]), st.integers(1, 4)), max_size=60
)


@given(steps, st.integers(1, 8))
def test_here_is_never_said_of_a_history_that_is_gone(steps: list[tuple[str, int]], limit: int) -> None:
    """However little is kept: HERE only of what the true history has, ELSEWHERE only of what it has not."""
    truth, serial = [at(1, 1)], 1
    history, everything = History(truth[0]), [truth[0]]
    for step, number in steps:
        if step == "doubt":
            history.doubt()
            continue
        if step in ("reset", "branch"):  # a fail-over: some are lost, and others come in their place
            del truth[max(1, len(truth) - number) :]
            if step == "branch":
                history.doubt()
        for _ in range(number if step in ("jump", "branch") else 1):
            serial += 1
            truth.append(at(truth[-1].txid + 1, serial))
        everything += truth[-5:]
        if step == "reset" and truth[-1].txid > history.lineage.last.txid:
            history.doubt()
        history.move(truth[-1], limit)
        assert history.lineage.last == truth[-1]
        for position in everything:
            where = history.lineage.where(position)
            assert where is not Where.HERE or position in truth
            assert where is not Where.ELSEWHERE or position not in truth
        assert len(history.lineage.checksums) <= limit + 1


def test_ten_thousand_databases_stay_within_what_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all about `TOTAL` positions, of 8 bytes each, however many databases have how much of a past."""
    monkeypatch.setattr(history_module, "TOTAL", 20_000)
    histories = Histories()
    for number in range(1_000):
        for txid in range(1, 60):
            histories.move(str(number), (), at(txid))
    for txid in range(1, 1_000):
        histories.move("0", (), at(txid + 100))
    kept = [each.lineage.checksums for each in histories.by_database.values()]
    assert sum(map(len, kept)) <= 2 * 20_000
    assert max(map(sys.getsizeof, kept)) < 16 * 2 * 20 + 200
    assert histories.by_database["999"].lineage.has(at(59))
