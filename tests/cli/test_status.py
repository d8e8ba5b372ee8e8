"""``litefs-watch status``."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import SimulatedNode, fuse_available

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


def test_it_shows_role_positions_and_the_three_sources(node: SimulatedNode, run: Run) -> None:
    """What an operator asks first, one fact a line, without colours in a pipe."""
    done = run(node, "status")
    assert done.returncode == 0
    assert re.search(r"^role +primary$", done.stdout, re.MULTILINE)
    assert re.search(r"^lag +0\.000 s$", done.stdout, re.MULTILINE)
    assert re.search(rf"^app\.db +1 +\({node.position()}\)$", done.stdout, re.MULTILINE)
    for source in ("stream", "files", "reread"):
        assert re.search(rf"^{source} +alive +since \d\d:\d\d:\d\dZ \(\d s\)  \S", done.stdout, re.MULTILINE)
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
def test_the_three_roles(primary: str | None, role: str, line: str, status: int, run: Run) -> None:
    """In words, in JSON, and as the exit status, here and of ``primary``."""
    with SimulatedNode(primary=None if primary == "unknown" else primary) as node:
        if primary == "unknown":
            node.lose_primary()
        words, record = run(node, "status"), run(node, "status", "--json")
        assert re.search(rf"^role +{line}$", words.stdout, re.MULTILINE)
        assert words.returncode == record.returncode == status
        (only,) = record.stdout.splitlines()
        assert json.loads(only)["role"] == role
        asked, as_json = run(node, "primary"), run(node, "primary", "--json")
        assert asked.stdout == ("primary: this node, node-a\n" if role == "primary" else f"{line}\n")
        assert json.loads(as_json.stdout) == {
            "hostname": "node-a",
            "role": role,
            "primary": primary if primary == "node-b" else None,
        }
        assert asked.returncode == as_json.returncode == (0 if role == "primary" else 1)


def test_as_json_it_has_everything(node: SimulatedNode, run: Run) -> None:
    """One object on one line, with what is unreadable; in words that is said once."""
    (node.litefs_dir / "bad.db-pos").write_text("garbage")
    status: dict[str, Any] = json.loads(run(node, "status", "--json").stdout)
    assert status["positions"] == {"app.db": {"txid": 1, "position": str(node.position())}}
    assert (status["hostname"], status["primary"], status["lag"], status["replicated"]) == ("node-a", None, 0.0, True)
    assert set(status["sources"]) == {"stream", "files", "reread"}
    assert status["sources"]["stream"]["alive"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", status["sources"]["stream"]["since"])
    assert "not a position" in status["faults"]["bad.db-pos"]
    words = run(node, "status").stdout
    assert words.count("unreadable: bad.db-pos: not a position: 'garbage'") == words.count("garbage") == 1


def test_it_says_why_a_source_is_away(node: SimulatedNode, run: Run) -> None:
    """LiteFS is down: status 1, and the reasons; the database that was asked for has not been seen."""
    node.stop()
    done = run(node, "status")
    assert done.returncode == 1
    assert "unknown: no primary is known" in done.stdout
    assert re.search(rf"^stream +away .*no connection to {node.api_url}/events: ", done.stdout, re.MULTILINE)
    assert re.search(r"^app\.db +not seen$", done.stdout, re.MULTILINE)
    gone = run(node, "status", "--dir", "/nonexistent")
    assert gone.returncode == 1
    assert re.search(r"^reread +away .*/nonexistent: No such file or directory$", gone.stdout, re.MULTILINE)
    assert gone.stdout.count("No such file") == 1


def test_a_replica_that_was_never_in_step_says_so(run: Run) -> None:
    """2147483647 ms is no lag."""
    with SimulatedNode(primary="node-b") as node:
        node.set_lag(2**31 - 1)
        assert re.search(r"^lag +not replicated yet$", run(node, "status").stdout, re.MULTILINE)
        assert json.loads(run(node, "status", "--json").stdout)["replicated"] is False
    with SimulatedNode(lag_file=False) as node:
        assert re.search(r"^lag +LiteFS does not say$", run(node, "status").stdout, re.MULTILINE)


@pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))
def test_a_source_that_rests_does_not_alarm(run: Run) -> None:
    """On LiteFS's own mount inotify is idle by design, and a stream that was turned off is by choice."""
    with SimulatedNode(fuse=True) as node:
        assert re.search(r"^files +idle +since .* resting: ", run(node, "status").stdout, re.MULTILINE)
        assert re.search(r"^stream +idle .* turned off", run(node, "status", "--api-url", "none").stdout, re.MULTILINE)


def test_options_win_over_the_environment(node: SimulatedNode, run: Run) -> None:
    """For who has several nodes on one machine; an empty one counts as not given, as an empty variable does."""
    options = ("--hostname", "other", "--api-url", "none", "-d", "b.db", "--dir", str(node.litefs_dir), "--data-dir", "")
    done = run(node, "status", "--json", *options, LITEFS_DIR="/wrong", LITEFS_API_URL="http://wrong")
    status = json.loads(done.stdout)
    assert status["hostname"] == "other"
    assert status["positions"].keys() == {"app.db"}
    assert "turned off" in status["sources"]["stream"]["detail"]
    assert f"reading {node.litefs_dir}, " in run(node, "status", "--dir", "").stdout
    assert re.search(r"^b\.db +not seen$", run(node, "status", *options).stdout, re.MULTILINE)


def test_standalone_is_shown(run: Run) -> None:
    """LITEFS_STANDALONE=1: nobody should take it for a cluster."""
    done = run(None, "status", LITEFS_STANDALONE="1")
    assert done.returncode == 0
    assert "standalone: nothing is watched" in done.stdout


def test_a_terminal_gets_colours_unless_told_otherwise(node: SimulatedNode, start: Start) -> None:
    """NO_COLOR is respected."""

    def on_terminal(**env: str) -> str:
        ours, theirs = pty.openpty()
        with start(node, "status", env={"TERM": "xterm"} | env, stdout=theirs) as process:
            os.close(theirs)
            shown = b""
            while chunk := read_terminal(ours):
                shown += chunk
            assert process.wait() == 0
        os.close(ours)
        return shown.decode()

    green = re.compile(r"\x1b\[[0-9;]*32m")
    assert green.search(on_terminal())
    assert not green.search(on_terminal(NO_COLOR="1"))


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the other end is closed
        return b""


def test_names_from_outside_do_not_reach_the_terminal_raw(run: Run) -> None:
    """Control characters are escaped, and rich's markup means nothing: in words, in errors and in logs."""
    with SimulatedNode(databases=("[red]x.db", "esc\x1b[31m.db", "role")) as node:
        (node.litefs_dir / "bad\x1b[31m-pos").write_text("x")
        words = run(node, "status", "-v", DATABASE_FILENAME="[red]x.db")
        assert re.search(r"^\[red\]x\.db +1 ", words.stdout, re.MULTILINE)
        assert re.search(r"^esc\\x1b\[31m\.db +1 ", words.stdout, re.MULTILINE)
        assert re.search(r"^role +primary$", words.stdout, re.MULTILINE)
        assert "bad\\x1b[31m-pos" in words.stdout
        assert "bad\\x1b[31m-pos" in words.stderr
        late = run(node, "wait", "9", "-t", "0", "-d", "esc\x1b[31m.db")
        assert "esc\\x1b[31m.db did not reach" in late.stderr
        for done in (words, late, run(node, "no\x1b[31m"), run(node, "watch", "--nonsense\x1b[31m")):
            assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_without_utf_8_gets_the_rest(run: Run) -> None:
    """What it can't show is escaped."""
    done = run(None, "status", "--hostname", "nöde", LITEFS_STANDALONE="1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "n\\xf6de" in done.stdout


def test_logs_go_to_stderr(node: SimulatedNode, run: Run) -> None:
    """So that --json stays JSON."""
    done = run(node, "status", "--json", "--verbose")
    json.loads(done.stdout)
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO role: primary$", done.stderr, re.MULTILINE)


def test_a_frozen_litefs_can_be_asked_about(node: SimulatedNode, run: Run, tmp_path: Path) -> None:
    """It answers within some seconds, that it does not know."""
    node.freeze()
    done = run(node, "status", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert "unknown" in done.stdout


def test_the_cluster_is_what_the_other_nodes_say(run: Run) -> None:
    """One that is there, one that is not, and this one, which does not count; in words and in JSON."""
    with SimulatedNode() as node, SimulatedNode(hostname="node-b", primary="node-a") as other:
        environ = {"LITEFS_PEERS": f"{node.api_url},{other.api_url},http://127.0.0.1:1"}
        words = run(node, "status", "--cluster", **environ).stdout
        assert f"{other.api_url}  replica of node-a" in words
        assert "it is this node itself" in words
        assert re.search(r"^http://127.0.0.1:1  away$", words, re.MULTILINE)
        peers = json.loads(run(node, "status", "--cluster", "--json", **environ).stdout)["cluster"]["peers"]
        assert [(peer["connected"], peer["counts"], peer["role"]) for peer in peers] == [
            (True, False, "primary"),
            (True, True, "replica"),
            (False, False, "unknown"),
        ]
        assert "cluster" not in json.loads(run(node, "status", "--json").stdout)
