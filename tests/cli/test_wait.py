"""``litefs-watch wait``, and ``primary --wait``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from litefs_watch.position import parse_txid
from litefs_watch.testing import SimulatedNode

SOON = 30.0
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


def test_it_prints_the_position(node: SimulatedNode, run: Run) -> None:
    """At once where the transaction is there; options may come before and after the TXID."""
    done = run(node, "wait", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{node.position()}\n", "")
    as_json = run(node, "wait", "--timeout", "5", str(node.position()), "--json")
    assert json.loads(as_json.stdout) == {"txid": 1, "position": str(node.position())}


def test_it_wakes(node: SimulatedNode, start: Start) -> None:
    """It ends when the transaction arrives."""
    with start(node, "wait", "0x2") as process:
        node.wait_for_streams(timeout=SOON)
        assert process.poll() is None
        node.commit()
        out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out, err) == (0, f"{node.position()}\n", "")


def test_it_times_out_with_124(node: SimulatedNode, run: Run) -> None:
    """And one line that says where the database is."""
    done = run(node, "wait", "99", "--timeout", "0.05")
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr == (
        "litefs-watch: app.db did not reach transaction 99 within 0.05 s: it is at 1; this node is the primary\n"
    )


def test_who_may_wait_for_ever_is_told(node: SimulatedNode, start: Start) -> None:
    """Where the database has not been seen, on stderr; and still woken when it comes."""
    with start(node, "wait", "1", "--database", "later.db") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == (
            f"litefs-watch: later.db has not been seen yet (is it in {node.litefs_dir}?); waiting\n"
        )
        node.commit("later.db")
        assert process.communicate(timeout=SOON)[0] == f"{node.position('later.db')}\n"
        assert process.returncode == 0


@pytest.mark.parametrize(
    "txid",
    [
        "x",
        "1.5",
        "1e300",
        "18446744073709551616",
        "0x",
        "0x10000000000000000",
        "1_000",
        " 1",
        "",
        "-1",
        "0" * 15 + "2/",
        "¹",
    ],
)
def test_what_is_no_txid_is_a_usage_error(node: SimulatedNode, run: Run, txid: str) -> None:
    """Status 2, and one line."""
    done = run(node, "wait", "--timeout", "0", "--", txid)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no TXID" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("txid", ["0000000000000010", "000000000000002a", "abcdefabcdefabcd"])
def test_litefs_s_hexadecimal_is_not_taken_for_decimal(node: SimulatedNode, run: Run, txid: str) -> None:
    """Half a position, copied from a ``-pos`` file, would be another TXID: it is refused, with what to write."""
    done = run(node, "wait", txid, "-t", "0")
    assert done.returncode == 2
    assert f"write 0x{txid} for LiteFS's hexadecimal" in done.stderr


@pytest.mark.parametrize(
    ("text", "txid"),
    [
        ("42", 42),
        ("0x2A", 42),
        ("0x000000000000002a", 42),
        ("0", 0),
        ("007", 7),
        ("1000000000000000", 10**15),
        ("18446744073709551615", 2**64 - 1),
        ("0xffffffffffffffff", 2**64 - 1),
        ("000000000000002a/" + "8" * 16, 42),
    ],
)
def test_txids_in_three_forms(text: str, txid: int) -> None:
    """Decimal, hexadecimal, LiteFS's own."""
    assert parse_txid(text) == txid


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e999", "-1", "x", ""])
def test_what_is_no_number_of_seconds_is_a_usage_error(node: SimulatedNode, run: Run, seconds: str) -> None:
    """Status 2, and one line, wherever seconds are taken."""
    for arguments in (["wait", "9", "--timeout"], ["primary", "--wait"], ["demo", "--seconds"]):
        done = run(node, *arguments, seconds)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1


def test_primary_can_wait_for_one(node: SimulatedNode, start: Start, run: Run) -> None:
    """124 where none becomes known; else the status tells whether it is this node."""
    node.lose_primary()
    done = run(node, "primary", "--wait", "0.05")
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr == "litefs-watch: no primary was known within 0.05 s; this node's role is unknown\n"
    with start(node, "primary", "--wait", str(SOON)) as process:
        node.wait_for_streams(timeout=SOON)
        node.set_primary("node-z")
        assert process.communicate(timeout=SOON)[0] == "replica of node-z\n"
        assert process.returncode == 1


def test_primary_says_why_none_is_known(node: SimulatedNode, run: Run) -> None:
    """On stderr, beside the answer on stdout."""
    node.stop()
    done = run(node, "primary", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["role"] == "unknown"
    assert done.stderr.startswith(f"litefs-watch: no connection to {node.api_url}/events: ")
