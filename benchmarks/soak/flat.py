"""Whether what was sampled is flat after the warm-up: a trend that no outlier bends, and a bound for all that it may hide.

The trend is the Theil-Sen estimate: the median of the slopes between all pairs of samples. It ignores up to 29 % of wild
samples, such as those from a fault that holds threads for a while. What grows in one step, or only at the end, is for the
second test: the floor of the last fifth beside that of the first. What is held for good lifts it, what a fault holds for a
while does not. Neither counts where chance gives as much: in a short run the faults that happen to be under way differ from
its start to its end.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

WARM_UP = 0.25
"""Of the run: pools fill, caches reach their bounds, modules are imported."""
FIFTH = 5
CHANCE = 4.0
"""Standard errors of the trend that count as chance: samples close to each other are alike, so that two are too few."""


@dataclass(frozen=True)
class Limit:
    """What a series may do after the warm-up."""

    name: str
    growth: float
    """From the first sample to the last, by its trend, and more where that is chance."""
    bound: float
    """No sample is above."""
    unit: str = ""
    scale: float = 1.0
    """Of the unit, in what was sampled."""

    def text(self, value: float) -> str:
        return f"{value / self.scale:,.1f} {self.unit}" if self.unit else f"{value:,.0f}"


@dataclass(frozen=True)
class Trend:
    """What a series did after the warm-up."""

    limit: Limit
    first: float
    """The median of the first fifth."""
    last: float
    rise: float
    """From the lower quartile of the first fifth to that of the last."""
    peak: float
    slope: float
    """By the second."""
    seconds: float
    chance: float
    """What growth may be without any trend, by how the samples are scattered about it."""

    @property
    def growth(self) -> float:
        """Over the whole time, by the slope."""
        return self.slope * self.seconds

    @property
    def allowed(self) -> float:
        return max(self.limit.growth, self.chance)

    @property
    def fault(self) -> str | None:
        """What is not flat; None where it is."""
        limit, text = self.limit, self.limit.text
        if self.growth > self.allowed:
            return (
                f"{limit.name} grew by {text(self.growth)} in {self.seconds / 60:.1f} minutes, "
                f"{text(self.slope * 3600)} an hour; allowed: {text(self.allowed)}"
            )
        if self.rise > self.allowed:
            return f"{limit.name} did not fall back: the floor rose by {text(self.rise)}; allowed: {text(self.allowed)}"
        if self.peak > limit.bound:
            return f"{limit.name} reached {text(self.peak)}; allowed: {text(limit.bound)}"
        return None


FEWEST = 20
"""Samples in which a trend shows."""


def after_warm_up(times: Sequence[float]) -> int:
    """The index of the first sample after it. ``times`` grow."""
    start = times[0] + WARM_UP * (times[-1] - times[0])
    return next(index for index, time in enumerate(times) if time >= start)


def trend(limit: Limit, times: Sequence[float], values: Sequence[float]) -> Trend:
    """What ``values`` did, sampled at ``times`` (seconds). Raises `ValueError` for fewer than 20 samples."""
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} samples show no trend: let it run longer")
    start = after_warm_up(times)
    times, values = times[start:], values[start:]
    slopes = [(b - a) / (u - t) for (t, a), (u, b) in combinations(zip(times, values, strict=True), 2)]
    slope = statistics.median(slopes)
    levels = [value - slope * time for time, value in zip(times, values, strict=True)]
    middle = statistics.median(levels)
    spread = 1.4826 * statistics.median(abs(level - middle) for level in levels)  # a standard deviation, without outliers
    first, last = values[: len(values) // FIFTH], values[-(len(values) // FIFTH) :]
    return Trend(
        limit=limit,
        first=statistics.median(first),
        last=statistics.median(last),
        rise=statistics.quantiles(last)[0] - statistics.quantiles(first)[0],
        peak=max(values),
        slope=slope,
        seconds=times[-1] - times[0],
        chance=CHANCE * spread * math.sqrt(12 / len(values)),  # as for a least-squares line through even samples
    )
