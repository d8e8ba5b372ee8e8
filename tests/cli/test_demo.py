"""``litefs-watch demo``: as an ordinary user runs it, with nothing else there."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


def test_it_runs_and_ends_by_itself(tmp_path: Path, run: Run) -> None:
    """Every read that waited saw its write; the fail-over is shown, and writing goes on; nothing is left behind."""
    done = run(None, "demo", "--seconds", "3", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    *events, summary = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["type"] for event in events if event["type"] != "primaryChange"]
    assert kinds == ["start", "kill", "elect", "resume", "restart"]
    roles = [(event["node"], event["role"]) for event in events if event["type"] == "primaryChange"]
    for expected in (("node-c", "unknown"), ("node-b", "primary"), ("node-c", "replica"), ("node-a", "replica")):
        assert expected in roles
    assert all(0 < event["after"] < 3 for event in events if event["type"] == "primaryChange")
    assert (summary["type"], summary["good"]) == ("summary", True)
    assert summary["writes"] > 10
    assert [node["role"] for node in summary["nodes"]] == ["replica", "primary", "replica"]
    for node in summary["nodes"][1:]:
        check_figures(node)


def check_figures(node: dict[str, Any]) -> None:
    """They are measured, so they only have to be possible: a wake is sooner than a lag, a read without waiting too early."""
    assert node["reads"] == node["readsSeen"] > 0
    assert node["reads"] // 2 <= node["wake"]["count"] <= node["reads"]
    assert node["readsLost"] == 0
    assert node["unwaitedReadsSeen"] < node["unwaitedReads"]
    assert 0 < node["wake"]["median"] < node["lag"]["median"]
    assert node["wake"]["median"] <= node["wake"]["p90"]
    assert node["poll"]["median"] > 0
    assert node["poll"]["count"] >= node["reads"] // 2


def test_in_words(tmp_path: Path, run: Run) -> None:
    """Plain lines into a pipe, and a table at the end that fits 80 columns."""
    done = run(None, "demo", "--seconds", "2", TMPDIR=str(tmp_path))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert re.search(r"^ *\d\.\d\d s  node-b gets the lease$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *\d\.\d\d s  node-b knows after \d+ ms: primary$", done.stdout, re.MULTILINE)
    counts = re.search(r"^(\d+) of (\d+) reads after wait_for_tx saw the row", done.stdout, re.MULTILINE)
    assert counts is not None
    assert counts[1] == counts[2]
    row = r"^node-c \(syd\) +\d+\.\d ms +\d+\.\d+ ms +\d+\.\d+ ms +\d+\.\d+ ms +(\d+) of \1 +\d+ of \1$"
    assert re.search(row, done.stdout, re.MULTILINE)


def test_on_a_terminal_it_is_live(tmp_path: Path, start: Start) -> None:
    """A table that moves; Ctrl-C ends it with 130, gives the cursor back, and leaves nothing behind."""
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm", "COLUMNS": "80", "TMPDIR": str(tmp_path)}
    with start(None, "demo", "--seconds", "600", stdout=theirs, env=env) as process:
        os.close(theirs)
        shown = read_until(ours, re.compile(rb"node-c +syd +replica +\d+ +\d+\.\d ms +\d+\.\d ms +\d+\.\d+ ms"))
        assert b"\x1b[?25l" in shown
        assert b"\x1b[36mreplica" in shown
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert b"\x1b[?25h" in read_until(ours, None)
        assert process.wait() == 130
    os.close(ours)
    assert list(tmp_path.iterdir()) == []


def read_until(descriptor: int, pattern: re.Pattern[bytes] | None) -> bytes:
    """None: to the end. Ends too when the process does, which `start` kills in the end."""
    shown = b""
    while pattern is None or not pattern.search(re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)):
        try:
            shown += os.read(descriptor, 65536)
        except OSError:  # EIO: the other end is closed
            break
    return shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left_behind(number: signal.Signals, tmp_path: Path, start: Start) -> None:
    """No directory, no word on stderr."""
    with start(None, "demo", "--seconds", "600", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_whoever_read_it_is_gone(tmp_path: Path, start: Start) -> None:
    """``litefs-watch demo | head -1`` ends, and nothing is left behind."""
    with start(None, "demo", "--seconds", "600", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []
