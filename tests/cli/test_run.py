"""``litefs-watch run`` and ``litefs-watch wait-ready``."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from litefs_watch.testing import SimulatedNode

SOON = 30.0
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]

HERE = "litefs-watch: instance: node-a\nlitefs-watch: region: ams\n"


def test_it_says_who_is_who_and_becomes_the_application(node: SimulatedNode, run: Run) -> None:
    """Instance, region, primary, in a line each; options after the command's name are the command's own."""
    done = run(node, "run", "--", "echo", "--json", "--", "x", FLY_REGION="ams")
    assert (done.returncode, done.stdout) == (0, "--json -- x\n")
    assert done.stderr == HERE + "litefs-watch: primary: this node, node-a\n"
    node.set_primary("node-z")
    done = run(node, "run", "echo", "-n", "x")
    assert (done.returncode, done.stdout) == (0, "x")
    assert done.stderr.splitlines()[1:] == [
        "litefs-watch: region: not known (FLY_REGION is not set)",
        "litefs-watch: replica of node-z",
    ]


def test_as_json(node: SimulatedNode, run: Run) -> None:
    """The three in one object, before the application's own output."""
    done = run(node, "run", "--json", "--", "echo", "x", FLY_REGION="ams")
    first, second = done.stdout.splitlines()
    assert json.loads(first) == {"hostname": "node-a", "region": "ams", "role": "primary", "primary": None}
    assert second == "x"


def test_each_role_has_its_command(node: SimulatedNode, run: Run) -> None:
    """In a shell, before the application, and only there."""
    arguments = ("run", "--primary", "echo migrating | tr a-z A-Z", "--replica", "echo waiting", "--", "echo", "application")
    assert run(node, *arguments).stdout == "MIGRATING\napplication\n"
    node.set_primary("node-z")
    done = run(node, *arguments)
    assert done.stdout == "waiting\napplication\n"
    assert done.stderr.endswith("litefs-watch: running on a replica: echo waiting\n")


def test_without_a_command_for_the_role(node: SimulatedNode, run: Run) -> None:
    """Nothing is run before the application."""
    assert run(node, "run", "--replica", "echo no", "--", "echo", "application").stdout == "application\n"
    node.set_primary("node-z")
    assert run(node, "run", "--primary", "echo no", "--", "echo", "application").stdout == "application\n"


@pytest.mark.parametrize(("words", "status"), [("exit 7", 7), ("kill -TERM $$", 143)])
def test_a_failing_command_ends_everything(node: SimulatedNode, run: Run, words: str, status: int) -> None:
    """With its own exit status, as a shell has it; the application is not started."""
    done = run(node, "run", "--primary", words, "--", "echo", "application")
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.endswith(f"litefs-watch: {words}: status {status}; the application is not started\n")


def test_it_waits_until_the_role_is_known(node: SimulatedNode, start: Start) -> None:
    """A replica that is not yet connected has no ``.primary``, as a primary has none: nothing is run for either."""
    node.lose_primary()
    with start(node, "run", "--primary", "echo primary", "--replica", "echo replica", "--", "echo", "x") as process:
        node.wait_for_streams(timeout=SOON)
        assert process.poll() is None
        node.set_primary("node-z")
        assert process.communicate(timeout=SOON)[0] == "replica\nx\n"


def test_it_times_out_with_124(node: SimulatedNode, run: Run) -> None:
    """And says why; also where LiteFS is not there at all."""
    node.lose_primary()
    done = run(node, "run", "--timeout", "0.05", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr == "litefs-watch: no primary was known within 0.05 s; this node's role is unknown\n"
    node.stop()
    done = run(node, "run", "--timeout", "0.05", "--", "echo", "x")
    assert done.returncode == 124
    assert f"no connection to {node.api_url}/events" in done.stderr


def test_the_process_is_the_application_s(node: SimulatedNode, start: Start) -> None:
    """Its process id, its signals, its exit status, its standard input; and no descriptor of ours."""
    program = "import os, signal, sys; print(os.getpid(), flush=True); print(*os.listdir('/proc/self/fd'), flush=True); "
    program += "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True); sys.stdin.read(); sys.exit(3)"
    arguments = ("run", "--", "python3", "-I", "-S", "-c", program)
    with start(node, *arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        assert process.stdout.readline() == "0 1 2 3\n"  # 3 is the listing's own
        assert process.stdout.readline() == "True\n"
        process.stdin.close()
        assert process.wait(SOON) == 3
    with start(node, *arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == -signal.SIGTERM
        process.stdin.close()


def test_what_python_ignores_is_not_ignored_by_the_application(node: SimulatedNode, run: Run) -> None:
    """SIGPIPE: ``yes | head`` ends, in every language."""
    done = run(node, "run", "--", "grep", "SigIgn", "/proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    assert not ignored & 1 << signal.SIGPIPE - 1


def test_no_such_command(node: SimulatedNode, run: Run, tmp_path: Path) -> None:
    """127 where it is not found, 126 where it can't be run, as a shell has it."""
    done = run(node, "run", "--", "no-such-command-anywhere")
    assert done.returncode == 127
    assert done.stderr.endswith("litefs-watch: no-such-command-anywhere: no such command\n")
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    done = run(node, "run", "--", str(tmp_path / "plain"))
    assert done.returncode == 126
    assert done.stderr.endswith("plain: Permission denied\n")
    assert run(node, "run", "--", str(tmp_path)).returncode == 126
    assert run(node, "run", "--", "").returncode in (1, 127)


def test_a_signal_reaches_the_command(node: SimulatedNode, start: Start) -> None:
    """A container that is stopped in the middle of its migration stops it, what its shell runs included."""
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(print('stopped'))); print('begun', flush=True); "
    program += "signal.pause()"
    words = f'python3 -I -S -c "{program}"; echo never'
    with start(node, "run", "--primary", words, "--", "echo", "never") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=SOON)[0] == "stopped\n"
        assert process.returncode == 143


def test_promote(node: SimulatedNode, start: Start) -> None:
    """LiteFS's answer says only that the lease was asked for: it waits until it is here."""
    node.set_primary("node-z")
    asked: list[None] = []
    node.on_promote = lambda: asked.append(None)
    with start(node, "run", "--promote", "--primary", "echo migrating", "--", "echo", "x") as process:
        assert process.stderr is not None
        for expected in ("instance", "region", "replica of node-z", "asking LiteFS to make this node the primary"):
            assert expected in process.stderr.readline()
        node.wait_for_streams(timeout=SOON)
        node.lose_primary()
        node.become_primary()
        out, err = process.communicate(timeout=SOON)
    assert (process.returncode, out) == (0, "migrating\nx\n")
    assert err.startswith("litefs-watch: primary: this node, node-a\n")
    assert len(asked) <= 1


def test_promote_where_it_is_here_already(node: SimulatedNode, run: Run) -> None:
    """Nothing is asked."""
    node.on_promote = lambda: pytest.fail("asked")
    assert run(node, "run", "--promote", "--", "echo", "x").stdout == "x\n"


def test_promote_refused(node: SimulatedNode, run: Run) -> None:
    """A node that is no candidate: status 1, with what LiteFS says."""
    node.set_primary("node-z")
    node.candidate = False
    done = run(node, "run", "--promote", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("litefs-watch: this node can't become the primary (lease.candidate in")
    assert "not eligible to become primary" in done.stderr


def test_promote_times_out(node: SimulatedNode, run: Run) -> None:
    """Asked for, and never handed over: 124."""
    node.set_primary("node-z")
    node.on_promote = lambda: None
    done = run(node, "run", "--promote", "--timeout", "0.3", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (124, "")
    assert (
        "this node did not become the primary in time; this node is a replica of node-z; LiteFS answered: 200" in done.stderr
    )


def test_promote_while_there_is_nobody_to_hand_over(node: SimulatedNode, start: Start) -> None:
    """Between two primaries LiteFS answers 500: it asks again."""
    node.set_primary("node-z")
    node.on_promote = node.lose_primary
    with start(node, "run", "--promote", "--", "echo", "x") as process:
        assert process.stderr is not None
        while "asking" not in process.stderr.readline():
            pass
        node.on_promote = None
        node.set_primary("node-y")
        node.become_primary()
        assert process.communicate(timeout=SOON)[0] == "x\n"


def test_halt_on_the_primary(node: SimulatedNode, run: Run) -> None:
    """There is nothing to hold."""
    done = run(node, "run", "--halt", "--primary", "echo migrating", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, "migrating\nx\n")
    assert "running on the primary: echo migrating" in done.stderr


def test_halt_where_there_can_be_none(node: SimulatedNode, run: Run) -> None:
    """An ordinary directory on a replica: status 1, and no command is run."""
    node.set_primary("node-z")
    done = run(node, "run", "--halt", "--primary", "echo migrating", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a mount of LiteFS" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["--halt", "--", "x"],
        ["--halt", "--primary", "x", "--replica", "y", "--", "z"],
        ["--halt", "--primary", "x", "--promote", "--", "z"],
        ["--promote", "--api-url", "none", "--", "z"],
        ["--timeout", "nan", "--", "z"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(node: SimulatedNode, run: Run, arguments: list[str]) -> None:
    """Status 2, and one line."""
    done = run(node, "run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_development_without_litefs(run: Run) -> None:
    """``LITEFS_STANDALONE``: the migrations run, and the application starts."""
    done = run(None, "run", "--promote", "--primary", "echo migrating", "--", "echo", "x", LITEFS_STANDALONE="1")
    assert (done.returncode, done.stdout) == (0, "migrating\nx\n")


# wait-ready


def test_a_primary_is_ready(node: SimulatedNode, run: Run) -> None:
    """At once, with and without a timeout."""
    for more in ([], ["--timeout", "5"]):
        done = run(node, "wait-ready", *more)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready: primary\n", "")
    done = run(node, "wait-ready", "--json")
    assert json.loads(done.stdout) == {
        "ready": True,
        "reason": None,
        "hostname": "node-a",
        "role": "primary",
        "primary": None,
        "lag": 0.0,
        "replicated": True,
    }


def test_a_replica_before_its_first_replication_is_not_ready(node: SimulatedNode, run: Run) -> None:
    """LiteFS's proxy calls it healthy; here it has nothing to serve."""
    node.set_primary("node-z")
    node.set_lag(2**31 - 1)
    done = run(node, "wait-ready")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "litefs-watch: not ready: the first replication is not done\n"
    done = run(node, "wait-ready", "--timeout", "0.05", "--json")
    assert done.returncode == 124
    assert json.loads(done.stdout)["ready"] is False
    assert done.stderr == "litefs-watch: not ready within 0.05 s: the first replication is not done\n"


def test_the_lag_has_a_limit(node: SimulatedNode, run: Run) -> None:
    """10 s, as LiteFS's proxy has it, or another."""
    node.set_primary("node-z")
    node.set_lag(10_001)
    done = run(node, "wait-ready")
    assert done.returncode == 1
    assert done.stderr == "litefs-watch: not ready: the lag is 10.001 s, over 10 s\n"
    assert run(node, "wait-ready", "--max-lag", "11").returncode == 0
    node.set_lag(10_000)
    assert run(node, "wait-ready").returncode == 0
    assert run(node, "wait-ready", "--max-lag", "0.5").returncode == 1


def test_a_litefs_that_does_not_tell_its_lag(run: Run) -> None:
    """Before 0.5: the role is what there is to go by."""
    with SimulatedNode(primary="node-z", lag_file=False) as node:
        assert run(node, "wait-ready").returncode == 0


def test_no_primary_is_not_ready(node: SimulatedNode, run: Run) -> None:
    """And where LiteFS is down, it says so."""
    node.lose_primary()
    done = run(node, "wait-ready")
    assert (done.returncode, done.stderr) == (1, "litefs-watch: not ready: no primary is known\n")
    node.stop()
    done = run(node, "wait-ready", "--timeout", "0")
    assert done.returncode == 124
    assert "no primary is known (no connection to" in done.stderr


def test_it_waits_until_it_is_ready(node: SimulatedNode, start: Start) -> None:
    """Each of the three has to come."""
    node.lose_primary()
    with start(node, "wait-ready", "--timeout", str(SOON)) as process:
        node.wait_for_streams(timeout=SOON)
        assert process.poll() is None
        node.set_primary("node-z")
        node.heartbeat()
        out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out, err) == (0, "ready: replica of node-z\n", "")
