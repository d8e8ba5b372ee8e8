"""``litefs-watch demo``: a simulated cluster, live. `demo_run` measures, this file shows."""

from __future__ import annotations

import os
import statistics
import sys
from functools import partial
from typing import Any

import anyio
import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from litefs_watch import Role
from litefs_watch.cli.demo_run import LOST, Demo, NodeFigures, percentile
from litefs_watch.cli.options import check_seconds, output_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import asynchronous

COLOURS = {Role.PRIMARY: "bold green", Role.REPLICA: "cyan", Role.UNKNOWN: "bold red"}
PLAIN: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False}


@click.command("demo", short_help="See it work on a simulated cluster, live.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=2, max=3600),
    callback=check_seconds,
    default=10.0,
    show_default=True,
    help="How long to write.",
)
@click.option("--web", is_flag=True, help="A page to play with instead, on loopback, until Ctrl-C (extra demo).")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Of the page; 0: any.")
@click.option("--open/--no-open", "opens", default=None, help="Open a browser.  [default: where there is a screen]")
@output_options
@asynchronous
async def command(as_json: bool, seconds: float, web: bool, port: int, opens: bool | None) -> int:
    """Watch a simulated cluster: one primary, two replicas, real SQLite, and a fail-over. Needs nothing but this package.

    Every figure is measured while it runs. Status 0 if every read that waited for its write saw it.
    """
    if web:
        return await show_page(port, opens, as_json=as_json)
    console = Console(highlight=False)
    live = not as_json and sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
    demo = Demo(seconds, tell=partial(tell, as_json=as_json, quiet=live))
    async with anyio.create_task_group() as tasks:
        if live:
            tasks.start_soon(show_live, demo, console)
        elif not as_json:
            tasks.start_soon(show_lines, demo)
        await demo.run()
        tasks.cancel_scope.cancel()
    if as_json:
        emit(demo.summary())
    else:
        for part in summary(demo, log=live):
            console.print(part, soft_wrap=isinstance(part, Text))
    return 0 if demo.good else 1


async def show_page(port: int, opens: bool | None, *, as_json: bool) -> int:
    try:
        from litefs_watch.cli.demo_web.server import listen, serve
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        raise click.ClickException(f"the page needs {library}: pip install 'litefs-watch[demo]'") from error
    with listen(port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        emit({"type": "page", "url": url}) if as_json else click.echo(f"The demo is at {url}  (Ctrl-C ends it)")
        screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
        ended = await serve(listener, ready=(lambda: click.launch(url)) if (screen if opens is None else opens) else None)
    return 0 if ended else 1


def tell(event: dict[str, object], text: str, *, as_json: bool, quiet: bool) -> None:
    """Something happened that is worth a line."""
    if as_json:
        emit(event)
    elif not quiet:
        click.echo(text)


async def show_live(demo: Demo, console: Console) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(Group(table(demo), Text(), *(Text(line, "dim") for line in demo.log[-10:])), refresh=True)
            await anyio.sleep(0.1)


async def show_lines(demo: Demo) -> None:
    while True:
        await anyio.sleep(1)
        click.echo(f"{demo.elapsed:5.2f} s  " + "   ".join(cell(node) for node in demo.nodes))


def cell(node: NodeFigures) -> str:
    if node.role is Role.REPLICA and node.lags:
        return f"{node.hostname} at {node.txid} (lag {ms(node.lags[-1])}, woke {ms(node.wakes[-1])})"
    return f"{node.hostname} at {node.txid} ({node.role})"


def table(demo: Demo) -> Table:
    rows = Table(title=f"{demo.elapsed:.1f} of {demo.seconds:g} s, {demo.writes} writes", title_justify="left", **PLAIN)
    for name in ("node", "", "role"):
        rows.add_column(name)
    for name in ("TXID", "lag", "median", "woke", "median", "saw it"):
        rows.add_column(name, justify="right")
    for node in demo.nodes:
        figures = [figure for values in (node.lags, node.wakes) for figure in last_and_median(values)]
        read = f"{node.seen} of {node.reads}" if node.reads else "-"
        rows.add_row(node.hostname, node.region, Text(node.role, COLOURS[node.role]), str(node.txid), *figures, read)
    return rows


def last_and_median(values: list[float]) -> tuple[str, str]:
    return (ms(values[-1]), ms(statistics.median(values))) if values else ("-", "-")


def summary(demo: Demo, *, log: bool) -> list[Table | Text]:
    """What is left on the screen; with ``log``, what happened too."""
    figures = Table("replica", **PLAIN)
    for name in ("lag", "woke", "90th", "30 ms poll", "saw its write", "unwaited"):
        figures.add_column(name, justify="right")
    for node in (node for node in demo.nodes if node.wakes):
        figures.add_row(
            f"{node.hostname} ({node.region})",
            ms(statistics.median(node.lags)),
            ms(statistics.median(node.wakes)),
            ms(percentile(node.wakes)),
            ms(statistics.median(node.polls)) if node.polls else "-",
            f"{node.seen} of {node.reads}",
            f"{node.unwaited_seen} of {node.unwaited_reads}",
        )
    reads, seen, lost = (sum(getattr(node, name) for node in demo.nodes) for name in ("reads", "seen", "lost"))
    vain = f"; {lost} waits of {LOST:g} s were in vain" if lost else ""
    result = f"{seen} of {reads} reads after wait_for_tx saw the row that had just been written{vain}"
    notes = (
        "lag         from the primary's commit to the wake of wait_for_tx on the replica",
        "woke, 90th  from the replica's -pos showing it to that wake; 90th percentile",
        "30 ms poll  the same for a loop that reads -pos every 30 ms, in the same run",
        "unwaited    the same reads, without wait_for_tx",
        "Medians. All nodes, watchers and the writer share this one process.",
    )
    return [
        *(Text(line) for line in (demo.log if log else ())),
        Text(),
        Text(f"{demo.writes} writes in {demo.elapsed:.1f} s, with a fail-over", "bold"),
        Text(result, "bold" if demo.good else "bold red"),
        Text(),
        figures,
        Text(),
        *(Text(note, "dim") for note in notes),
    ]


def ms(seconds: float) -> str:
    """In milliseconds; to the hundredth where they are few."""
    return f"{seconds * 1e3:.{2 if seconds < 0.01 else 1}f} ms"
