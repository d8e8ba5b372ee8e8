"""``litefs-watch watch``: follow what changes."""

from __future__ import annotations

import click

from litefs_watch import PrimaryChange, Settings, TxChange, Watcher
from litefs_watch.cli.app import asynchronous, node_options
from litefs_watch.cli.output import change_record, emit, now, role_text, safe, status_record


@click.command("watch", short_help="Follow transactions and changes of the primary.")
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many changes.")
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, count: int | None) -> int:
    """Follow transactions and changes of the primary, until interrupted. Begins with the state as it is."""
    async with Watcher(settings) as watcher:
        with watcher.changes() as changes:
            if as_json:
                emit({"type": "status", **status_record(watcher.status), "time": now()})
            else:
                click.echo(f"{now()}  {role_text(watcher.role, watcher.primary)}")
                for database, position in sorted(watcher.status.positions.items()):
                    click.echo(f"{now()}  {safe(database)}  {position.txid}")
            number = 0
            async for change in changes:
                if as_json:
                    emit({**change_record(change), "time": now()})
                else:
                    click.echo(f"{now()}  {describe(change)}")
                number += 1
                if number == count:
                    break
    return 0


def describe(change: TxChange | PrimaryChange) -> str:
    if isinstance(change, PrimaryChange):
        was = role_text(change.previous_role, change.previous_primary)
        return f"{role_text(change.role, change.primary)}  (was {was})"
    back = change.previous is not None and not change.position > change.previous
    return f"{safe(change.database)}  {change.position.txid}" + (f"  (back from {change.previous})" if back else "")
