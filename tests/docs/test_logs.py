"""The page on logs has every line that the package logs; and those that have fields have them."""

from __future__ import annotations

import ast
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import litefs_watch
from litefs_watch import Watcher
from litefs_watch.testing import SimulatedNode
from litefs_watch.web.checks import LostTransactions
from litefs_watch.web.late import LateRoutes

PACKAGE = Path(litefs_watch.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "operate" / "logs.md").read_text()
ROWS = re.findall(r"^\| ([A-Z]+) \| `(.+?)` \| (.+) \|$", PAGE, re.MULTILINE)
LEVELS = {name: (name.upper(),) for name in ("debug", "info", "warning", "error", "critical")} | {
    "exception": ("ERROR",),
    "log": ("INFO", "WARNING"),  # a source that comes, or goes
}
LONG = 60
"""Characters of a message's beginning that name it; a shorter row is the whole message."""


@functools.cache
def logged() -> frozenset[tuple[str, str]]:
    """The level and the text of each call."""
    return frozenset(_logged())


def _logged() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "testing" in path.relative_to(PACKAGE).parts:
            continue
        tree = ast.parse(path.read_text())
        texts = {
            node.targets[0].id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if "logger" not in ast.unparse(node.func.value).lower():
                continue
            for level in LEVELS.get(node.func.attr, ()):
                text = node.args[node.func.attr == "log"]
                yield level, str(text.value if isinstance(text, ast.Constant) else texts[ast.unparse(text)])


def test_the_page_has_every_line() -> None:
    """A line that it lacks is to be added: | level | `message` | what it means, and what to do |. None is of the past."""
    calls = logged()
    assert len(calls) > 40
    missing = [call for call in calls if not any(names(row, call) for row in ROWS)]
    assert missing == []
    gone = [row for row in ROWS if not any(names(row, call) for call in calls)]
    assert gone == []


def names(row: tuple[str, str, str], call: tuple[str, str]) -> bool:
    """Whether a row of the page is of that call."""
    level, text, _ = row
    return level == call[0] and (text == call[1] or (len(text) >= LONG and call[1].startswith(text)))


def test_no_row_stands_for_others() -> None:
    """Each names one message: that none is forgotten shows only where no row would take another one's place."""
    for row in ROWS:
        others = [each for each in ROWS if each is not row]
        assert not all(any(names(other, call) for other in others) for call in logged()), row


def test_the_page_has_every_logger() -> None:
    """Ours, and those of others that get a filter."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        found |= set(re.findall(r'getLogger\("([^"]+)"\)', path.read_text()))
    assert "litefs_watch" in found
    assert [name for name in sorted(found) if f"`{name}`" not in PAGE] == []


async def test_changes_have_fields(caplog: pytest.LogCaptureFixture) -> None:
    """For formatters that write JSON: the role, the sources."""
    caplog.set_level(logging.INFO, "litefs_watch")
    with SimulatedNode() as node:
        async with Watcher(node.settings()) as watcher:
            node.set_primary("node-b")
            await watcher.wait_for_role("replica", timeout=10)
    fields = [{key: value for key, value in vars(record).items() if key.startswith("litefs_")} for record in caplog.records]
    assert {"litefs_event": "role", "litefs_role": "replica", "litefs_primary": "node-b"} in fields
    assert {"litefs_event": "source", "litefs_source": "stream", "litefs_alive": True} in fields


def test_losses_and_late_commits_have_fields(caplog: pytest.LogCaptureFixture) -> None:
    """With what was lost, and which route is late."""
    LostTransactions().say("app.db", 7)
    LateRoutes().say("/notes", 1, 2)
    lost, late = caplog.records
    assert (lost.litefs_event, lost.litefs_database, lost.litefs_txid) == ("lost", "app.db", 7)  # type: ignore[attr-defined]
    assert (late.litefs_event, late.litefs_route) == ("late_commit", "/notes")  # type: ignore[attr-defined]
