"""What the benchmarks write."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import table
from benchmarks.plot import duration, percentile, spread

TIMES = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=30)


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=20)


@given(samples=st.dictionaries(NAMES, TIMES, min_size=1))
def test_whatever_was_measured_is_a_picture(samples: dict[str, list[float]]) -> None:
    """Well-formed, with each name, and nothing outside of it."""
    root = ET.fromstring(spread("title", samples))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(samples) <= set(texts)
    dots = [float(element.attrib["cx"]) for element in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == len(samples)
    assert all(300 <= dot <= 820 for dot in dots)


def test_a_picture_is_small() -> None:
    """Of any number of samples, however far apart."""
    chance = random.Random(1)
    samples = {f"way number {way}": [10 ** chance.uniform(-6, 1) for _ in range(5000)] for way in range(7)}
    assert len(spread("title", samples)) < 30_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.3, "12 s"), (0.35, "350 ms"), (0.00099996, "1 ms"), (1e-6, "1 us"), (1e-7, "100 ns"), (3.2e-10, "0.32 ns")],
)
def test_a_duration(seconds: float, text: str) -> None:
    """In the unit that has few digits before the point."""
    assert duration(seconds) == text


def test_percentiles() -> None:
    """Of what was measured, nothing in between."""
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.9, 1.0)] == [1.0, 3.0, 4.0, 4.0]


def test_what_is_shown_can_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, and as one picture for each table that has times; the next benchmark begins with nothing."""
    table.show("Times", ["way", "median"], [["a", "1.00 ms"]], {"a": [0.001]})
    table.show("Counts", ["way", "count"], [["a", "3"]])
    assert "1.00 ms" in capsys.readouterr().out
    table.write(tmp_path, "some")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.json", "some.svg"]
    kept = json.loads((tmp_path / "some.json").read_text())
    assert [each["title"] for each in kept] == ["Times", "Counts"]
    assert kept[0]["samples"] == {"a": [0.001]}
    assert table.shown == []
