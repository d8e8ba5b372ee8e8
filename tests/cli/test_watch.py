"""``litefs-watch watch``: lines, signals and pipes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from litefs_watch.testing import SimulatedNode

SOON = 30.0
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_it_follows(node: SimulatedNode, start: Start) -> None:
    """The state first, then each change a line, at once; Ctrl-C ends it with 130, without a word."""
    with start(node, "watch") as process:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  primary\n", line(process))
        assert line(process).endswith("  app.db  1\n")
        node.commit()
        assert line(process).endswith("  app.db  2\n")
        node.set_primary("node-b")
        assert line(process).endswith("  replica of node-b  (was primary)\n")
        node.commit(txid=1)
        assert "  app.db  1  (back from 0000000000000002/" in line(process)
        node.commit("new.db")
        assert line(process).endswith("  new.db  1  (new)\n")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out, err) == (130, "", "")


def test_as_json(node: SimulatedNode, start: Start) -> None:
    """One object a line, in LiteFS's terms; --count ends it."""
    before = node.position()
    with start(node, "watch", "--json", "--count", "2") as process:
        state = json.loads(line(process))
        assert (state["type"], state["role"], state["positions"]["app.db"]["txid"]) == ("status", "primary", 1)
        node.commit()
        tx = json.loads(line(process))
        time = tx.pop("time")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        assert time >= state["time"]
        assert tx == {
            "type": "tx",
            "database": "app.db",
            "txid": 2,
            "position": str(node.position()),
            "previous": {"txid": 1, "position": str(before)},
        }
        node.set_primary("node-b")
        change = json.loads(line(process))
        del change["time"]
        assert change == {
            "type": "primaryChange",
            "role": "replica",
            "primary": "node-b",
            "previousRole": "primary",
            "previousPrimary": None,
        }
        assert process.wait(SOON) == 0
        assert line(process) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_quietly(number: signal.Signals, node: SimulatedNode, start: Start) -> None:
    """With the status that shells give: 128 and its number."""
    with start(node, "watch", "--json") as process:
        line(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out, err) == (128 + number, "", "")


def test_what_nohup_ignores_stays_ignored(node: SimulatedNode, start: Start) -> None:
    """It goes on after SIGHUP, as after SIGINT where a shell started it with ``&``."""
    inherited = ["bash", "-c", 'trap "" HUP INT; exec "$@"', "-"]
    with start(node, "watch", "--json", inherited=inherited) as process:
        line(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        for txid in (2, 3):
            node.commit()
            assert json.loads(line(process))["txid"] == txid


@pytest.mark.parametrize("committing", [True, False])
def test_whoever_read_is_gone(node: SimulatedNode, start: Start, committing: bool) -> None:
    """``litefs-watch watch | head -1`` ends without a word, also where nothing happens any more."""
    with start(node, "watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line(process)
        line(process)
        process.stdout.close()
        if committing:
            node.commit()
        assert process.wait(SOON) == 141
        assert process.stderr.read() == ""


def test_where_no_primary_is_known_it_says_why(node: SimulatedNode, start: Start) -> None:
    """On stderr; and goes on, until LiteFS is there."""
    node.stop()
    with start(node, "watch", "--json") as process:
        assert json.loads(line(process))["role"] == "unknown"
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"litefs-watch: no connection to {node.api_url}/events")
        node.start()
        assert {json.loads(line(process))["type"], json.loads(line(process))["type"]} == {"tx", "primaryChange"}


def test_counts_are_counts(node: SimulatedNode, run: Run) -> None:
    """Status 2 for what is none."""
    for count in ("0", "-1", "x"):
        assert run(node, "watch", "--count", count).returncode == 2
