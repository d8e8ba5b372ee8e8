"""``litefs-watch watch``: follow what changes."""

from __future__ import annotations

import anyio
import click

from litefs_watch import PrimaryChange, Role, Settings, Status, TxChange, Watcher
from litefs_watch.cli.options import node_options
from litefs_watch.cli.output import emit, now, warn
from litefs_watch.cli.process import asynchronous, end_with_reader
from litefs_watch.operate.words import change_record, role_text, status_record
from litefs_watch.printable import safe
from litefs_watch.status import reasons


@click.command("watch", short_help="Follow transactions and changes of the primary.")
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after so many changes.")
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, count: int | None) -> int:
    """Follow transactions and changes of the primary, until interrupted. Begins with the state as it is.

    Transactions of one database that are closer than this can print become one line, for the newest.
    """
    async with Watcher(settings) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(end_with_reader)
        with watcher.changes() as changes:
            begin(watcher.status, as_json=as_json)
            number = 0
            async for change in changes:
                if as_json:
                    emit({**change_record(change), "time": now()})
                else:
                    click.echo(f"{now()}  {describe(change)}")
                number += 1
                if number == count:
                    break
        tasks.cancel_scope.cancel()
    return 0


def begin(status: Status, *, as_json: bool) -> None:
    """The state as it is."""
    if as_json:
        emit({"type": "status", **status_record(status), "time": now()})
    else:
        click.echo(f"{now()}  {role_text(status.role, status.primary)}")
        for database, position in sorted(status.positions.items()):
            click.echo(f"{now()}  {safe(database)}  {position.txid}")
    if status.role is Role.UNKNOWN:
        for reason in reasons(status.sources):
            warn(reason)


def describe(change: TxChange | PrimaryChange) -> str:
    if isinstance(change, PrimaryChange):
        was = role_text(change.previous_role, change.previous_primary)
        return f"{role_text(change.role, change.primary)}  (was {was})"
    note = ""
    if change.previous is None:
        note = "  (new)"
    elif not change.position > change.previous:  # lower, or the same TXID in another history
        note = f"  (back from {change.previous} to {change.position})"
    return f"{safe(change.database)}  {change.position.txid}{note}"
