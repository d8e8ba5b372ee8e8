"""Transactions that came together: what is reported of them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.core.readings import TxEvent
from litefs_watch.sources.burst import RUN_LIMIT, Burst


def reported(*events: tuple[str, Position]) -> list[TxEvent]:
    """The reports, without time."""
    reports: list[TxEvent] = []
    burst = Burst(reports.append)
    for database, position in events:
        burst.put(1.0, database, position)
    burst.flush(1.0)
    burst.flush(1.0)  # says nothing twice
    return reports


def txids(*numbers: int) -> list[tuple[int, ...]]:
    """What is reported of one database's transactions: of each report all TXIDs, the newest last."""
    reports = reported(*(("a", Position(number)) for number in numbers))
    return [tuple(position.txid for position in (*report.passed, report.position)) for report in reports]


def test_the_first_goes_by_itself_and_the_newest_with_those_that_were_passed() -> None:
    """So one event costs one report, and many cost two."""
    assert txids(5) == [(5,)]
    assert txids(5, 6) == [(5,), (6,)]
    assert txids(5, 6, 7, 9) == [(5,), (6, 7, 9)]


def test_where_a_history_may_have_changed_each_side_is_reported() -> None:
    """8, 3, 9 is not 8, 9: a TXID that falls or stays goes by itself."""
    assert txids(8, 3, 4) == [(8,), (3,), (4,)]
    assert txids(8, 3, 9, 10) == [(8,), (3,), (9, 10)]
    assert txids(7, 8, 9, 9, 10, 11, 2, 3) == [(7,), (8, 9), (9,), (10, 11), (2,), (3,)]


def test_the_newest_are_reported_in_the_order_in_which_they_came() -> None:
    """Across databases, too: no state shows that never was."""
    events = [("a", Position(1)), ("b", Position(1)), ("a", Position(2)), ("b", Position(3)), ("a", Position(3))]
    newest = [(report.database, report.position.txid) for report in reported(*events)]
    assert newest == [("a", 1), ("b", 1), ("b", 3), ("a", 3)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.builds(Position, st.integers(0, 6), st.integers(0, 2)))))
def test_nothing_is_lost(events: list[tuple[str, Position]]) -> None:
    """Each database's positions are all reported, in order; what is passed rises, from the report before to its own."""
    reports = reported(*events)
    for database in "ab":
        own = [report for report in reports if report.database == database]
        told = [position for report in own for position in (*report.passed, report.position)]
        assert told == [position for name, position in events if name == database]
        for before, report in pairwise(own):
            run = [before.position.txid, *(position.txid for position in report.passed), report.position.txid]
            assert not report.passed or run == sorted(set(run))


def test_a_long_run_is_reported_in_parts() -> None:
    """No report grows without bound."""
    runs = txids(*range(3 * RUN_LIMIT))
    assert [txid for run in runs for txid in run] == list(range(3 * RUN_LIMIT))
    assert max(len(run) for run in runs) == RUN_LIMIT
