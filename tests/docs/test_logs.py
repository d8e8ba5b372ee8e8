"""The page on logs has every line that the package logs; and those that have fields have them."""

from __future__ import annotations

import ast
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
LEVELS = {"debug", "info", "warning", "error", "exception", "log"}


def logged() -> Iterator[tuple[str, str]]:
    """The level and the text of each call."""
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
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LEVELS:
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "logger":
                text = node.args[1 if node.func.attr == "log" else 0]
                levels = {"exception": ["ERROR"], "log": ["INFO", "WARNING"]}.get(node.func.attr, [node.func.attr.upper()])
                for level in levels:
                    yield level, str(text.value if isinstance(text, ast.Constant) else texts[ast.unparse(text)])


def test_the_page_has_every_line() -> None:
    """A line that it lacks is to be added: | level | `message` | what it means, and what to do |. None is of the past."""
    calls = set(logged())
    assert len(calls) > 40
    missing = [call for call in calls if not any(level == call[0] and call[1].startswith(text) for level, text, _ in ROWS)]
    assert missing == []
    gone = [row for row in ROWS if not any(row[0] == level and text.startswith(row[1]) for level, text in calls)]
    assert gone == []


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
