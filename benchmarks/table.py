"""Print what was measured, and keep it for who asks for files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.plot import spread


class Shown(NamedTuple):
    """One table, and the seconds behind it, by name, where it is about such."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    samples: Mapping[str, Sequence[float]]


shown: list[Shown] = []
"""All tables of this run."""


def write(directory: Path, name: str) -> None:
    """What has been shown: as JSON, and where there are times, as SVG. Forgets it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps([each._asdict() for each in shown], indent=1) + "\n")
    drawn = [each for each in shown if each.samples]
    for number, each in enumerate(drawn, 1):
        file = f"{name}-{number}.svg" if len(drawn) > 1 else f"{name}.svg"
        (directory / file).write_text(spread(each.title, each.samples))
    shown.clear()


def show(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], samples: Mapping[str, Sequence[float]] | None = None
) -> None:
    shown.append(Shown(title, head, rows, samples or {}))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    print(f"\n{title}\n")
    for index, row in enumerate((head, *rows)):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Median, 90th percentile and maximum."""
    ordered = sorted(seconds)
    return [f"{value * 1e3:.2f} ms" for value in (statistics.median(ordered), ordered[int(len(ordered) * 0.9)], ordered[-1])]
