"""Which processes hold HALT locks, and applications that want them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.halt import launch
from tests.environment import clean_environment

SOON = 30.0  # seconds


def recorded_holders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of those that are started from now on."""
    started: list[int] = []
    spawn = launch._spawn

    def recording(*arguments: Any) -> subprocess.Popen[bytes]:
        process = spawn(*arguments)
        started.append(process.pid)
        return process

    monkeypatch.setattr(launch, "_spawn", recording)
    return started


@contextmanager
def application(program: str, *arguments: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``program``. It and what it has forked can see the end of the test: stdin ends then.

    Killed where it takes too long, which the test sees as the end of its output.
    """
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        text=True,
    )
    watchdog = threading.Timer(SOON, process.kill)
    watchdog.start()
    with process:
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def says(process: subprocess.Popen[str], line: str) -> None:
    """The next line of its output must be that."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"
