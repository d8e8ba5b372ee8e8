"""``litefs-watch wait TXID``: for scripts."""

from __future__ import annotations

import re

import click

from litefs_watch import Position, Settings, Watcher
from litefs_watch.cli.app import asynchronous, node_options
from litefs_watch.cli.output import emit, position_record
from litefs_watch.position import check_txid


class Txid(click.ParamType[int]):
    """Decimal, hexadecimal with a leading ``0x``, or LiteFS's text of a position."""

    name = "TXID"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_txid(value)
        except ValueError:
            what = "a whole number from 0 to 2^64-1, decimal, hexadecimal (0x2a), or the text of a -pos file"
            self.fail(f"{str(value)[:60]!r} is no TXID: {what}", param, ctx)


def parse_txid(text: str) -> int:
    """The TXID. Raises `ValueError`."""
    if "/" in text:
        return Position.parse(text).txid
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", text) is None:
        raise ValueError(text)
    return check_txid(int(text, 16 if text[1:2] in "xX" and len(text) > 1 else 10))


@click.command("wait", short_help="Wait until a transaction is here.")
@click.argument("txid", type=Txid())
@click.option("-t", "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long (status 124).")
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, txid: int, timeout: float | None) -> int:
    """Wait until the database has transaction TXID, and print its position. Without --timeout: for ever."""
    settings.database_or_default(None)
    async with Watcher(settings) as watcher:
        position = await watcher.wait_for_tx(txid, timeout=timeout)
    if as_json:
        emit(position_record(position) or {})
    else:
        click.echo(str(position))
    return 0
