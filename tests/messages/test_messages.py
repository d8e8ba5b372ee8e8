"""Every message that a user can meet is provoked here, reads well, and stands on its page with what to do."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.messages import (
    answers,
    clients,
    command,
    halting,
    health,
    jobs,
    options,
    provoking,
    sidecar,
    simulator,
    sources,
    starting,
    waits,
)
from tests.messages.catalog import Said, said
from tests.messages.exempt import EXEMPT

PAGE = (Path(__file__).parents[2] / "docs" / "operate" / "messages.md").read_text()
SECTIONS: dict[str, ModuleType] = {
    "Start and settings": starting,
    "The middleware's options": options,
    "Calls and waits": waits,
    "The middleware's answers": answers,
    "Status routes": health,
    "Jobs": jobs,
    "HALT": halting,
    "The client": clients,
    "The command": command,
    "The sidecar": sidecar,
    "The simulator": simulator,
    "What the sources say": sources,
}


class Row(NamedTuple):
    section: str
    message: str
    when: str
    remedy: str

    @property
    def texts(self) -> tuple[str, str]:
        """As the code has it: without the error's class, the status, and what the command adds."""
        text = re.sub(r"^([A-Z]\w+: |\d{3,4} |litefs-watch: )", "", self.message)
        text = text.strip('"').removesuffix(" (see …)")
        return text, text.partition(": ")[2]  # without the setting that it is about

    @property
    def constant(self) -> int:
        """Characters that don't vary: of two rows that match, the one with more of them is meant."""
        return len(self.message.replace("…", ""))

    def match(self, line: str) -> re.Match[str] | None:
        return _pattern(self.message).fullmatch(line)


@functools.cache
def _pattern(message: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, message.split("…"))))


def rows() -> list[Row]:
    """Of the page, in order."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        found += [Row(title, *cells) for cells in re.findall(r"^\| `(.+?)` \| (.+) \| (.+) \|$", section, re.MULTILINE)]
    return found


ROWS = rows()


def row_of(line: str) -> Row | None:
    return max((row for row in ROWS if row.match(line)), key=lambda row: row.constant, default=None)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_message_is_met(section: str) -> None:
    """Really raised, or answered: it is on the page, it names what was seen, and what varies is fit to read. And each row of
    the page is met."""
    problems, met = [], set()
    cases: Sequence[provoking.Case] = SECTIONS[section].CASES
    for number, (provoke, seen) in enumerate(cases):
        line = provoking.met(provoke)
        row = None if line is None else row_of(line)
        if line is None or row is None:
            problems.append(f"case {number}: the page has no {line!r}")
            continue
        met.add(row)
        problems += [f"{line!r} does not name {word!r}" for word in seen if word not in line]
        problems += [f"{line!r}: {fault}" for fault in faults(line, row)]
    assert problems == []
    assert [row.message for row in ROWS if row.section == section and row not in met] == []


def faults(line: str, row: Row) -> list[str]:
    """Why it does not read well."""
    varying = row.match(line)
    parts = varying.groups() if varying else ()
    internal = re.compile(r"\bNone\b| at 0x[0-9a-f]+|<class |<function |Traceback")
    found = [f"{part!r} is nothing that a user has written" for part in parts if internal.search(part)]
    if re.search(r"\n|  |[:(] *$", line):
        found.append("it is no line of text")
    if len(line) > 500:
        found.append("it is too long")
    if re.match(r"\d{3} ", line) and row.section == "The middleware's answers" and not re.match(r"\d{3} [A-Z]", line):
        found.append("an answer is a sentence")
    return found


def test_each_row_says_when_and_what_to_do() -> None:
    """And stands there once, long enough to be found."""
    assert len({row.message for row in ROWS}) == len(ROWS) > 150
    assert {row.section for row in ROWS} == set(SECTIONS)
    assert [row.message for row in ROWS if row.constant < 15 and "there is no" not in row.message] == []
    assert [row.message for row in ROWS if len(row.when) < 3 or len(row.remedy) < 3] == []


def test_the_page_has_every_message_of_the_code() -> None:
    """Each error that is made, and each answer: a row is what its text may become; or `EXEMPT` says why none is."""
    assert len(said()) > 250
    missing = [each for each in said() if not is_on_page(each) and not any(one.covers(each) for one in EXEMPT)]
    assert missing == [], "each wants a row in docs/operate/messages.md and a case here, or an entry in exempt.py"


def is_on_page(each: Said) -> bool:
    """Whether its text tells anything, and is there."""
    text = _pattern(each.text)
    long = len(each.text.replace("…", "")) > len("there is no ")
    return long and any(text.fullmatch(words) for row in ROWS for words in row.texts)


def test_nothing_is_exempt_in_vain() -> None:
    """What is on the page, or gone, is to be taken out."""
    for one in EXEMPT:
        covered = [each for each in said() if one.covers(each)]
        assert covered, one
        assert not all(is_on_page(each) for each in covered), one
