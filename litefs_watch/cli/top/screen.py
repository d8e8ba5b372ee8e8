"""What there is to show, in so many columns and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from litefs_watch.changes import Role
from litefs_watch.cli.top.history import DatabaseRow, History, NodeRow
from litefs_watch.operate.words import source_line
from litefs_watch.status import SourceStatus

COLOURS = {Role.PRIMARY: "bold green", Role.REPLICA: "cyan", Role.UNKNOWN: "bold red"}
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-:=+*#"
"""For terminals that do not know the others."""
FULL = 1.0
"""Seconds, or transactions: less is no full bar. A healthy replica hears its primary once a second."""
KEYS = "q quit   space hold   c clear the changes"


@dataclass(frozen=True)
class Page:
    """So large, as of then."""

    width: int
    height: int
    when: datetime
    plain: bool = False
    """Whether the terminal knows ASCII alone."""
    held: bool = False
    """Whether it shows what was, until a key lets it go on."""
    keys: bool = True
    """Whether there is anybody whose keys are read."""


def lines(history: History, page: Page) -> list[Text]:
    """As many as there is room for, each no wider than the page. What gets no room is counted."""
    status = history.status
    head = [Text(f"litefs-watch top  {page.when:%H:%M:%S}Z" + ("  held" if page.held else ""), "bold")]
    foot = [Text(KEYS, "dim")] if page.keys else []
    if status is None:
        return _fit([*head, Text("looking …", "dim")], page)
    nodes = _nodes(list(history.nodes()), page)
    sources = _sources(status.sources)
    room = max(page.height - len(head) - len(foot), 0)
    changes = [Text(f"  {line}") for line in reversed(history.changes)] or [Text("  none yet", "dim")]
    databases = _databases(history.databases(), page) or [Text("  none has been seen", "yellow")]
    sections = [("nodes", nodes, 3), ("databases", databases, 2), ("sources", sources, 3), ("changes", changes, 2)]
    return _fit([*head, *_share([each for each in sections if each[1]], room), *foot], page)


def _share(sections: Sequence[tuple[str, list[Text], int]], room: int) -> list[Text]:
    """Each has its title, and the lines that it needs; where there are too few, each its least, and what is left goes to the
    first that can use it. Those for which even that is too much are left out, from the last."""
    while len(sections) > 1 and sum(1 + min(len(content), least) for _, content, least in sections) > room:
        sections = sections[:-1]
    given = [min(len(content), least) for _, content, least in sections]
    left = room - sum(given) - len(sections)
    for index, (_, content, _) in enumerate(sections):
        more = max(min(len(content) - given[index], left), 0)
        given[index] += more
        left -= more
    shown: list[Text] = []
    for (title, content, _), count in zip(sections, given, strict=True):
        hidden = len(content) - count
        shown.append(Text(title + (f"  ({hidden} more)" if hidden else ""), "bold underline"))
        shown += content[:count]
    return shown[:room]


def _nodes(rows: Sequence[NodeRow], page: Page) -> list[Text]:
    name = min(max((len(row.name) for row in rows), default=0), page.width // 3)
    role = min(max((len(row.text) for row in rows), default=0), page.width // 4)
    bars = max(page.width - name - role - 18, 8)
    return [
        Text.assemble(
            (f"  {_cut(row.name, name)}  ", ""),
            (f"{_cut(row.text, role)}  ", COLOURS[row.role]),
            (f"{_amount(row.behind, row.unit):>10}  ", "" if row.role is not Role.UNKNOWN else "dim"),
            (sparkline(row.past, bars, plain=page.plain), "cyan") if not row.detail else (row.detail, "yellow"),
        )
        for row in rows
    ]


def _databases(rows: Sequence[DatabaseRow], page: Page) -> list[Text]:
    name = min(max((len(row.name) for row in rows), default=0), max(page.width - 48, 10))
    return [
        Text(
            f"  {_cut(row.name, name)}  {row.txid:>12,}  {'-' if row.rate is None else format(row.rate, '.1f'):>8} tx/s"
            + (f"  {row.behind:,} behind elsewhere" if row.behind else "")
        )
        for row in rows
    ]


def _sources(sources: Mapping[str, SourceStatus]) -> list[Text]:
    return [Text.assemble("  ", *source_line(name, source)) for name, source in sources.items()]


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3f} {unit}" if unit == "s" else f"{value:,.0f} {unit}"


def sparkline(past: Sequence[float | None], width: int, *, plain: bool = False) -> str:
    """The newest to the right, one column each, the highest of them a full bar, if it is at least `FULL`; a gap where
    nothing was known."""
    shown = list(past)[-width:]
    bars = PLAIN_BARS if plain else BARS
    top = max((value for value in shown if value is not None), default=0.0)
    scale = max(top, FULL)
    steps = (min(max(int(value / scale * len(bars)), 0), len(bars) - 1) if value is not None else None for value in shown)
    return "".join(" " if step is None else bars[step] for step in steps).rjust(width)


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _fit(content: Sequence[Text], page: Page) -> list[Text]:
    fitted = []
    for line in content[: page.height]:
        line.no_wrap = True
        line.truncate(max(page.width, 1), overflow="ellipsis")
        fitted.append(line)
    return fitted
