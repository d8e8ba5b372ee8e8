"""What there is to show, in so many columns and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from rich.text import Text

from litefs_watch.changes import Role
from litefs_watch.cli.doctor import COLOURS as SEVERITIES
from litefs_watch.cli.top.asking import Application, Examined
from litefs_watch.cli.top.history import DatabaseRow, History, NodeRow
from litefs_watch.operate.words import source_line
from litefs_watch.printable import safe
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
    sections = [Section("nodes", nodes, 3), Section("databases", databases, 2)]
    if history.application is not None:
        content = [_application(history.application, history.waiters, page)]
        sections.append(Section("application", content, 1, note=safe(history.application.url)))
    if history.examined is not None:
        sections.append(_doctor(history.examined))
    sections += [Section("sources", sources, 3), Section("changes", changes, 2)]
    return _fit([*head, *_share([each for each in sections if each.content], room), *foot], page)


class Section(NamedTuple):
    title: str
    content: list[Text]
    least: int
    """Lines, if it has so many."""
    note: str = ""
    """Beside the title."""


def _share(sections: Sequence[Section], room: int) -> list[Text]:
    """Each has its title, and the lines that it needs; where there are too few, each its least, and what is left goes to the
    first that can use it. Those for which even that is too much are left out, from the last."""
    while len(sections) > 1 and sum(1 + min(len(each.content), each.least) for each in sections) > room:
        sections = sections[:-1]
    given = [min(len(each.content), each.least) for each in sections]
    left = room - sum(given) - len(sections)
    for index, each in enumerate(sections):
        more = max(min(len(each.content) - given[index], left), 0)
        given[index] += more
        left -= more
    shown: list[Text] = []
    for each, count in zip(sections, given, strict=True):
        hidden = len(each.content) - count
        rest = f"  ({hidden} more)" if hidden else ""
        title = Text.assemble((f"{each.title}{rest}", "bold underline"), (f"  {each.note}" if each.note else "", "dim"))
        shown += [title, *each.content[:count]]
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


def _application(told: Application, past: Sequence[float | None], page: Page) -> Text:
    if told.process is None:
        return Text(f"  {told.fault}", "yellow")
    words = f"  process {told.process:<7}  {told.text}"
    bars = sparkline(past, max(page.width - 56, 8), plain=page.plain)
    beside = (f"not ready: {told.fault}", "yellow") if told.fault else (bars, "cyan")
    return Text.assemble((f"{words:<54}  ", ""), beside)


def _doctor(examined: Examined) -> Section:
    note = f"at {examined.when:%H:%M:%S}Z"
    if examined.fault is not None:
        return Section("doctor", [Text(f"  it could not look: {examined.fault}", "yellow")], 1, note)
    if not examined.findings:
        return Section("doctor", [Text("  nothing wrong", "green")], 1, note)
    width = max(len(finding.code) for finding in examined.findings)
    content = [
        Text.assemble(
            (f"  {finding.severity.name.lower():7}  ", SEVERITIES[finding.severity]),
            (f"{finding.code:{width}}  ", "bold"),
            finding.seen,
        )
        for finding in examined.findings
    ]
    return Section("doctor", content, 2, f"{note}; litefs-watch doctor tells what to do")


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
