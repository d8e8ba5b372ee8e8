"""The check of session guarantees, against its definitions pair by pair, and against stores whose answer is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litefs_watch.testing import Guarantee, Operation, SessionReport, check_sessions
from tests.testing.session_models import Cookie, Definitions, Shop

RYW, MR, MW, WFR = Guarantee
LOG = ["w0", "w1", "w2", "w3", "w4"]

operations = st.builds(
    lambda start, length, **rest: Operation(start=start, end=start + length, **rest),
    session=st.sampled_from(["alice", "alice", "bob"]),
    start=st.integers(0, 12),
    length=st.integers(0, 4),
    read=st.none() | st.lists(st.sampled_from([*LOG, "x", "y"]), max_size=3, unique=True),
    node=st.sampled_from(["node-a", "node-b", ""]),
    answer=st.sampled_from(["ok", "ok", "ok", "unknown", "refused"]),
    told_lost=st.sampled_from([False, False, False, True]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Anything at all, with each id written once at most."""
    found = draw(st.lists(operations, max_size=9))
    ids = draw(st.permutations([*LOG, "x", "y"]))
    return [
        dataclasses.replace(one, written=i) if draw(st.booleans()) else one for one, i in zip(found, ids, strict=False)
    ] + found[7:]


@given(histories(), st.permutations(LOG))
@settings(max_examples=500, deadline=None)
def test_it_finds_what_the_definitions_say(found: list[Operation], log: list[str]) -> None:
    """Every violation, every test and every read of a branch that was gone, and nothing else."""
    report, definitions = check_sessions(found, log), Definitions(found, log)
    numbers = {id(one): number for number, one in enumerate(found)}
    assert {(v.guarantee, numbers[id(v.later)]) for v in report.violations} == definitions.violations()
    assert report.tested == definitions.tests()
    assert {id(one) for one in report.already_gone} == {id(one) for one in definitions.already_gone()}
    for violation in report.violations:
        assert violation.earlier.session == violation.later.session == violation.session
        assert violation.earlier.end <= violation.later.start


@st.composite
def single_copy(draw: st.DrawFn) -> tuple[list[Operation], list[str]]:
    """Concurrent requests to one store, each of which has its effect at one moment between its start and its end."""
    starts = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6), st.integers(0, 6)), max_size=25))
    log: list[str] = []
    found = []  # of those with their effect at one moment, who ends then is before who begins then
    for number, (start, wait, rest) in enumerate(sorted(starts, key=lambda times: (times[0] + times[1], times[0]))):
        answer = draw(st.sampled_from(["ok", "ok", "ok", "unknown", "refused"]))
        what: dict[str, Any] = {"answer": answer, "node": draw(st.sampled_from(["node-a", "node-b"]))}
        if draw(st.booleans()):
            what["written"] = f"w{number}"
            if answer == "ok" or (answer == "unknown" and draw(st.booleans())):
                log.append(f"w{number}")
        if draw(st.booleans()):
            what["read"] = log[-draw(st.integers(1, 5)) :]
        session = draw(st.sampled_from(["alice", "bob"]))
        found.append(Operation(session, start, start + wait + rest, **what))
    return found, log


@given(single_copy())
@settings(deadline=None)
def test_a_single_copy_never_violates_anything(stored: tuple[list[Operation], list[str]]) -> None:
    """However its clients overlap, and whatever answers get lost."""
    report = check_sessions(*stored)
    assert report.ok, report
    assert (report.lost, report.from_gone_branch) == ((), ())


def report_of(shop: Shop) -> SessionReport:
    log = shop.run()
    return check_sessions(shop.history, log)


@pytest.mark.parametrize("fail_overs", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_clients_whose_tokens_are_kept_are_never_broken(seed: int, fail_overs: bool) -> None:
    """On stale replicas, through fail-overs that lose writes; and each guarantee was put to the test."""
    shop = Shop("position", seed, fail_overs)
    report = report_of(shop)
    assert report.ok, report
    assert (report.tested[RYW] > 100, report.tested[MR] > 100) == (True, True)
    assert (len(report.lost) > 10, report.tested[MW] > 10, report.tested[WFR] > 10) == (fail_overs,) * 3
    assert report.told_in_vain == ()


@pytest.mark.parametrize(
    ("cookie", "fail_overs", "found"),
    [
        ("none", False, {RYW, MR}),
        ("one too low", False, {RYW, MR}),
        ("deleted by the first replica that has it", False, {RYW, MR}),
        ("none", True, {RYW, MR, MW, WFR}),
        ("bare number", True, {RYW, MR, MW, WFR}),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_it_bites(cookie: Cookie, fail_overs: bool, found: set[str], seed: int) -> None:
    """Clients without tokens, or with tokens too low, deleted too early, or of no history: all are found."""
    report = report_of(Shop(cookie, seed, fail_overs))
    assert not report.ok
    assert {violation.guarantee for violation in report.violations} == found
