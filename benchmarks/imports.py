"""What importing costs: processor time in new interpreters, beside the libraries that the package needs."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.table import show

ROUNDS = 9
# The least that a package with pydantic's models can cost: a class with one field brings what an empty one does not.
MODEL = """
import anyio
from pydantic import BaseModel, ConfigDict
class Model(BaseModel):
    model_config = ConfigDict(defer_build=True)
    field: int = 1
"""
BASELINE = "import anyio, pydantic; pydantic.BaseModel"
WAYS = {
    BASELINE: BASELINE,
    "the same, and a model with one field": MODEL,
    "import asyncio": "import asyncio",
    "import litefs_watch": "import litefs_watch",
    "from litefs_watch import Position": "from litefs_watch import Position",
    "from litefs_watch import Settings": "from litefs_watch import Settings",
    "from litefs_watch import Watcher, Settings": "from litefs_watch import Watcher, Settings",
    "import pytest": "import pytest",
    "import pytest, litefs_watch.pytest_plugin": "import pytest, litefs_watch.pytest_plugin",
}


def imported(statement: str) -> float:
    """Milliseconds."""
    program = f"import time\nbegan = time.process_time()\n{statement}\nprint(time.process_time() - began)"
    return float(subprocess.check_output([sys.executable, "-c", program])) * 1e3


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):  # in turn: a noisy neighbour disturbs all of them
        for name, statement in WAYS.items():
            times[name].append(imported(statement))
    rows = []
    for name, figures in times.items():
        ratio = statistics.median(a / b for a, b in zip(figures, times[BASELINE], strict=True))
        rows.append([name, f"{statistics.median(figures):.0f} ms", f"{ratio:.2f}"])
    head = ["", "median", "of the libraries"]
    show(f"Importing, processor time (median of {ROUNDS} rounds, in turn)", head, rows)
