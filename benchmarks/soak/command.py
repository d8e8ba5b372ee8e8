"""Clients write and read through the middlewares while faults happen; what the watchers' process uses must not grow.

The cluster is a simulated one, on FUSE mounts where they can be had, or with ``--litefs`` a real one from ``LITEFS_BIN``.
Ends with status 1 where memory, descriptors, threads, tasks or waiters are not flat after the warm-up, or where the cluster
is well again and a watcher is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.soak.flat import FEWEST
from benchmarks.soak.leaks import LEAKS
from benchmarks.soak.load import CALM, CLIENTS, Paced, TimedClient, load
from benchmarks.soak.machines import Machines, Order, machines
from benchmarks.soak.plot import draw
from benchmarks.soak.recording import Recording, Sample, percentile
from litefs_watch import Role
from litefs_watch.testing import fuse_available
from tests.chaos.app import TOUCH
from tests.chaos.driver import Driver
from tests.chaos.litefs import Real
from tests.chaos.runs import Run, Scene
from tests.chaos.simulated import Simulated

SAMPLES = 300
"""At most, in a run."""
OFTEN = 0.5
"""Seconds between two samples, at least."""
MANY = 10**12
"""Requests: as many as there is time for."""
OPTIONS = {"primary_paths": [TOUCH], "monotonic": True, "timeout": 0.25, "hold_writes": 1.0}
"""The middlewares'. A half and a fifth of what they wait by default, as these faults are shorter than a real fail-over."""
IN_PROCESS = ("lose_notifications", "drop_database")
"""Faults that need the watchers, or the application, in the faults' own process."""
WELL = 10.0
"""Seconds after which all watchers know a cluster that is well."""


class Calmer(Simulated):
    """With time between its faults."""

    def make_faults(self) -> Driver:
        driver = super().make_faults()
        driver.pause = CALM
        return driver


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="writes OUT.json and OUT.svg (default: soak)")
    parser.add_argument("--litefs", action="store_true", help="three real nodes, from the binary that LITEFS_BIN names")
    parser.add_argument("--leak", choices=LEAKS, action="append", help="leak this with each read, to see that it is found")
    chosen = parser.parse_args(arguments)
    recording = soak(chosen.minutes * 60, litefs=chosen.litefs, leaks=chosen.leak or ())
    failures = recording.failures
    print("\n" + recording.text())
    chosen.out.with_suffix(".json").write_text(recording.json())
    chosen.out.with_suffix(".svg").write_text(draw(recording))
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


def soak(seconds: float, *, litefs: bool = False, leaks: Collection[str] = ()) -> Recording:
    """Run it for so long. Raises `RuntimeError` where the machines die or hang."""
    record = Paced()
    with ExitStack() as stack:
        cluster, scene = _litefs(stack, record, seconds) if litefs else _simulated(record)
        stack.enter_context(scene)
        settings = {hostname: machine.settings for hostname, machine in scene.machines.items()}
        served = stack.enter_context(machines(Order(settings, OPTIONS, leaks)))
        for hostname, machine in scene.machines.items():
            machine.role = partial(served.role, hostname)
        recording = Recording(f"{seconds / 60:g} minutes of load and faults: {cluster}")
        with scene.faults(), load(scene.conversations(), served, record):
            _sample(recording, seconds, scene, served, record)
        recording.statuses, recording.faults = dict(record.statuses), dict(scene.driver.done)
        scene.heal()
        recording.at_rest = _at_rest(served)
    return recording


def _simulated(record: Paced) -> tuple[str, Scene]:
    reason = fuse_available()
    run = Run(MANY, clients=CLIENTS, client=TimedClient, fuse=reason is None, left_out=IN_PROCESS, record=record)
    return f"three simulated nodes, {'ordinary directories' if reason else 'FUSE'}", Calmer(run)


def _litefs(stack: ExitStack, record: Paced, seconds: float) -> tuple[str, Scene]:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    run = Run(MANY, clients=CLIENTS, client=TimedClient, journal="delete", record=record)
    return "three real LiteFS nodes", Real(run, directory, size=3, seconds=seconds)


def _sample(recording: Recording, seconds: float, scene: Scene, served: Machines, record: Paced) -> None:
    began = time.monotonic()
    every = max(OFTEN, seconds / SAMPLES)
    while (now := time.monotonic() - began) < seconds or len(recording.samples) < FEWEST:  # where it is slow
        time.sleep(every - now % every)
        latencies = record.take_latencies()
        recording.latencies += latencies
        recording.samples.append(
            Sample(
                seconds=time.monotonic() - began,
                **dataclasses.asdict(served.usage()),
                faults=scene.driver.done.total(),
                requests=len(latencies),
                median=statistics.median(latencies) if latencies else None,
                high=percentile(latencies, 0.99),
            )
        )


def _at_rest(served: Machines) -> list[str]:
    """What is wrong though the cluster is well."""
    deadline = time.monotonic() + WELL
    while (wrong := _wrong(served)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return wrong


def _wrong(served: Machines) -> list[str]:
    known = served.known()
    wrong = [f"at rest, the {each.watcher} knows no role" for each in known if each.role is Role.UNKNOWN]
    if len({each.position for each in known}) > 1:
        wrong.append("at rest, the watchers are not at one position")
    if waiters := served.usage().waiters:
        wrong.append(f"at rest, {waiters} calls still wait for a transaction or a role")
    return wrong
