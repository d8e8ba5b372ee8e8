"""``litefs-watch demo``: a simulated cluster, live. `demo_run` measures, this file shows."""

from __future__ import annotations

import statistics
from functools import partial

import anyio
import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from litefs_watch.cli.app import asynchronous, output_options
from litefs_watch.cli.demo_run import Demo
from litefs_watch.cli.output import emit


@click.command("demo", short_help="See it work on a simulated cluster, live.")
@click.option(
    "--seconds", type=click.FloatRange(min=2, max=3600), default=10.0, show_default=True, help="How long to write."
)
@output_options
@asynchronous
async def command(as_json: bool, seconds: float) -> int:
    """Watch a simulated cluster: one primary, two replicas, real SQLite, and a fail-over. Needs nothing but this package."""
    console = Console(highlight=False)
    live = console.is_terminal and not as_json
    demo = Demo(seconds, tell=partial(tell, as_json=as_json, quiet=live))
    async with anyio.create_task_group() as tasks:
        if live:
            tasks.start_soon(show_live, demo, console)
        elif not as_json:
            tasks.start_soon(show_lines, demo)
        await demo.run()
        tasks.cancel_scope.cancel()
    if as_json:
        emit({"type": "summary", **demo.summary()})
    else:
        for part in summary(demo):
            console.print(part, soft_wrap=isinstance(part, Text))
    return 0 if demo.figures_are_good else 1


def tell(event: dict[str, object], text: str, *, as_json: bool, quiet: bool) -> None:
    """Something happened that is worth a line."""
    if as_json:
        emit(event)
    elif not quiet:
        click.echo(text)


async def show_live(demo: Demo, console: Console) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(Group(table(demo), *(Text(line, "dim") for line in demo.log[-8:])), refresh=True)
            await anyio.sleep(0.1)


async def show_lines(demo: Demo) -> None:
    while True:
        await anyio.sleep(1)
        cells = [
            f"{node.hostname} {node.txid}" + (f" (lag {ms(node.lags[-20:])})" if node.lags else "") for node in demo.nodes
        ]
        click.echo(f"{demo.elapsed:4.0f} s  " + "   ".join(cells))


def table(demo: Demo) -> Table:
    rows = Table(title=f"{demo.elapsed:.1f} of {demo.seconds:g} s, {demo.writes} writes", title_justify="left", box=None)
    for name in ("node", "region", "role", "TXID"):
        rows.add_column(name, justify="right" if name == "TXID" else "left")
    for name in ("lag", "woke after"):
        rows.add_column(name, justify="right")
    for node in demo.nodes:
        colour = {"primary": "bold green", "replica": "cyan"}.get(node.role, "bold red")
        woke = ms(node.wakes[-20:], "us")
        rows.add_row(node.hostname, node.region, Text(node.role_text, colour), str(node.txid), ms(node.lags[-20:]), woke)
    return rows


def summary(demo: Demo) -> list[Table | Text]:
    figures = Table(box=None, padding=(0, 2, 0, 0))
    figures.add_column("replica")
    for name in ("lag", "woke", "90th", "30 ms poll", "saw its write", "unwaited"):
        figures.add_column(name, justify="right")
    for node in demo.nodes:
        if node.wakes:
            figures.add_row(
                f"{node.hostname} ({node.region})",
                ms(node.lags),
                ms(node.wakes, "us"),
                ms([percentile(node.wakes)], "us"),
                ms(node.polls, "us"),
                f"{node.seen} of {node.reads}",
                f"{node.seen_without_waiting} of {node.reads_without_waiting}",
            )
    lines = [Text(line) for line in demo.log]
    notes = (
        "lag            from the commit on the primary to the wake of wait_for_tx on the replica, median",
        "woke, 90th     from the moment the replica had the transaction to that wake, median and 90th percentile",
        "30 ms poll     the same for a loop that reads the file every 30 ms",
        "saw its write  reads on the replica after wait_for_tx; unwaited: the same reads without it",
        "All nodes, watchers and the writer ran in this one process.",
    )
    return [
        Text(f"{demo.writes} writes in {demo.elapsed:.1f} s", "bold"),
        *lines,
        Text(),
        figures,
        Text(),
        *(Text(note, "dim") for note in notes),
    ]


def percentile(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.9)]


def ms(seconds: list[float], unit: str = "ms") -> str:
    """The median; milliseconds, or with ``us`` microseconds where it is less than one."""
    if not seconds:
        return "-"
    median = statistics.median(seconds)
    return f"{median * 1e6:.0f} us" if unit == "us" and median < 0.001 else f"{median * 1e3:.1f} ms"
