"""What importing costs: processor time in new interpreters, beside the libraries that the package needs."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.table import show

ROUNDS = 5
STATEMENTS = (
    "import asyncio",
    "import anyio, pydantic; pydantic.BaseModel",
    "import litefs_watch",
    "import litefs_watch.pytest_plugin, pytest",
    "import pytest",
    "from litefs_watch import Role",
    "from litefs_watch import Settings",
    "from litefs_watch import Watcher, Settings",
)


def imported(statement: str) -> float:
    """Milliseconds."""
    program = f"import time; began = time.process_time(); {statement}; print(time.process_time() - began)"
    return float(subprocess.check_output([sys.executable, "-c", program])) * 1e3


def main() -> None:
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(ROUNDS):  # in turn: a noisy neighbour disturbs all of them
        for statement, figures in times.items():
            figures.append(imported(statement))
    rows = [[statement, f"{statistics.median(figures):.0f} ms"] for statement, figures in times.items()]
    show(f"Importing, processor time (median of {ROUNDS} rounds, in turn)", ["", "median"], rows)
