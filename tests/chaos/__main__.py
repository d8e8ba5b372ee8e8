"""``python -m tests.chaos``: puts the guarantees to the test and prints the proof, as Markdown.

On the simulated cluster, through both middlewares; with ``LITEFS_BIN`` also on real LiteFS. ``--write`` puts it into
docs/guarantees.md. Ends with status 1 where a guarantee was broken.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from os import environ
from pathlib import Path

import anyio

from tests.chaos.client import Forgetful
from tests.chaos.litefs import Real
from tests.chaos.proof import Row, table, written
from tests.chaos.runs import Outcome, Run, Scene, run_asgi, run_wsgi
from tests.chaos.simulated import Simulated
from tests.contract.real import reason_against_real

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
REQUESTS = 3360
"""Of each run on the simulated cluster."""
MANY = 10**9
"""Requests: as many as there is time for."""

Way = Callable[[Scene], Outcome]


def on(backend: str) -> Way:
    return lambda scene: anyio.run(run_asgi, scene, backend=backend)


WAYS: dict[str, Way] = {"ASGI, asyncio": on("asyncio"), "ASGI, trio": on("trio"), "WSGI, threads": run_wsgi}
CONTROL = "ASGI, asyncio"


@dataclass(frozen=True)
class Plan:
    """A row on the simulated cluster, and how each of its runs is made."""

    name: str
    way: Way
    run: Callable[..., Run]
    control: bool = False


SIMULATED = [
    *(Plan(f"simulated, {name}", way, partial(Run, REQUESTS)) for name, way in WAYS.items()),
    *(
        Plan(f"simulated, {name}, without `monotonic`", way, partial(Run, REQUESTS, monotonic=False))
        for name, way in WAYS.items()
    ),
    Plan(f"simulated, {CONTROL}, clients without tokens", WAYS[CONTROL], partial(Run, REQUESTS, client=Forgetful), True),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help=f"of {REQUESTS:,} requests each, for each row (default: 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run on real LiteFS (default: 60)")
    parser.add_argument("--seed", default=f"{random.getrandbits(32):08x}", help="has the same requests and faults again")
    parser.add_argument("--write", action="store_true", help="put the proof into docs/guarantees.md")
    chosen = parser.parse_args()
    logging.getLogger("litefs_watch").setLevel(logging.ERROR)  # what the faults break is no news; failures still show
    real = reason_against_real()
    rows = [on_simulated(plan, chosen.seed, chosen.runs) for plan in SIMULATED]
    if real is None:
        rows += on_litefs(chosen.seed, chosen.seconds)
    options = f"--seed {chosen.seed} --runs {chosen.runs}" + (f" --seconds {chosen.seconds:g}" if real is None else "")
    proof = f"{table(rows)}\n\n`python -m tests.chaos {options}`, Python {platform.python_version()}{litefs(real)}."
    print(proof)  # noqa: T201 - what it is for
    if chosen.write:
        PAGE.write_text(written(PAGE.read_text(), proof))
    return 1 if any(row.failed for row in rows) else 0


def on_simulated(plan: Plan, seed: str, runs: int) -> Row:
    row = Row(plan.name, plan.control)
    for number in range(runs):
        tell(outcome := plan.way(Simulated(plan.run(seed=f"{seed}-{number}"))), row)
        row.add(outcome)
    return row


def on_litefs(seed: str, seconds: float) -> Iterator[Row]:
    for name, way, size in (("three nodes, ASGI, asyncio", WAYS["ASGI, asyncio"], 3), ("two nodes, WSGI", run_wsgi, 2)):
        row = Row(f"LiteFS, {name}")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            run = Run(MANY, seed=seed, journal="delete", clients=16)
            tell(outcome := way(Real(run, Path(directory), size=size, seconds=seconds)), row)
        row.add(outcome)
        yield row


def tell(outcome: Outcome, row: Row) -> None:
    print(f"{row.name}\n{outcome}\n", file=sys.stderr)  # noqa: T201


def litefs(reason: str | None) -> str:
    """Which LiteFS it was, for the end of a sentence."""
    if reason is not None:
        return ""
    version = subprocess.run([environ["LITEFS_BIN"], "version"], capture_output=True, text=True, check=False).stdout
    return f", {version.strip() or 'LiteFS'}"


if __name__ == "__main__":
    sys.exit(main())
