"""Print what was measured, and keep it for who asks for files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
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
    for file, each in drawings(name, shown):
        (directory / file).write_text(spread(each.title, each.samples))
    shown.clear()


def read(file: Path) -> list[Shown]:
    """What `write` has kept."""
    return [Shown(**each) for each in json.loads(file.read_text())]


def drawings(name: str, tables: Sequence[Shown]) -> Iterator[tuple[str, Shown]]:
    """Those that have times, and the names of their pictures."""
    drawn = [each for each in tables if each.samples]
    for number, each in enumerate(drawn, 1):
        yield f"{name}-{number}.svg" if len(drawn) > 1 else f"{name}.svg", each


def show(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], samples: Mapping[str, Sequence[float]] | None = None
) -> None:
    shown.append(Shown(title, head, rows, samples or {}))
    print("\n" + text(title, head, rows))


def text(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as it is printed, and as it stands in the documents."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [title, ""]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Median, 90th percentile and maximum."""
    ordered = sorted(seconds)
    return [f"{value * 1e3:.2f} ms" for value in (statistics.median(ordered), ordered[int(len(ordered) * 0.9)], ordered[-1])]
