"""What carries the messages, and worker processes on a node of a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litefs_watch.testing import SimulatedNode
from tests.environment import clean_environment, environment_of

ROOT = Path(__file__).parents[2]
SOON = 30.0
"""Seconds in which anything happens, on a busy machine; most of it is the start of a worker."""


def has_redis() -> bool:
    return shutil.which("redis-server") is not None


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own, on loopback, that writes nothing to disk. Gives its address; skips where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on PATH")
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as log:
        port = free_port()
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", home]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: connects(port))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_until(true: object, seconds: float = SOON) -> None:
    """Of another process: what it does can only be looked for. Raises `TimeoutError`."""
    assert callable(true)
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.005)


class Results:
    """What the tasks of worker processes have to say, one line each, in the order in which they came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def wait_for(self, *lines: str) -> None:
        """Until all of them are there. Raises `TimeoutError`."""
        wait_until(lambda: set(lines) <= set(self.lines))


@contextmanager
def worker(command: list[str], node: SimulatedNode, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on that node, in its own process group; what it logs is shown where the test fails."""
    env = clean_environment() | {"PYTHONPATH": str(ROOT)} | environment_of(node) | environment
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
