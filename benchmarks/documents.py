"""``python -m benchmarks docs DIRECTORY``: what was measured, into the documents.

DIRECTORY is what ``--out`` was given; ``soak.json`` and ``soak.svg`` may lie there, too. Draws the times into
``docs/figures``, and writes the tables between the marks ``<!-- figures: NAME -->`` and ``<!-- /figures -->`` of
``docs/operate/figures.md``, and README's. What was not measured stays as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.plot import duration, spread
from benchmarks.table import Shown, drawings, read, text

ROOT = Path(__file__).parents[1]
_REGION = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)


class Missing(Exception):
    """A table, a row or a column that a document needs is not in what was measured."""


class Row(NamedTuple):
    """One of README's."""

    name: str
    what: str
    table: str
    """Part of its title."""
    ours: tuple[str, str]
    """Row and column."""
    baseline: tuple[str, str]
    beside: str
    """What the baseline is, in a few words."""
    unit: str = ""

    @property
    def start(self) -> str:
        return f"| `python -m benchmarks {self.name}` | {self.what} |"

    def line(self, tables: Sequence[Shown]) -> str:
        ours, baseline = (self._cell(tables, *place) for place in (self.ours, self.baseline))
        return f"{self.start} {ours}{self.unit} | {baseline} ({self.beside}) |"

    def _cell(self, tables: Sequence[Shown], row: str, column: str) -> str:
        for each in tables:
            if self.table in each.title and column in each.head:
                for cells in each.rows:
                    if cells[0] == row:
                        return cells[list(each.head).index(column)]
        raise Missing(f"{self.name} has no {column!r} of {row!r} in a table '… {self.table} …'")


_SOCKET = ("bare asyncio socket reader", "median")
README = (
    Row(
        "peers",
        "commit on the primary to a waiting read's answer, two real LiteFS nodes",
        "A read that waits",
        ("litefs_watch", "median"),
        ("litefs-js under node", "median"),
        "litefs-js under node",
    ),
    Row(
        "wake",
        "commit to waiter, event stream",
        "Event stream",
        ("Watcher's waiter (asyncio)", "median"),
        _SOCKET,
        "bare socket reader",
    ),
    Row(
        "wake",
        "ordinary directory, inotify",
        "Ordinary directory",
        ("Watcher, inotify", "median"),
        ("reading every 30 ms (litefs-js)", "median"),
        "reading every 30 ms",
    ),
    Row("wake", "two real LiteFS nodes", "real LiteFS", ("Watcher, event stream", "median"), _SOCKET, "bare socket reader"),
    Row(
        "waiters",
        "one publication, 10,000 waiters, none due",
        "waiters, none due",
        ("Watcher (sorted by TXID)", "median"),
        ("look at every waiter", "median"),
        "look at each",
    ),
    Row(
        "blocking",
        "`wait_for_tx` that is met, in threads",
        "A transaction that is here",
        ("wait_for_tx(1), which is met", "per call"),
        ("a call into the event loop (what it is not)", "per call"),
        "a call into the loop",
    ),
    Row(
        "http",
        "one request, with a cookie that is met",
        "One request, in process",
        ("LiteFSMiddleware, with one that is met", "over bare"),
        ("BaseHTTPMiddleware, with one that is met", "over bare"),
        "`BaseHTTPMiddleware`",
    ),
    Row(
        "jobs",
        "a Celery task sent right after a write sees its row, on a replica that lags",
        "tasks, each sent right after a write",
        ("celery, redis", "with it, row seen"),
        ("celery, redis", "without it, row seen"),
        "without the integration",
    ),
    Row(
        "idle",
        "idle, FUSE mount with event stream",
        "Idle",
        ("Watcher, FUSE mount with event stream", "of a core"),
        ("an event loop that sleeps", "of a core"),
        "a loop that sleeps",
        " of a core",
    ),
)


def main(words: Sequence[str]) -> int:
    """The exit status."""
    if len(words) != 1 or not (results := Path(words[0])).is_dir():
        print("which directory? What --out of python -m benchmarks was given", file=sys.stderr)
        return 2
    try:
        written = publish(results, ROOT)
    except Missing as error:
        print(f"nothing was written: {error}", file=sys.stderr)
        return 1
    print("\n".join(str(path.relative_to(ROOT)) for path in written))
    return 0


def publish(results: Path, root: Path) -> list[Path]:
    """What was written. Raises `Missing`, and then nothing was."""
    page, readme, figures = root / "docs/operate/figures.md", root / "README.md", root / "docs/figures"
    soak, regions = results / "soak.json", _names(page.read_text())
    tables = {name: read(file) for name in regions if name != "soak" and (file := results / f"{name}.json").exists()}
    new = {name: section(name, each) for name, each in tables.items()}
    if soak.exists():
        new["soak"] = f"```text\n{json.loads(soak.read_text())['text']}\n```\n"
    texts = {
        page: replaced(page.read_text(), lambda name, old: new.get(name, old)),
        readme: replaced(readme.read_text(), lambda _, old: summary(tables, old)),
    }
    written = list(texts)
    for path, whole in texts.items():
        path.write_text(whole)
    figures.mkdir(exist_ok=True)
    for name, each in tables.items():
        for stale in (*figures.glob(f"{name}.svg"), *figures.glob(f"{name}-[0-9].svg")):
            stale.unlink()
        for picture, shown in drawings(name, each):
            (figures / picture).write_text(spread(shown.title, shown.samples))
            written.append(figures / picture)
    if soak.exists():
        written.append(Path(shutil.copy(results / "soak.svg", root / "docs/soak.svg")))
    return written


def _names(page: str) -> list[str]:
    return [name for _, name, _, _ in _REGION.findall(page)]


def replaced(document: str, region: Callable[[str, str], str]) -> str:
    """With what ``region`` makes of each name and what stands there."""
    return _REGION.sub(lambda found: found[1] + region(found[2], found[3]) + found[4], document)


def section(name: str, tables: Sequence[Shown]) -> str:
    """A benchmark's pictures, and its tables."""
    pictures = [f"![{described(each)}](../figures/{file})\n" for file, each in drawings(name, tables)]
    printed = "\n\n".join(text(each.title, each.head, each.rows) for each in tables)
    return "\n".join([*pictures, f"```text\n{printed}\n```\n"])


def described(shown: Shown) -> str:
    """For who can't see the picture: the medians."""
    medians = (f"{name}: {duration(statistics.median(values))}" for name, values in shown.samples.items())
    return re.sub(r"[\[\]]", "", f"{shown.title}. Medians: {'; '.join(medians)}.")


def summary(tables: Mapping[str, Sequence[Shown]], old: str) -> str:
    """README's table; the rows of what was not measured as they were. Raises `Missing`."""

    def line(row: Row) -> str:
        if row.name in tables:
            return row.line(tables[row.name])
        for before in old.splitlines():
            if before.startswith(row.start):
                return before
        raise Missing(f"README has no row {row.start!r}, and {row.name} was not measured")

    return "\n".join(["| command | what | ours | baseline |", "|---|---|--:|--:|", *map(line, README)]) + "\n"
