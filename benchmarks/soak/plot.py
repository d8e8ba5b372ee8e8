"""A recording as SVG: four panels over the same time, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.soak.flat import after_warm_up
from benchmarks.soak.recording import MIB, Recording, Sample

WIDTH, HEIGHT, LEFT, RIGHT, GAP = 860, 150, 70, 20, 52
TOP = 60
COLOURS = ("a", "b", "c", "d")
STYLE = """\
svg { background: #ffffff; font: 12px system-ui, sans-serif }
text { fill: #333333 } .title { font-size: 15px; font-weight: 600 } .name { font-weight: 600 }
.axis { stroke: #999999 } .grid { stroke: #e4e4e4 } .warm { fill: #f3f3f3 }
path { fill: none; stroke-width: 1.5; stroke-linejoin: round }
.a { stroke: #0067a8 } .b { stroke: #c04a00 } .c { stroke: #007a56 } .d { stroke: #8a3d8f }
@media (prefers-color-scheme: dark) {
svg { background: #16181d }
text { fill: #d8d8d8 } .axis { stroke: #777777 } .grid { stroke: #30343c } .warm { fill: #1f232b }
.a { stroke: #5db4ea } .b { stroke: #f09a4b } .c { stroke: #3fc49a } .d { stroke: #d58bd8 }
}"""


@dataclass(frozen=True)
class Line:
    name: str
    value: Callable[[Sample], float | None]
    """None: a gap."""


@dataclass(frozen=True)
class Panel:
    name: str
    lines: Sequence[Line]
    logarithmic: bool = False


def _milliseconds(seconds: float | None) -> float | None:
    return seconds * 1e3 if seconds is not None else None


PANELS = (
    Panel("Memory, MiB", [Line("resident", lambda sample: sample.memory / MIB)]),
    Panel(
        "Count",
        [
            Line("descriptors", lambda sample: sample.descriptors),
            Line("threads", lambda sample: sample.threads),
            Line("tasks", lambda sample: sample.tasks),
            Line("waiters", lambda sample: sample.waiters),
        ],
    ),
    Panel(
        "Latency of requests, ms (logarithmic)",
        [
            Line("median", lambda sample: _milliseconds(sample.median)),
            Line("99th percentile", lambda sample: _milliseconds(sample.high)),
        ],
        logarithmic=True,
    ),
    Panel(
        "Since the start",
        [
            Line("faults", lambda sample: sample.faults),
            Line("reconnects of event streams", lambda sample: sample.reconnects),
            Line("restarts of sources", lambda sample: sample.restarts),
        ],
    ),
)


def draw(recording: Recording) -> str:
    height = TOP + len(PANELS) * (HEIGHT + GAP)
    title = f"{recording.what[0].upper()}{recording.what[1:]}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        f'<text x="{LEFT}" y="44">{escape(recording.summary().splitlines()[0])}</text>',
    ]
    for number, panel in enumerate(PANELS):
        parts += _panel(panel, recording.samples, TOP + GAP // 2 + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True)
class Scale:
    """From values to where they are drawn."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        if self.logarithmic:
            yield from (10.0**power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1))
            return
        step = _step(self.high - self.low)
        tick = math.ceil(self.low / step) * step
        while tick <= self.high * 1.0001:
            yield tick
            tick += step


def _step(span: float) -> float:
    """A round one, for four to nine ticks."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (5, 2, 1) if span / (power * factor) >= 4)


def _vertical(panel: Panel, samples: Sequence[Sample], top: float) -> Scale:
    values = [value for sample in samples for line in panel.lines if (value := line.value(sample)) is not None]
    if panel.logarithmic:
        low, high = (10.0**each for each in (math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))))
        return Scale(low, max(high, 10 * low), top + HEIGHT, top, logarithmic=True)
    return Scale(0, max(1.0, 1.1 * max(values)), top + HEIGHT, top)


def _panel(panel: Panel, samples: Sequence[Sample], top: int) -> Iterator[str]:
    """One panel; its upper edge is at ``top``."""
    last = samples[-1].seconds / 60
    across = Scale(0, last, LEFT, WIDTH - RIGHT)
    up = _vertical(panel, samples, top)
    warm = across(samples[after_warm_up([sample.seconds for sample in samples])].seconds / 60)
    bottom, right = top + HEIGHT, WIDTH - RIGHT
    yield f'<rect class="warm" x="{LEFT}" y="{top}" width="{warm - LEFT:.0f}" height="{HEIGHT}"/>'
    if panel is PANELS[0]:
        yield f'<text x="{LEFT + 6}" y="{bottom - 6}">warm-up</text>'
    for tick in up.ticks():
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>'
    for tick in across.ticks():
        yield f'<line class="axis" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        unit = " min" if tick == 0 else ""
        yield f'<text x="{across(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}{unit}</text>'
    yield f'<path class="axis" d="M{LEFT},{top}V{bottom}H{right}"/>'
    yield f'<text class="name" x="{LEFT}" y="{top - 8}">{escape(panel.name)}</text>'
    legend = right
    for colour, line in reversed(list(zip(COLOURS, panel.lines, strict=False))):
        legend -= 7 * len(line.name)
        yield f'<text x="{legend}" y="{top - 8}">{escape(line.name)}</text>'
        yield f'<path class="{colour}" d="M{legend - 24},{top - 12}h18" style="stroke-width:3"/>'
        legend -= 44
    for colour, line in zip(COLOURS, panel.lines, strict=False):
        yield f'<path class="{colour}" d="{_course(line, samples, across, up)}"/>'


def _course(line: Line, samples: Sequence[Sample], across: Scale, up: Scale) -> str:
    points, pen = [], "M"
    for sample in samples:
        value = line.value(sample)
        if value is None:
            pen = "M"
            continue
        points.append(f"{pen}{across(sample.seconds / 60):.1f},{up(value):.1f}")
        pen = "L"
    return "".join(points)
