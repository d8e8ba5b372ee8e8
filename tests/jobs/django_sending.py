"""A process that enqueues Django's tasks on a node of a cluster, and the command of their worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from litefs_watch.testing import SimulatedNode
from tests.environment import clean_environment, environment_of
from tests.jobs.brokers import ROOT

SETTINGS = "tests.jobs.django_settings"
COMMAND = ["django", "db_worker", "--settings", SETTINGS, "--interval", "0.01", "--no-startup-delay"]


class Sender:
    """A process of the project that enqueues what it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, way: str, name: str, *arguments: object, **keywords: object) -> str:
        """What became of it: the class of its error, or its status."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([way, name, arguments, keywords]) + "\n")
        self._process.stdin.flush()
        return self.line()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def sender(node: SimulatedNode, **environment: str) -> Iterator[Sender]:
    env = (
        clean_environment()
        | {"PYTHONPATH": str(ROOT)}
        | environment_of(node)
        | {"DJANGO_SETTINGS_MODULE": SETTINGS}
        | environment
    )
    command = [sys.executable, "-m", "tests.jobs.django_sender"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        made = Sender(process)
        assert made.line() == "ready"
        yield made
