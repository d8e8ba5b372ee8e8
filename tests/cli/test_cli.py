"""The command, as a shell runs it: real processes, real exit statuses, pipes and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from litefs_watch.cli.output import safe
from litefs_watch.cli.wait import parse_txid
from litefs_watch.testing import SimulatedNode

COMMAND = [sys.executable, "-W", "error", "-m", "litefs_watch"]
SOON = 30


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def environment(node: SimulatedNode | None, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LITEFS_", "FLY_", "DATABASE_"))}
    if node is not None:
        clean |= {
            "LITEFS_DIR": str(node.litefs_dir),
            "DATABASE_FILENAME": "app.db",
            "LITEFS_API_URL": node.api_url,
            "FLY_MACHINE_ID": node.hostname,
        }
    return clean | more


def run(node: SimulatedNode | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment(node, **more), capture_output=True, text=True, timeout=SOON, check=False
    )
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def started(node: SimulatedNode, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment(node), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# status


def test_status_shows_role_positions_and_the_three_sources(node: SimulatedNode) -> None:
    """What an operator asks first."""
    done = run(node, "status")
    assert done.returncode == 0
    assert re.search(r"role +primary", done.stdout)
    assert re.search(rf"app\.db +1 +\({node.position()}\)", done.stdout)
    for source in ("stream", "files", "reread"):
        assert re.search(rf"^{source} +(alive|away)", done.stdout, re.MULTILINE)
    assert f"connected to {node.api_url}/events" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("primary", "role", "line", "status"),
    [
        (None, "primary", "primary", 0),
        ("node-b", "replica", "replica of node-b", 0),
        ("", "replica", "replica of a primary without a name", 0),
        ("unknown", "unknown", "unknown: no primary is known", 1),
    ],
)
def test_the_three_roles(primary: str | None, role: str, line: str, status: int) -> None:
    """In words, in JSON, and as the exit status."""
    with SimulatedNode(primary=None if primary == "unknown" else primary) as node:
        if primary == "unknown":
            node.lose_primary()
        words, record = run(node, "status"), run(node, "status", "--json")
        assert line in words.stdout
        assert words.returncode == record.returncode == status
        (only,) = record.stdout.splitlines()
        assert json.loads(only)["role"] == role
        asked = run(node, "primary")
        assert asked.stdout == f"{line}\n"
        assert asked.returncode == (0 if role == "primary" else 1)


def test_status_as_json_has_everything(node: SimulatedNode) -> None:
    """One object on one line."""
    (node.litefs_dir / "bad.db-pos").write_text("garbage")
    status: dict[str, Any] = json.loads(run(node, "status", "--json").stdout)
    assert status["positions"] == {"app.db": {"txid": 1, "position": str(node.position())}}
    assert (status["hostname"], status["primary"], status["lag"], status["replicated"]) == ("node-a", None, 0.0, True)
    assert {name: source["alive"] for name, source in status["sources"].items()}["stream"] is True
    assert "not a position" in status["faults"]["bad.db-pos"]
    assert "unreadable: bad.db-pos: not a position: 'garbage'" in run(node, "status").stdout


def test_status_says_why_a_source_is_away(node: SimulatedNode) -> None:
    """LiteFS is down: status 1, and both reasons."""
    node.stop()
    done = run(node, "status")
    assert done.returncode == 1
    assert "unknown: no primary is known" in done.stdout
    assert f"no connection to {node.api_url}/events: " in done.stdout


def test_options_win_over_the_environment(node: SimulatedNode) -> None:
    """For who has several nodes on one machine."""
    done = run(node, "status", "--json", "--hostname", "other", "--api-url", "none", "--dir", str(node.litefs_dir))
    status = json.loads(done.stdout)
    assert status["hostname"] == "other"
    assert "turned off" in status["sources"]["stream"]["detail"]


def test_logs_go_to_stderr(node: SimulatedNode) -> None:
    """So that --json stays JSON."""
    done = run(node, "status", "--json", "--verbose")
    json.loads(done.stdout)
    assert "litefs_watch: role: primary" in done.stderr


def test_standalone_is_shown(tmp_path: Any) -> None:
    """LITEFS_STANDALONE=1."""
    done = run(None, "status", LITEFS_STANDALONE="1")
    assert done.returncode == 0
    assert "primary" in done.stdout


# wait


def test_wait_prints_the_position(node: SimulatedNode) -> None:
    """At once where the transaction is there."""
    done = run(node, "wait", "1")
    assert (done.returncode, done.stdout) == (0, f"{node.position()}\n")
    assert json.loads(run(node, "wait", "0x1", "--json").stdout) == {"txid": 1, "position": str(node.position())}


def test_wait_wakes(node: SimulatedNode) -> None:
    """It ends when the transaction arrives."""
    with started(node, "wait", "2") as process:
        node.wait_for_streams(timeout=SOON)
        node.commit()
        out, _ = process.communicate(timeout=SOON)
        assert (process.returncode, out) == (0, f"{node.position()}\n")


def test_wait_times_out_with_124(node: SimulatedNode) -> None:
    """And one line that says where the database is."""
    done = run(node, "wait", "99", "--timeout", "0.05")
    assert done.returncode == 124
    assert done.stdout == ""
    assert done.stderr == (
        "litefs-watch: app.db did not reach transaction 99 within 0.05 s: it is at 1; this node is primary\n"
    )


@pytest.mark.parametrize("txid", ["x", "1.5", "1e300", "18446744073709551616", "0x", "1_000", " 1", "", "0000000000000002/"])
def test_what_is_no_txid_is_a_usage_error(node: SimulatedNode, txid: str) -> None:
    """Status 2."""
    done = run(node, "wait", "--timeout", "0", "--", txid)
    assert done.returncode == 2
    assert "is no TXID" in done.stderr


@pytest.mark.parametrize(
    ("text", "txid"),
    [("42", 42), ("0x2A", 42), ("0", 0), ("18446744073709551615", 2**64 - 1), ("000000000000002a/" + "8" * 16, 42)],
)
def test_txids_in_three_forms(text: str, txid: int) -> None:
    """Decimal, hexadecimal, LiteFS's own."""
    assert parse_txid(text) == txid


# primary, and errors


def test_primary_can_wait_for_one(node: SimulatedNode) -> None:
    """124 where none becomes known."""
    node.lose_primary()
    done = run(node, "primary", "--wait", "0.05")
    assert done.returncode == 124
    assert "no primary is known within 0.05 s" in done.stderr
    with started(node, "primary", "--wait", str(SOON)) as process:
        node.wait_for_streams(timeout=SOON)
        node.set_primary("node-z")
        assert process.communicate(timeout=SOON)[0] == "replica of node-z\n"
        assert process.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["status"], "LITEFS_DIR is not set"),
        (["status", "--dir", "/x", "--database", "a/b"], "without a path"),
        (["wait", "1", "--dir", "/x"], "DATABASE_FILENAME"),
        (["nonsense"], "No such command"),
        (["status", "--nonsense"], "No such option"),
        (["status", "--dir", "/x", "--api-url", "ftp://x"], "plain HTTP"),
    ],
)
def test_usage_errors_are_2_and_say_what_to_do(arguments: list[str], what: str) -> None:
    """Without a traceback."""
    done = run(None, *arguments)
    assert done.returncode == 2
    assert what in done.stderr
    assert done.stdout == ""


def test_names_from_outside_do_not_reach_the_terminal_raw() -> None:
    """Control characters are escaped, and rich's markup means nothing."""
    assert safe("a\x1b[31mb\n[bold]") == "a\\x1b[31mb\\n[bold]"
    with SimulatedNode(databases=("[red]x.db", "esc\x1b[31m.db")) as node:
        done = run(node, "status", DATABASE_FILENAME="[red]x.db")
        assert "[red]x.db" in done.stdout
        assert "esc\\x1b[31m.db" in done.stdout
        assert "\x1b" not in done.stdout


def test_version_and_help() -> None:
    """Both exit with 0."""
    assert "litefs-watch" in run(None, "--version").stdout
    assert "124 timed out" in run(None, "--help").stdout


# watch


def test_watch_follows(node: SimulatedNode) -> None:
    """Each change a line, at once, and the state first; SIGINT ends it with 130, quietly."""
    with started(node, "watch") as process:
        assert process.stdout is not None
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  primary\n", process.stdout.readline())
        assert process.stdout.readline().endswith("  app.db  1\n")
        node.commit()
        assert process.stdout.readline().endswith("  app.db  2\n")
        node.set_primary("node-b")
        assert process.stdout.readline().endswith("  replica of node-b  (was primary)\n")
        node.commit(txid=1)
        assert "  app.db  1  (back from 0000000000000002/" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out, err.strip()) == (130, "", "")


def test_watch_as_json(node: SimulatedNode) -> None:
    """One object a line; --count ends it."""
    with started(node, "watch", "--json", "--count", "2") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "status"
        node.commit()
        tx = json.loads(process.stdout.readline())
        assert (tx["type"], tx["database"], tx["txid"], tx["previous"]["txid"]) == ("tx", "app.db", 2, 1)
        node.lose_primary()
        change = json.loads(process.stdout.readline())
        assert (change["type"], change["role"], change["previous_role"]) == ("primary_change", "unknown", "primary")
        assert process.wait(SOON) == 0


def test_whoever_read_is_gone(node: SimulatedNode) -> None:
    """``litefs-watch watch | head -1`` ends without a word."""
    with started(node, "watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.readline()
        process.stdout.close()
        node.commit()
        assert process.wait(SOON) == 141
        assert process.stderr.read() == ""


# demo


def test_the_demo_runs_and_ends_by_itself(tmp_path: Any) -> None:
    """Every read that waited saw its write; the fail-over is shown; nothing is left behind."""
    done = run(None, "demo", "--seconds", "3", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [record["type"] for record in records]
    assert [kind for kind in kinds if kind in ("start", "kill", "elect", "restart")] == ["start", "kill", "elect", "restart"]
    roles = [(record["node"], record["role"]) for record in records if record["type"] == "primary_change"]
    assert ("node-b", "primary") in roles
    assert ("node-c", "unknown") in roles
    assert ("node-a", "replica") in roles
    summary = records[-1]
    assert summary["type"] == "summary"
    assert summary["writes"] > 10
    for node in summary["nodes"][1:]:
        assert node["reads"] == node["reads_seen"] > 0
        assert node["reads_without_waiting_seen"] < node["reads_without_waiting"]
        assert 0 < node["wake_median"] < node["lag_median"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_in_words(tmp_path: Any) -> None:
    """Plain lines into a pipe; the summary's table at the end."""
    done = run(None, "demo", "--seconds", "2", TMPDIR=str(tmp_path))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "node-b gets the lease" in done.stdout
    assert re.search(r"^node-c \(syd\) +\d+\.\d ms", done.stdout, re.MULTILINE)


def test_the_demo_can_be_interrupted(node: SimulatedNode, tmp_path: Any) -> None:
    """130, promptly, and nothing is left behind."""
    with started(node, "demo", "--seconds", "600") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SOON)
        assert process.returncode == 130


def test_without_its_libraries_the_command_says_what_to_install() -> None:
    """One line, not a traceback."""
    code = "import sys; sys.modules['click'] = None; from litefs_watch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SOON, check=False)
    assert done.returncode == 1
    assert done.stderr == "litefs-watch: the command needs click: pip install 'litefs-watch[cli]'\n"
