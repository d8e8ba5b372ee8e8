"""The check of session guarantees finds what it must, nothing else, and says how often it looked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from litefs_watch.testing import Guarantee, Operation, SessionReport, check_sessions

RYW, MR, MW, WFR = Guarantee
LOG = ["w0", "w1", "w2", "w3", "w4"]


def history(*steps: dict[str, Any]) -> list[Operation]:
    """Operations one after the other, of one session on one node unless they say otherwise."""
    found = []
    for number, step in enumerate(steps):
        defaults: dict[str, Any] = {"session": "alice", "start": 2 * number, "end": 2 * number + 1, "node": "node-b"}
        found.append(Operation(**(defaults | step)))
    return found


def wrote(written: str, **other: Any) -> dict[str, Any]:
    return {"written": written, "node": "node-a"} | other


def saw(*read: str, **other: Any) -> dict[str, Any]:
    return {"read": read} | other


def check(*steps: dict[str, Any], log: Sequence[str] = LOG) -> SessionReport:
    return check_sessions(history(*steps), log)


def broken(report: SessionReport) -> list[str]:
    return [violation.guarantee for violation in report.violations]


@pytest.mark.parametrize(
    ("guarantee", "steps", "sentence"),
    [
        (RYW, [wrote("w3"), saw("w1", "w2")], "'alice' had written 'w3', and node-b then answered with 'w2' as the newest"),
        (RYW, [wrote("w0"), saw()], "'alice' had written 'w0', and node-b then answered with nothing as the newest"),
        (
            MR,
            [saw("w3", node="node-a"), saw("w2")],
            "'alice' had seen 'w3', and node-b then answered with 'w2' as the newest",
        ),
        (MW, [wrote("w3"), wrote("w2")], "'alice' had written 'w3', and 'w2', written later, is in the log in front of it"),
        (WFR, [saw("w3"), wrote("w2")], "'alice' had seen 'w3', and 'w2', written later, is in the log in front of it"),
    ],
)
def test_each_guarantee_can_be_broken(guarantee: Guarantee, steps: list[dict[str, Any]], sentence: str) -> None:
    """Each by itself; it is named, with its session, both operations and a sentence, and it was tested."""
    report = check(*steps)
    (violation,) = report.violations
    assert (violation.guarantee, violation.session, violation.sentence) == (guarantee, "alice", sentence)
    assert [violation.earlier, violation.later] == history(*steps)
    assert report.tested == {str(g): int(g == guarantee) for g in Guarantee}
    assert not report.ok
    assert sentence in str(report)


@pytest.mark.parametrize(
    "steps",
    [
        [wrote("w1"), saw("w1")],
        [wrote("w1"), saw("w4")],
        [saw("w1"), saw("w2", "w1"), wrote("w3"), saw("w3"), wrote("w4")],
        [wrote("w3"), saw("w1", session="bob")],
        [saw("w3"), saw("w1", session="bob"), wrote("w2", session="bob")],
    ],
)
def test_what_is_in_order_is_no_violation(steps: list[dict[str, Any]]) -> None:
    """Also where one session sees less than another one: that is no promise."""
    report = check(*steps)
    assert report.violations == ()
    assert report.ok


def test_only_what_ended_before_another_started_is_before_it() -> None:
    """Requests of one session that overlap are in no order; an end and a start at one moment are."""
    write = Operation("alice", 0, 4, written="w3", node="node-a")
    read = Operation("alice", 3, 5, read=["w1"], node="node-b")
    assert check_sessions([write, read], LOG).ok
    assert broken(check_sessions([write, dataclasses.replace(read, start=4)], LOG)) == [RYW]
    at_once = [Operation("alice", 1, 1, written=written, node="node-a") for written in ("w3", "w2")]
    assert check_sessions(at_once, LOG).ok


def test_the_history_may_be_in_any_order() -> None:
    """It is the times that count."""
    steps = history(wrote("w3"), saw("w1"), saw("w4"), wrote("w2"))
    assert broken(check_sessions(steps[::-1], LOG)) == broken(check_sessions(steps, LOG)) == [RYW, MW, WFR]


def test_the_operation_that_demands_most_is_named() -> None:
    """An operation is at most one violation of each guarantee."""
    operations = history(wrote("w1"), wrote("w3"), wrote("w4", answer="unknown"), saw())
    (violation,) = check_sessions(operations, LOG).violations
    assert (violation.earlier, violation.later) == (operations[1], operations[3])


@pytest.mark.parametrize("answer", ["refused", "unknown"])
def test_what_was_not_acknowledged_promises_nothing(answer: str) -> None:
    """Neither a write whose answer never came, wherever it is in the log, nor a read."""
    assert check(wrote("w3", answer=answer, node=""), saw("w1"), log=LOG[:3]).ok
    assert check(wrote("w4", answer="unknown"), wrote("w3"), saw("w3")).ok
    assert check(saw("w4", answer=answer), saw("w1")).ok
    report = check(wrote("lost", answer=answer), saw("w1"))
    assert (report.ok, report.lost) == (True, ())


def test_an_unanswered_write_that_was_done_came_after_what_was_before_it() -> None:
    """It may be in the log, but not in front of what its session had done and seen."""
    assert broken(check(wrote("w3"), wrote("w2", answer="unknown"))) == [MW]
    assert broken(check(saw("w3"), wrote("w2", answer="unknown"))) == [WFR]


def test_who_got_no_answer_was_not_told_by_it() -> None:
    """A write that was done on a history without what its session had done, and not answered: the next answer says it."""
    unanswered = wrote("w2", answer="unknown")
    assert check(wrote("x"), unanswered).ok
    assert check(saw("w1", "x"), unanswered, saw("w2", told_lost=True), wrote("w3")).ok
    assert broken(check(wrote("x"), unanswered, saw("w2"))) == [RYW]


def test_a_lost_write_is_no_violation_until_it_is_missed_untold() -> None:
    """Whoever never comes back misses nothing; whoever does is broken by each later operation."""
    report = check(wrote("x"))
    assert (report.ok, report.lost, report.told) == (True, tuple(history(wrote("x"))), ())
    report = check(wrote("x"), saw("w3"), wrote("w4"), saw("w4"))
    assert broken(report) == [RYW, MW, RYW]
    missed = "'alice' had written 'x', which is lost; node-b then answered with 'w3', and did not say so"
    assert report.violations[0].sentence == missed
    assert report.tested == {RYW: 2, MR: 0, MW: 1, WFR: 1}


def test_what_was_seen_and_is_lost_is_missed_too() -> None:
    """By reads, and by writes that were made after it."""
    report = check(saw("w1", "x"), saw("w2"), wrote("w3"))
    assert broken(report) == [MR, WFR]
    assert report.from_gone_branch == (history(saw("w1", "x"))[0],)
    assert report.already_gone == ()


@pytest.mark.parametrize(("guarantee", "first"), [(RYW, wrote("x")), (MR, saw("w1", "x"))])
def test_who_is_told_is_not_broken(guarantee: Guarantee, first: dict[str, Any]) -> None:
    """Neither by the answer that tells, which puts a guarantee to the test, nor by later ones."""
    report = check(first, saw("w2", told_lost=True), saw("w2"), wrote("w3", node="node-b"), saw("w3"))
    assert report.ok
    assert report.told == report.lost
    assert report.told_in_vain == ()
    assert report.tested == {str(g): int(g == guarantee) for g in Guarantee}


def test_one_is_told_only_of_what_was_before() -> None:
    """A write that is acknowledged while another request is told of a loss, and is lost, was not meant."""
    before = Operation("alice", 0, 1, written="x", node="node-a")
    overlapping = Operation("alice", 2, 5, written="y", node="node-a")
    told = Operation("alice", 4, 6, read=["w1"], node="node-b", told_lost=True)
    read = Operation("alice", 7, 8, read=["w1"], node="node-b")
    assert check_sessions([before, told, read], LOG).ok
    report = check_sessions([before, overlapping, told, read], LOG)
    assert broken(report) == [RYW]
    assert (report.violations[0].earlier, report.violations[0].later) == (overlapping, read)
    assert report.told == (before,)


def test_another_session_is_not_told_for_one() -> None:
    """Each session has to be told itself."""
    report = check(wrote("x"), saw("w1", "x", session="bob"), saw("w2", session="bob", told_lost=True), saw("w2"))
    assert broken(report) == [RYW]
    assert report.told == ()


def test_false_alarms_are_counted() -> None:
    """Who cries 'lost' at every answer is found out, for it was not."""
    told = saw("w1", told_lost=True)
    operations = history(wrote("w1"), told, wrote("x"), told, told)
    assert check_sessions(operations, LOG).told_in_vain == (operations[1], operations[4])


def test_a_gone_branch_that_is_still_served_is_told_from_one_that_went_later() -> None:
    """What counts is whether somebody had been answered from the history that went on, before the read started."""
    before = [wrote("w1"), wrote("x", session="bob"), saw("w1", "x", session="bob")]
    assert check(*before).already_gone == ()
    assert check(*before).ok
    report = check(*before, wrote("w2"), saw("w1", "x", session="carol"))
    (read,) = report.already_gone
    assert (read.session, len(report.from_gone_branch), report.ok) == ("carol", 2, False)
    assert check(*before, saw("w2"), saw("w1", "x", session="carol")).already_gone == (read,)
    assert check(*before, wrote("w2", answer="unknown"), saw("w1", "x", session="carol")).already_gone == ()


def test_a_branch_is_placed_where_only_the_newest_id_was_recorded() -> None:
    """It had nothing of what began after the lost write was acknowledged: so it can be too old, and already gone."""
    report = check(wrote("w1"), wrote("x", session="bob"), wrote("w2"), saw("x"))
    assert broken(report) == [RYW]
    assert report.already_gone == report.from_gone_branch != ()
    assert check(wrote("w2"), wrote("x", session="bob"), saw("x")).ok
    assert check(wrote("x", session="bob", answer="unknown"), wrote("w2"), saw("x")).ok
    overlapping = [Operation("bob", 0, 9, written="x", node="node-a"), Operation("alice", 1, 2, written="w2", node="node-b")]
    assert check_sessions([*overlapping, Operation("alice", 10, 11, read=["x"], node="node-a")], LOG).ok


def test_one_thing_that_is_gone_may_include_another() -> None:
    """There is no verdict between the two, only that both are gone."""
    report = check(wrote("x"), saw("w1", "y"), saw("w1", "z"))
    assert (report.violations, len(report.from_gone_branch)) == ((), 2)


def test_a_guarantee_is_tested_where_the_node_might_have_answered_otherwise() -> None:
    """Not by the node that took the write, nor by one that is known to have it, nor where nothing was demanded."""
    assert sum(check(saw("w1")).tested.values()) == 0
    assert check(wrote("w1"), saw("w1", node="node-a")).tested[RYW] == 0
    assert check(wrote("w1"), saw("w1", node="")).tested[RYW] == 0
    assert check(wrote("w1"), saw("w1")).tested[RYW] == 1
    assert check(wrote("w1"), saw("w1"), saw("w1")).tested[RYW] == 1
    assert check(wrote("w1"), saw("w2", session="bob"), saw("w2")).tested[RYW] == 0
    assert check(wrote("w1"), saw("w2", session="bob", node="node-c"), saw("w2")).tested[RYW] == 1
    assert check(saw("w1"), saw("w1", node="node-c")).tested == {RYW: 0, MR: 1, MW: 0, WFR: 0}
    assert check(wrote("w1"), wrote("w2")).tested[MW] == 0
    assert check(wrote("w1"), wrote("w2", node="node-c")).tested == {RYW: 0, MR: 0, MW: 1, WFR: 0}
    assert check(saw("w1"), wrote("w2", node="node-c")).tested == {RYW: 0, MR: 0, MW: 0, WFR: 1}
    assert check(wrote("w1"), wrote("w2", node="node-c", answer="unknown")).tested[MW] == 0
    report = check(wrote("w1"), saw("w1", node="node-a"))
    assert "read your writes         never           0" in str(report)


def test_a_refused_write_that_was_done_is_found() -> None:
    """Its client tries again, and then it is done twice; with the same id the second attempt accounts for it."""
    report = check(wrote("w1", answer="refused"))
    assert (report.refused_but_written, report.ok) == (tuple(history(wrote("w1", answer="refused"))), False)
    assert check(wrote("w1", answer="refused"), wrote("w1")).ok
    assert not check(wrote("w1"), log=["w1", "w0", "w1"]).ok
    assert check(log=["w1", "w0", "w1", "w1"]).written_twice == ("w1",)


def test_one_request_may_write_and_read() -> None:
    """Its own write is not before it; both of its halves count for what follows."""
    assert check(wrote("w3", read=["w3"]), saw("w3")).ok
    assert broken(check(wrote("w3", read=["w3"]), saw("w1"))) == [RYW, MR]
    assert broken(check(saw("w4"), wrote("w3", read=["w3"]))) == [MR, WFR]


def test_some_guarantees_can_be_left_out() -> None:
    """For an application that promises less; a name that is none is an error."""
    report = check_sessions(history(wrote("w3"), saw("w1"), saw()), LOG, guarantees=["monotonic reads"])
    assert broken(report) == [MR]
    assert report.tested == {"monotonic reads": 1}
    with pytest.raises(ValueError, match="no such"):
        check_sessions([], [], guarantees=["no such"])


def test_what_can_not_be_is_an_error() -> None:
    """Times the wrong way round or none at all, an answer that is none, one id for a collection, an id of two writes."""
    for start, end in ((2, 1), (float("nan"), 1)):
        with pytest.raises(ValueError, match="can't end"):
            Operation("alice", start, end)
    with pytest.raises(ValueError, match="not 'yes'"):
        Operation("alice", 0, 1, answer="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="collection of ids"):
        Operation("alice", 0, 1, read="w1")
    with pytest.raises(ValueError, match="have written 'w1'"):
        check(wrote("w1"), wrote("w1", session="bob"))


def test_an_empty_history_is_in_order() -> None:
    """And says that nothing was tested."""
    report = check_sessions([], [])
    assert report.ok
    assert dict(report.tested) == {str(guarantee): 0 for guarantee in Guarantee}
    assert "0 operations of 0 sessions" in str(report)


def test_the_report_is_readable() -> None:
    """A table, what was lost and gone, and the first of the violations."""
    many = [saw("w1", start=100 + 2 * number, end=101 + 2 * number) for number in range(12)]
    report = check(wrote("w2"), saw("w1", "x", session="bob"), wrote("y", session="carol"), *many)
    assert str(report).splitlines()[:7] == [
        "guarantee               tested  violations",
        "read your writes            12          12",
        "monotonic reads          never           0",
        "monotonic writes         never           0",
        "writes follow reads      never           0",
        "15 operations of 3 sessions",
        "1 acknowledged writes lost, 0 of them told",
    ]
    assert str(report).splitlines()[-1] == "and 2 violations more"
