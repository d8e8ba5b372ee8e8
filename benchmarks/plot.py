"""Times as SVG: of each name the median, the 90th and the 99th percentile, on one logarithmic axis; and each one, as a faint
stroke, so that the noise is seen. Readable on a light and on a dark page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 300, 40, 64, 38
STYLE = """\
svg { background: #ffffff; font: 13px system-ui, sans-serif }
text { fill: #333333 } .title { font-size: 15px; font-weight: 600 } .tick { fill: #666666 }
.grid { stroke: #e4e4e4 } .one { stroke: #0067a8; stroke-opacity: .18 } .line { stroke: #0067a8; stroke-width: 3 }
.median { fill: #0067a8 } .high { stroke: #0067a8; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
svg { background: #16181d } text { fill: #d8d8d8 } .tick { fill: #a0a0a0 } .grid { stroke: #30343c }
.one, .line, .high { stroke: #5db4ea } .median { fill: #5db4ea }
}"""


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(title: str, samples: Mapping[str, Sequence[float]]) -> str:
    """``samples``: seconds, by name. All must be more than zero."""
    every = [value for values in samples.values() for value in values]
    low, high = 10 ** math.floor(math.log10(min(every))), 10 ** math.ceil(math.log10(max(every) * 1.001))

    def at(value: float) -> str:
        share = (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

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
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{_unit(10.0**power)}</text>')
    parts.append(
        f'<text class="tick" x="16" y="{bottom + 36}">dot: median; bar: 90th; end: 99th percentile; each stroke: one</text>'
    )
    for number, (name, values) in enumerate(samples.items()):
        parts += _row(name, sorted(values), TOP + ROW * number + ROW // 2 - 8, at)
    return "\n".join([*parts, "</svg>\n"])


def _row(name: str, ordered: Sequence[float], y: int, at: object) -> list[str]:
    place = at if callable(at) else str
    median, ninety, last = statistics.median(ordered), percentile(ordered, 0.9), percentile(ordered, 0.99)
    strokes = "".join(f"M{place(value)} {y - 10}v20" for value in ordered)
    return [
        f'<text x="{LEFT - 16}" y="{y + 4}" text-anchor="end">{escape(name)}</text>',
        f'<path class="one" d="{strokes}"/>',
        f'<line class="line" x1="{place(median)}" x2="{place(last)}" y1="{y}" y2="{y}"/>',
        f'<line class="high" x1="{place(ninety)}" x2="{place(ninety)}" y1="{y - 7}" y2="{y + 7}"/>',
        f'<circle class="median" cx="{place(median)}" cy="{y}" r="6"/>',
        f'<text class="tick" x="{place(median)}" y="{y - 10}" text-anchor="middle">{_unit(median)}</text>',
    ]


def _unit(seconds: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale * 0.9995:
            return f"{float(f'{seconds / scale:.2g}'):g} {unit}"
    return f"{seconds * 1e9:.2g} ns"
