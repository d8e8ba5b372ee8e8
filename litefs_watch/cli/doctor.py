"""``litefs-watch doctor``: what is wrong with this node, and what to do."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from litefs_watch import Settings
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.doctor.facts import Facts
from litefs_watch.operate.doctor.findings import Finding, Severity, examine
from litefs_watch.operate.doctor.gathering import gather
from litefs_watch.printable import safe

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}
_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.command("doctor", short_help="Say what is wrong with this node, and what to do.")
@click.option("--config", type=_FILE, metavar="FILE", help="LiteFS's configuration.  [default: where LiteFS looks for it]")
@click.option("--fly", type=_FILE, metavar="FILE", help="Fly.io's.  [default: ./fly.toml]")
@click.option(
    "--patience",
    type=click.FloatRange(min=0.1, max=60),
    callback=check_seconds,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long anything is waited for; and what lies between the two looks at the positions.",
)
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, config: Path | None, fly: Path | None, patience: float) -> int:
    """Look at the directory, LiteFS's API and event stream, its data directory, and this machine's limits, twice, and at
    litefs.yml and fly.toml where they are. Changes nothing.

    Each finding has a code, of which docs/doctor.md tells more. Status 1 where something is an error, else 0; "ok" in the
    JSON is the same.
    """
    facts = await gather(settings, patience, config=config, fly=fly)
    found = examine(facts)
    ok = all(finding.severity is not Severity.ERROR for finding in found)
    if as_json:
        emit({"ok": ok, "looked": looked_at(facts), "findings": [record(finding) for finding in found]})
    else:
        show(found, facts)
    return 0 if ok else 1


def record(finding: Finding) -> dict[str, str]:
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "seen": finding.seen,
        "remedy": finding.remedy,
    }


def show(found: list[Finding], facts: Facts) -> None:
    console = Console(highlight=False)
    for finding in found:
        head = Text.assemble((finding.severity.name.lower(), COLOURS[finding.severity]), "  ", (finding.code, "bold"))
        console.print(head)
        for text, style in ((finding.seen, ""), (finding.remedy, "dim")):
            width = min(console.width, 100) - 1
            wrapped = textwrap.fill(text, width, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  ")
            console.print(Text(wrapped, style), soft_wrap=True)
        console.print()
    if not found:
        console.print(Text("nothing wrong", "bold green"))
    console.print(Text(f"looked at {', '.join(looked_at(facts))}", "dim"), soft_wrap=True)


def looked_at(facts: Facts) -> list[str]:
    """What there was to look at."""
    files = [str(config.path) for config in (facts.litefs_yml, facts.fly_toml) if config is not None]
    if facts.standalone:
        return ["the environment", *map(safe, files)]
    api = [facts.api.url] if facts.api is not None else []
    data = [str(facts.data_dir)] if facts.data_dir is not None else []
    return [safe(each) for each in (str(facts.directory), *api, *data, *files)]
