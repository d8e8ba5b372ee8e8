"""The alerts: by Prometheus's own tool where it is here; and each metric in them is one of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from litefs_watch import Settings, Watcher
from litefs_watch.prometheus import instrument

HERE = Path(__file__).parent
PROMTOOL = shutil.which("promtool")


def test_each_metric_is_there() -> None:
    """In what a watcher that does not even run is scraped for."""
    registry = instrument(Watcher(Settings(standalone=True)), registry=CollectorRegistry())
    there = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.MULTILINE))
    named = set(re.findall(r"litefs_watch_\w+", (HERE / "rules.yml").read_text()))
    assert named
    assert named <= there


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
@pytest.mark.parametrize("words", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_they_fire_when_they_should(words: tuple[str, ...]) -> None:
    """And are silent before."""
    found = subprocess.run([str(PROMTOOL), *words], cwd=HERE, capture_output=True, text=True, timeout=20)
    assert found.returncode == 0, found.stdout + found.stderr
