"""What grows is found, and what does not is let be: on series that are made up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from benchmarks.soak.flat import Limit, Trend, trend

MIB = 2.0**20
MEMORY = Limit("memory", growth=4 * MIB, bound=256 * MIB, unit="MiB", scale=MIB)
THREADS = Limit("threads", growth=4, bound=200)
TIMES = [2.0 * number for number in range(1, 301)]
"""Ten minutes."""
seeds = pytest.mark.parametrize("seed", range(8))


def memory(seed: int, leak: Callable[[float], float] = lambda time: 0.0) -> Trend:
    """60 MiB that go up and down by some 2 MiB, and fill a cache in the first minute; and ``leak`` bytes by the second."""
    chance = random.Random(seed)
    noise = [chance.gauss(0, 0.7) + (number * 37 % 11) / 5 for number in range(len(TIMES))]
    values = [(60 + each + min(time / 6, 10)) * MIB + leak(time) for each, time in zip(noise, TIMES, strict=True)]
    return trend(MEMORY, TIMES, values)


@seeds
def test_what_is_flat_is_let_be(seed: int) -> None:
    """Though it goes up and down, and has grown while it was warming up."""
    assert memory(seed).fault is None


@seeds
def test_a_leak_is_found(seed: int) -> None:
    """Of 12 KB a second: with 100 requests a second, 120 bytes in each. It is told how much that is."""
    found = memory(seed, lambda time: 12_000 * time)
    assert found.growth == pytest.approx(12_000 * 450, rel=0.2)
    assert found.fault is not None
    assert found.fault.startswith("memory grew by ")


@seeds
def test_a_leak_is_found_in_a_saw(seed: int) -> None:
    """One descriptor in twenty seconds, among faults that hold up to twelve of them for some seconds."""
    chance = random.Random(seed)
    held = [chance.choice((0, 0, 0, 3, 12)) for _ in range(60)]
    flat = [40 + held[number // 5] for number in range(len(TIMES))]
    assert trend(THREADS, TIMES, flat).fault is None
    assert trend(THREADS, TIMES, [value + time // 20 for value, time in zip(flat, TIMES, strict=True)]).fault is not None


@seeds
def test_chance_is_no_trend(seed: int) -> None:
    """A few samples that differ much may rise from the first to the last by more than what is allowed."""
    chance = random.Random(seed)
    found = trend(THREADS, TIMES[:40], [chance.gauss(40, 12) for _ in range(40)])
    assert found.fault is None
    assert found.allowed > THREADS.growth


def test_a_step_late_in_the_run_is_found() -> None:
    """The slopes don't see it: most pairs of samples are from the time before."""
    found = trend(THREADS, TIMES, [40.0] * 240 + [60.0] * 60)
    assert found.growth == 0
    assert found.fault == "threads did not fall back: the floor rose by 20; allowed: 4"


def test_one_wild_sample_bends_no_trend() -> None:
    """But it may not be above the bound."""
    wild = [40.0] * 299 + [190.0]
    assert trend(THREADS, TIMES, wild).fault is None
    assert trend(THREADS, TIMES, [*wild[:-1], 240.0]).fault == "threads reached 240; allowed: 200"


def test_what_happens_in_the_warm_up_does_not_count() -> None:
    """A quarter of the run."""
    assert trend(THREADS, TIMES, [500.0] * 70 + [40.0] * 230).fault is None


def test_a_few_samples_show_no_trend() -> None:
    """Which is said, and is not taken for flat."""
    with pytest.raises(ValueError, match="let it run longer"):
        trend(THREADS, TIMES[:19], [40.0] * 19)
