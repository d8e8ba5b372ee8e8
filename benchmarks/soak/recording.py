"""What a run has shown: samples, and what is read out of them."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import table
from benchmarks.soak.flat import Limit, Trend, trend
from benchmarks.soak.machines import Usage

MIB = 2.0**20
LIMITS = (
    Limit("memory", growth=4 * MIB, bound=256 * MIB, unit="MiB", scale=MIB),
    Limit("descriptors", growth=10, bound=400),
    Limit("threads", growth=10, bound=200),
    Limit("tasks", growth=10, bound=200),
    Limit("waiters", growth=10, bound=100),
)
ANSWERED = 0.5
"""Of the requests, at least: where nothing works, nothing grows."""


@dataclass(frozen=True, kw_only=True)
class Sample(Usage):
    """Of one moment; latencies and requests are of the time since the sample before."""

    seconds: float
    """Since the start."""
    faults: int
    """That have taken place since the start."""
    requests: int
    median: float | None
    """Seconds; None where nothing was answered."""
    high: float | None
    """The 99th percentile."""


def percentile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


@dataclass
class Recording:
    what: str
    """What was measured, in words."""
    samples: list[Sample] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    """Of all requests, in seconds."""
    statuses: Mapping[int, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    at_rest: list[str] = field(default_factory=list)
    """What is wrong at the end, when the cluster is well again and nobody asks for anything."""

    @property
    def trends(self) -> list[Trend]:
        times = [sample.seconds for sample in self.samples]
        return [trend(limit, times, [getattr(sample, limit.name) for sample in self.samples]) for limit in LIMITS]

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def answered(self) -> float:
        """The share of requests that were answered with 200."""
        return self.statuses.get(200, 0) / max(1, self.requests)

    @property
    def failures(self) -> list[str]:
        """Why it is a failure; empty where all is well."""
        found = [each.fault for each in self.trends if each.fault] + self.at_rest
        if self.answered < ANSWERED:
            found.append(f"only {self.answered:.0%} of {self.requests:,} requests were answered with 200")
        return found

    def rows(self) -> list[list[str]]:
        """A table: what, after the warm-up, at the end, most, the trend, what is allowed."""
        return [
            [
                each.limit.name,
                each.limit.text(each.first),
                each.limit.text(each.last),
                each.limit.text(each.peak),
                f"{'+' if each.growth >= 0 else ''}{each.limit.text(each.growth)}",
                f"+{each.limit.text(each.allowed)}",
            ]
            for each in self.trends
        ]

    def text(self) -> str:
        """All of it, as it is printed."""
        head = ["", "after warm-up", "at the end", "most", "trend", "allowed"]
        return f"{table.text(self.what, head, self.rows())}\n\n{self.summary()}"

    def summary(self) -> str:
        last = self.samples[-1]
        middle, high = statistics.median(self.latencies), percentile(self.latencies, 0.99) or 0.0
        return (
            f"{self.requests:,} requests, {self.answered:.1%} answered with 200; median {middle * 1e3:.1f} ms, "
            f"99th {high * 1e3:.0f} ms\n"
            f"{last.faults:,} faults; {last.reconnects:,} reconnects of event streams, {last.timeouts:,} waits that ended "
            f"late, {last.restarts:,} restarts of sources"
        )

    def json(self) -> str:
        told: dict[str, Any] = {
            "what": self.what,
            "python": platform.python_version(),
            "machine": platform.platform(),
            "failures": self.failures,
            "text": self.text(),
            "trends": {
                each.limit.name: {"slope": each.slope, "growth": each.growth, "peak": each.peak} for each in self.trends
            },
            "statuses": dict(self.statuses),
            "faults": dict(self.faults),
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
        }
        return json.dumps(told, indent=1)
