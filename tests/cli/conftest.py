"""The command as a shell runs it: real processes, real exit statuses, pipes and signals."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from litefs_watch.testing import SimulatedNode
from tests.environment import clean_environment, environment_of

COMMAND = [sys.executable, "-W", "error", "-m", "litefs_watch"]
SOON = 30.0
"""Seconds after which a process that should have said something, or ended, is killed, which fails the test."""

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def environment(node: SimulatedNode | None, more: dict[str, str]) -> dict[str, str]:
    return clean_environment() | (environment_of(node) if node is not None else {}) | more


@pytest.fixture
def run() -> Run:
    """``run(node, "status", "--json", NAME="value")``: the finished process. Never with a traceback."""

    def run(node: SimulatedNode | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment(node, more), capture_output=True, text=True, timeout=SOON, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def start() -> Start:
    """``with start(node, "watch") as process``: while it runs. Killed when it takes too long, or at the end.

    ``inherited`` are the words of a command that runs it.
    """

    @contextmanager
    def start(
        node: SimulatedNode | None,
        *arguments: str,
        env: dict[str, str] | None = None,
        inherited: Sequence[str] = (),
        **popen: Any,
    ) -> Iterator[subprocess.Popen[str]]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*inherited, *COMMAND, *arguments], env=environment(node, env or {}), text=True, **(pipes | popen)
        )
        watchdog = threading.Timer(SOON, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    return start
