"""``litefs-watch while-primary``: a process for as long as this node is the primary."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from litefs_watch.cli.while_primary import CommandFailedError, Runner
from litefs_watch.testing import SimulatedNode

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]

TIDY = "trap 'echo tidied up; exit 0' TERM; echo runs; sleep 30 & wait"
STUBBORN = "trap '' TERM; echo runs; while :; do sleep 30; done"


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stats() -> Iterator[list[str]]:
    """Of each process: its state, its parent, its group."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            yield file.read_text().rpartition(")")[2].split()[:3]


def test_it_follows_the_role(node: SimulatedNode, start: Start) -> None:
    """Started on the primary, told to end on a replica, started again; and a signal ends both."""
    with start(node, "while-primary", "--", "sh", "-c", TIDY) as process:
        assert line(process) == "runs"
        node.set_primary("node-b")
        assert line(process) == "tidied up"
        node.become_primary()
        assert line(process) == "runs"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "tidied up"
        assert process.wait() == 143
        assert process.stderr is not None
        assert process.stderr.read().splitlines() == 2 * [
            "litefs-watch: this node is the primary: started sh",
            "litefs-watch: ended sh",
        ]


def test_who_will_not_end_is_killed(node: SimulatedNode, start: Start) -> None:
    """After the grace, with all that it has started."""
    with start(node, "while-primary", "--json", "--grace", "0.1", "sh", "-c", STUBBORN) as process:
        told = {line(process), line(process)} - {"runs"}
        leader = json.loads(told.pop())["pid"]
        node.lose_primary()
        assert json.loads(line(process)) == {"type": "end", "status": -9}
        assert not [each for each in stats() if int(each[2]) == leader and each[0] not in "ZX"]


def test_one_that_fails_is_started_again(node: SimulatedNode, start: Start, tmp_path: Path) -> None:
    """After a pause, with one line for each; one that ends well is not, while this node stays the primary."""
    script = f"echo x >> {tmp_path}/count; test $(wc -l < {tmp_path}/count) -gt 1 || exit 3"
    with start(node, "while-primary", "--json", "--", "sh", "-c", script) as process:
        events = [json.loads(line(process)) for _ in range(4)]
        assert [event.get("status", event["type"]) for event in events] == ["start", 3, "start", 0]
        node.lose_primary()
        node.become_primary()
        assert json.loads(line(process))["type"] == "start"
        assert json.loads(line(process)) == {"type": "exit", "status": 0}
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr is not None
        (told,) = process.stderr.read().splitlines()
        assert told.endswith("ERROR sh failed; it is run again in 0.5 s, if this node still is the primary")


def test_signals_that_are_for_it_reach_it(node: SimulatedNode, start: Start) -> None:
    """SIGUSR1 and the like; where it does not run, they do nothing."""
    script = "trap 'echo told; exit 0' USR1; echo runs; sleep 30 & wait"
    with start(node, "while-primary", "--", "sh", "-c", script) as process:
        assert line(process) == "runs"
        process.send_signal(signal.SIGUSR1)
        assert line(process) == "told"
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


def test_not_on_a_replica(start: Start) -> None:
    """It waits, whatever the signal is that ends it."""
    with SimulatedNode(primary="node-b") as node, start(node, "while-primary", "-v", "--", "echo", "no") as process:
        assert process.stderr is not None
        while "replica" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 129
        assert line(process) == ""


@pytest.mark.parametrize(("words", "status"), [(["no-such-command"], 127), (["/etc/passwd"], 126), ([], 2)])
def test_what_can_not_be_run(node: SimulatedNode, run: Run, words: list[str], status: int) -> None:
    """As a shell has it; nobody waits for a role first."""
    done = run(node, "while-primary", "--", *words)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)


def in_a_namespace() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root"
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "no PID namespace can be had"


@pytest.mark.skipif(in_a_namespace() is not None, reason=in_a_namespace() or "")
def test_as_a_containers_first_process(node: SimulatedNode, start: Start) -> None:
    """Orphans are buried, its own child is waited for, and SIGTERM ends it."""
    orphans = "(sleep 0.01 & sleep 0.01 &) ; while ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q sleep; do :; done"
    count = "cat /proc/[0-9]*/stat | grep -c ' Z 1 ' || true"
    script = f"{orphans}; until [ $({count}) = 0 ]; do sleep 0.01; done; echo buried; sleep 30"
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with start(node, "while-primary", "--", "sh", "-c", script, inherited=unshare) as process:
        assert line(process) == "buried"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGTERM)
        assert process.wait() == 143


def test_a_signal_that_comes_while_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reaches it as soon as it is there."""
    runner = Runner(("sleep", "30"), 0.1, as_json=True)
    real = anyio.open_process

    async def slow(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return await real(*arguments, **options)

    monkeypatch.setattr(anyio, "open_process", slow)
    with runner.passing_on(), pytest.raises(CommandFailedError, match=f"status {128 + signal.SIGUSR1}"):
        anyio.run(runner)


def test_a_signal_for_one_that_could_not_be_started_is_not_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is being started any more: until the next try it means nothing, and orphans are buried again."""
    runner = Runner(("true",), 0.1, as_json=True)

    async def fail(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        raise OSError(errno.ENOMEM, "no memory")

    with runner.passing_on():
        with monkeypatch.context() as patch:
            patch.setattr(anyio, "open_process", fail)
            with pytest.raises(OSError, match="no memory"):
                anyio.run(runner)
        assert runner._own is None
        os.kill(os.getpid(), signal.SIGUSR1)
        anyio.run(runner)
