"""The long run, made short: real watchers and middlewares under load and faults, and what it does with a leak."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.soak import main
from benchmarks.soak.leaks import LEAKS

MINUTES = "0.17"


def test_what_leaks_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A descriptor, a thread and a waiter with each read: the command fails, and says of each that it grew."""
    leaks = [word for leak in LEAKS for word in ("--leak", leak)]
    assert main(["--minutes", MINUTES, "--out", str(tmp_path / "soak"), *leaks]) == 1
    said = capsys.readouterr().err
    for name in ("descriptors", "threads", "tasks", "waiters"):  # memory: ten seconds of a busy machine are too noisy
        assert f"FAILED: {name} grew by " in said
    assert "calls still wait for a transaction or a role" in said


def test_what_does_not_leak_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a table, and writes what it has sampled, and a plot of it.

    In ten seconds of a busy machine a count may be higher at the end, when a node has just been frozen. That is chance; a
    leak would be there each time.
    """
    for _ in range(3):
        status = main(["--minutes", MINUTES, "--out", str(tmp_path / "soak")])
        printed = capsys.readouterr()
        if status == 0:
            break
    assert status == 0, printed
    assert "after warm-up" in printed.out
    told = json.loads((tmp_path / "soak.json").read_text())
    assert told["failures"] == []
    assert len(told["samples"]) >= 20
    assert {"memory", "descriptors", "threads", "tasks", "median", "high"} <= told["samples"][0].keys()
    plot = ElementTree.parse(tmp_path / "soak.svg")
    assert len(plot.findall(".//{*}rect[@class='warm']")) == 4
