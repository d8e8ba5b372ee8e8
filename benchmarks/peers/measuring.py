"""All ways in turn, in one run: waits, reads that need not wait, a crowd."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path

from benchmarks.peers.asking import Client, used
from benchmarks.peers.ways import BARE, Way, pair_with_proxy, ways
from benchmarks.table import milliseconds, show
from litefs_watch.testing import fuse_available
from tests.contract.real import RealPair

WAITS = 60
"""Of each way."""
CONNECTIONS, SECONDS, ROUNDS = 16, 1.0, 5
CROWD, CROWD_WAITS, CROWD_ROUNDS = 1000, 0.3, 3
"""Requests that wait at once, and the seconds until what they wait for is committed: less than anybody's timeout."""


class Primary:
    """Commits, with a connection that stays open."""

    def __init__(self, pair: RealPair) -> None:
        self._node = pair.primary
        self.replica = pair.replica
        path = pair.primary.litefs_dir / "app.db"
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    @property
    def txid(self) -> int:
        return self._node.position().txid

    async def commit(self) -> float:
        """Returns when it began."""

        def insert() -> float:
            began = time.monotonic()
            self._connection.execute("INSERT INTO t VALUES (1)")
            return began

        return await asyncio.to_thread(insert)

    def close(self) -> None:
        self._connection.close()


async def one_wait(way: Way, primary: Primary) -> tuple[float, int]:
    """Seconds from the commit to the answer of a request that was waiting for it; and the answer's status. Of who waits for
    nothing: from the request."""
    async with Client(way.port) as client:
        await client.ask("")
        if way.name == BARE:
            began = time.monotonic()
            status = await client.ask("")
            return time.monotonic() - began, status
        client.send(way.header(primary.txid + 1))
        answer = asyncio.ensure_future(client.answer())
        await asyncio.sleep(random.uniform(0.005, 0.025))  # less than litefs-js's 30 ms, after which it gives up
        began = await primary.commit()
        status = await answer
        return time.monotonic() - began, status


async def waits(found: Sequence[Way], primary: Primary) -> None:
    measured: dict[str, list[float]] = {way.name: [] for way in found}
    answered: dict[str, int] = dict.fromkeys(measured, 0)
    for _ in range(WAITS):
        for way in found:
            seconds, status = await one_wait(way, primary)
            measured[way.name].append(seconds)
            answered[way.name] += status == 200
            await asyncio.sleep(0.02)
    rows = [[name, *milliseconds(times), f"{answered[name]} of {WAITS}"] for name, times in measured.items()]
    head = ["commit on the primary to the waiting read's answer", "median", "90th", "max", "answered here"]
    show("A read that waits, on a replica of two real LiteFS nodes (in turn)", head, rows, measured)


async def requests_a_second(way: Way, header: str) -> float:
    async def keep_asking(client: Client, until: float) -> int:
        count = 0
        while time.monotonic() < until:
            assert await client.ask(header) == 200
            count += 1
        return count

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(way.port)) for _ in range(CONNECTIONS)]
        until = time.monotonic() + SECONDS
        return sum(await asyncio.gather(*(keep_asking(client, until) for client in clients))) / SECONDS


async def met(found: Sequence[Way], primary: Primary) -> None:
    """With a token that is here."""
    measured: dict[str, list[float]] = {way.name: [] for way in found}
    for _ in range(ROUNDS):
        for way in found:
            measured[way.name].append(await requests_a_second(way, way.header(primary.txid)))
    bare = statistics.median(measured[BARE])
    rows = []
    for name, each in measured.items():
        median = statistics.median(each)
        rows.append([name, f"{median:,.0f}/s", f"{min(each):,.0f} to {max(each):,.0f}", f"{median / bare:.2f}"])
    show(f"Reads that need not wait, {CONNECTIONS} connections", ["", "median", "range", "of the first"], rows)


async def crowd(found: Sequence[Way], primary: Primary) -> None:
    """What it costs, the server and LiteFS on the replica, from the first request to the last answer."""
    litefs = primary.replica._process
    assert litefs is not None
    measured: dict[str, list[tuple[float, float, int, int]]] = {way.name: [] for way in found if way.name != BARE}
    for _ in range(CROWD_ROUNDS):
        for way in found:
            if way.name != BARE:
                measured[way.name].append(await one_crowd(way, primary, litefs.pid))
    rows = []
    for name, each in measured.items():
        server, mount, reads, here = (statistics.median(column) for column in zip(*each, strict=True))
        rows.append([name, f"{server:.2f} s", f"{mount:.2f} s", f"{reads:,.0f}", f"{here:,.0f}"])
    head = [f"{CROWD:,} requests that wait {CROWD_WAITS} s", "server", "LiteFS", "reads by LiteFS", "answered here"]
    show(f"A crowd: processor time (median of {CROWD_ROUNDS} rounds, in turn)", head, rows)


async def one_crowd(way: Way, primary: Primary, litefs: int) -> tuple[float, float, int, int]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(way.port)) for _ in range(CROWD)]
        server, (mount, reads) = used(way.process)[0], used(litefs)
        wanted = way.header(primary.txid + 1)
        for client in clients:
            client.send(wanted)
        answers = asyncio.gather(*(client.answer() for client in clients))
        await asyncio.sleep(CROWD_WAITS)
        await primary.commit()
        statuses = await answers
        now, reads_now = used(litefs)
        spent = 0.0 if way.litefs_waits else used(way.process)[0] - server
        return spent, now - mount, reads_now - reads, sum(status == 200 for status in statuses)


async def measure(found: Sequence[Way], primary: Primary) -> None:
    await waits(found, primary)
    await met(found, primary)
    await crowd(found, primary)


def main() -> None:
    if not os.environ.get("LITEFS_BIN") or fuse_available():
        print(f"\n(beside the peers: {fuse_available() or 'LITEFS_BIN does not name a LiteFS binary'})")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (
            pair_with_proxy(directory) as (pair, proxy, target),
            ways(pair, proxy, target, directory / "js") as found,
            closing(Primary(pair)) as primary,
        ):
            asyncio.run(measure(found, primary))
