"""The table of docs/guarantees.md is the command's own."""

from __future__ import annotations

import re
from collections import Counter
from typing import cast

import pytest

from litefs_watch.testing import Guarantee, Operation, check_sessions
from tests.chaos.__main__ import PAGE, SIMULATED
from tests.chaos.edge import Edge
from tests.chaos.proof import BEGIN, END, HEAD, Row, between, table, written
from tests.chaos.runs import Faults, Outcome, Run

NUMBER = r"\d{1,3}(,\d{3})*"


class Done:
    """What `Outcome` needs of a driver."""

    def __init__(self) -> None:
        self.done = Counter(hand_over=3, freeze_replica=2)


def outcome(*operations: Operation, log: tuple[str, ...], guarantees: tuple[Guarantee, ...] = tuple(Guarantee)) -> Outcome:
    report = check_sessions(operations, log, guarantees=guarantees)
    return Outcome(Run(0), report, cast(Faults, Done()), Edge([]))


OLD_READ = (
    Operation("alice", 0, 1, written="a", node="node-a"),
    Operation("alice", 2, 3, written="b", node="node-a"),
    Operation("alice", 4, 5, read=["a"], node="node-b"),
)


def test_a_row_counts_what_its_runs_have_found() -> None:
    """Of two runs: operations, faults, how often each guarantee was tested and broken, what was lost, who was told."""
    row = Row("two runs")
    row.add(outcome(*OLD_READ, log=("a", "b")))
    row.add(outcome(*OLD_READ, Operation("alice", 6, 7, read=["a"], node="node-b", told_lost=True), log=("a",)))
    assert row.cells() == ["two runs", "7", "10", "2 of 3", "0 of 0", "0 of 0", "0 of 0", "1", "1"]
    assert row.failed


def test_a_control_does_not_fail() -> None:
    """Its clients are meant to find violations."""
    row = Row("without tokens", control=True)
    row.add(outcome(*OLD_READ, log=("a", "b")))
    assert row.cells()[3] == "1 of 1"
    assert not row.failed


def test_what_was_not_promised_is_said() -> None:
    """It was not looked at, and is no zero."""
    row = Row("own writes")
    row.add(outcome(*OLD_READ, log=("a", "b"), guarantees=(Guarantee.READ_YOUR_WRITES,)))
    assert row.cells()[3:7] == ["1 of 1", "not promised", "not promised", "not promised"]


def test_the_table_replaces_the_one_before() -> None:
    """And nothing else."""
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    proof = table([Row("new")])
    assert written(page, proof) == f"above\n{BEGIN}\n{proof}\n{END}\nbelow\n"
    assert between(written(page, proof)) == proof


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_page_without_its_place_is_left_alone(page: str) -> None:
    """Markers that are gone, doubled or the wrong way round are an error."""
    with pytest.raises(ValueError, match="once each"):
        written(page, "table")


def test_the_page_has_what_the_command_prints() -> None:
    """The rows of the simulated cluster, then those of real nodes, in its columns; how to have it again."""
    rows, _, command = between(PAGE.read_text()).partition("\n\n")
    head, rule, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines())
    assert tuple(head) == HEAD
    assert rule == ["---", *["--:"] * (len(HEAD) - 1)]
    names = [row[0] for row in body]
    assert names[: len(SIMULATED)] == [plan.name for plan in SIMULATED]
    assert all(name.startswith("LiteFS, ") for name in names[len(SIMULATED) :])
    for _, operations, faults, *guarantees, lost, told in body:
        assert all(re.fullmatch(NUMBER, number) for number in (operations, faults, lost, told))
        assert all(re.fullmatch(f"{NUMBER} of {NUMBER}|not promised", cell) for cell in guarantees)
    assert re.match(r"`python -m tests\.chaos --seed \w+ --runs \d+( --seconds [\d.]+)?`, Python 3\.", command)
