"""The proof as a table: what was done, what went wrong meanwhile, how often each guarantee was tested and broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from litefs_watch.testing import Guarantee
from tests.chaos.runs import Outcome

HEAD = ("", "operations", "faults", *(str(guarantee) for guarantee in Guarantee), "writes lost", "of them told")
BEGIN, END = "<!-- python -m tests.chaos --write -->", "<!-- end of what it writes -->"
"""What is between them in docs/guarantees.md is the command's."""


@dataclass
class Row:
    """Of some runs together."""

    name: str
    control: bool = False
    """Whether its clients keep no tokens, to show what is found then: its violations are no failure."""
    operations: int = 0
    faults: int = 0
    tested: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    told: int = 0

    def add(self, outcome: Outcome) -> None:
        report = outcome.report
        self.operations += report.operations
        self.faults += outcome.driver.done.total()
        self.tested.update(report.tested)
        self.broken.update(str(violation.guarantee) for violation in report.violations)
        self.lost += len(report.lost)
        self.told += len(report.told)

    @property
    def failed(self) -> bool:
        return not self.control and bool(self.broken)

    def cells(self) -> list[str]:
        """Of each guarantee that was promised: how often it was broken, of how often it was put to the test."""
        guarantees = [
            f"{self.broken[name]:,} of {self.tested[name]:,}" if name in self.tested else "not promised"
            for name in Guarantee
        ]
        return [self.name, f"{self.operations:,}", f"{self.faults:,}", *guarantees, f"{self.lost:,}", f"{self.told:,}"]

    def _judged(self, guarantee: Guarantee) -> str:
        return f"{self.broken[guarantee]:,} of {self.tested[guarantee]:,}"


def table(rows: Iterable[Row]) -> str:
    """As Markdown."""
    lines: list[Sequence[str]] = [HEAD, ["---", *["--:"] * (len(HEAD) - 1)], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(page: str, proof: str) -> str:
    """``page`` with ``proof`` between the two markers. Raises `ValueError` where they are not there, each once."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(f"the page has not, once each and in this order, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{proof}\n{END}{after}"


def between(page: str) -> str:
    """What stands there."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()
