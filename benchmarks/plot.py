"""Times as SVG: of each name the median, the 90th and the 99th percentile, on one logarithmic axis; and behind them how many
there were of each length, so that the noise is seen. Readable on a light and on a dark page, and small."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 300, 40, 64, 38
BIN, HALF = 3, 11
"""Pixels: how wide a bar of the noise is, and how far the highest goes up and down."""
STYLE = """\
svg { background: #ffffff; font: 13px system-ui, sans-serif }
text { fill: #333333 } .title { font-size: 15px; font-weight: 600 } .tick { fill: #666666 }
.grid { stroke: #e4e4e4 } .noise { fill: #0067a8; fill-opacity: .25 } .line { stroke: #0067a8; stroke-width: 3 }
.median { fill: #0067a8 } .high { stroke: #0067a8; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
svg { background: #16181d } text { fill: #d8d8d8 } .tick { fill: #a0a0a0 } .grid { stroke: #30343c }
.line, .high { stroke: #5db4ea } .median, .noise { fill: #5db4ea }
}"""


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(title: str, samples: Mapping[str, Sequence[float]]) -> str:
    """``samples``: seconds, by name. All must be more than zero."""
    every = [value for values in samples.values() for value in values]
    low, high = 10 ** math.floor(math.log10(min(every))), 10 ** math.ceil(math.log10(max(every) * 1.001))

    def at(value: float) -> float:
        share = (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    bottom = TOP + ROW * len(samples)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 44}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = at(10.0**power)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 14}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{duration(10.0**power)}</text>')
    parts.append(
        f'<text class="tick" x="16" y="{bottom + 36}">dot: median; bar: 90th; end: 99th percentile; behind: all</text>'
    )
    for number, (name, values) in enumerate(samples.items()):
        parts += _row(name, sorted(values), TOP + ROW * number + ROW // 2 - 8, at)
    return "\n".join([*parts, "</svg>\n"])


def _row(name: str, ordered: Sequence[float], y: int, at: Callable[[float], float]) -> list[str]:
    median, last = statistics.median(ordered), percentile(ordered, 0.99)
    x, ninety = at(median), at(percentile(ordered, 0.9))
    return [
        f'<text x="{LEFT - 16}" y="{y + 4}" text-anchor="end">{escape(name)}</text>',
        f'<path class="noise" d="{_noise([at(value) for value in ordered], y)}"/>',
        f'<line class="line" x1="{x}" x2="{at(last)}" y1="{y}" y2="{y}"/>',
        f'<line class="high" x1="{ninety}" x2="{ninety}" y1="{y - 7}" y2="{y + 7}"/>',
        f'<circle class="median" cx="{x}" cy="{y}" r="6"/>',
        f'<text class="tick" x="{x}" y="{y - 10}" text-anchor="middle">{duration(median)}</text>',
    ]


def _noise(places: Sequence[float], y: int) -> str:
    """A bar for each `BIN` in which there are any: by the root of how many, or one would not be seen beside a thousand."""
    counts = Counter(int(place) // BIN for place in places)
    most = max(counts.values())
    bars = []
    for each, count in sorted(counts.items()):
        half = max(round(HALF * math.sqrt(count / most)), 1)
        bars.append(f"M{each * BIN} {y - half}h{BIN}v{2 * half}h-{BIN}")
    return "".join(bars)


def duration(seconds: float) -> str:
    """To two digits."""
    units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
    scale, unit = next((each for each in units if seconds >= each[0] * 0.9995), units[-1])
    return f"{float(f'{seconds / scale:.2g}'):g} {unit}"
