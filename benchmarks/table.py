"""Print what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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
