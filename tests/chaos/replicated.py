"""``python -m tests.chaos.replicated``: how many acknowledged writes are lost with the primary, and what losing none costs.

On real LiteFS (``LITEFS_BIN``): the primary is killed the moment that it acknowledges a write, which no other node had to
have, or so many. In turn, on the same nodes. Another node takes the lease, and is asked for the write.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from litefs_watch import Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from tests.chaos.litefs import TTL, LeasedNode, connector, position_of
from tests.chaos.network import Network
from tests.contract.consul import Consul
from tests.contract.real import until

SOON = 30.0
"""Seconds after which nodes that have not healed are a failure."""
DELAY = 0.002
"""Seconds that everything takes from one node to another. On one machine alone a write is there before its answer is."""
WRITES = 10
"""Writes before each kill whose time is taken."""


@dataclass
class Arm:
    """What is counted with one ``replicated_to``."""

    copies: int
    acknowledged: int = 0
    lost: int = 0
    refused: int = 0
    """Writes that were not acknowledged, since too few had them: nobody was killed then."""
    seconds: list[float] = field(default_factory=list)
    """How long each write took that nobody died of."""

    def row(self, size: int) -> str:
        times = sorted(self.seconds)
        median, last = statistics.median(times) * 1000, times[int(len(times) * 0.99)] * 1000
        cells = (f"{size} nodes", str(self.copies), str(self.acknowledged), f"**{self.lost}**", str(self.refused))
        return f"| {' | '.join(cells)} | {median:.1f} ms | {last:.1f} ms |"


HEAD = """\
|  | `replicated_to` | writes acknowledged, and the primary killed | lost | refused | a write: median | 99th |
| --- | --: | --: | --: | --: | --: | --: |"""


class FarNode(LeasedNode):
    """A node that the others reach over the network alone."""

    def __init__(self, directory: Path, hostname: str, consul: Consul, network: Network) -> None:
        super().__init__(os.environ["LITEFS_BIN"], directory, hostname, consul)
        self.port = int(self.api_url.rpartition(":")[2])
        self.far_url = f"http://127.0.0.1:{network.link_to(self.port)}"
        advertised = f'advertise-url: "{self.far_url}"'
        self._config.write_text(self._config.read_text().replace(f'advertise-url: "{self.api_url}"', advertised))


class Nodes:
    """Real nodes that take the lease from each other, each with a watcher in this event loop."""

    def __init__(self, directory: Path, size: int, delay: float, stack: ExitStack) -> None:
        self.consul = stack.enter_context(Consul().running())
        self._network = stack.enter_context(Network(delay).running())
        self.all: list[FarNode] = []
        for name in [f"node-{chr(ord('a') + number)}" for number in range(size)]:
            self.all.append(node := FarNode(directory / name, name, self.consul, self._network))
            stack.callback(node.close)
            node.start()
        until(lambda: any(node.leads() for node in self.all), "there is a primary", SOON)
        with closing(sqlite3.connect(self.leader().litefs_dir / "app.db")) as connection, connection:
            connection.execute("CREATE TABLE writes (id INTEGER PRIMARY KEY)")
        self.watchers: dict[str, Watcher] = {}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        peers = [node.far_url for node in self.all]
        async with AsyncExitStack() as stack:
            for node in self.all:
                settings = node.settings(peers=peers, lease_ttl=TTL)
                self.watchers[node.hostname] = await stack.enter_async_context(Watcher(settings))
            yield

    def kill(self, node: FarNode) -> None:
        """As its machine dies: with all that is on its way. Nothing waits."""
        self._network.cut(node.port)
        node._signal(signal.SIGKILL)

    def leader(self) -> FarNode:
        """Raises `StopIteration` where there is none."""
        return next(node for node in self.all if node.leads())

    def in_step(self) -> bool:
        """All follow one primary, have what it has, and its watcher hears them."""
        leaders = [node for node in self.all if self.watchers[node.hostname].role is Role.PRIMARY and node.leads()]
        if len(leaders) != 1 or len({position_of(node) for node in self.all}) != 1:
            return False
        return sum(peer.counts for peer in self.watchers[leaders[0].hostname].cluster.peers) == len(self.all) - 1

    async def primary(self) -> FarNode:
        await run_sync(until, self.in_step, "all are in step", SOON)
        return await run_sync(self.leader)


class Client:
    """Writes through the middleware of the node that is the primary."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.number = 0

    async def write(self, node: FarNode, copies: int, acknowledged: Callable[[], object] = bool) -> tuple[int, float]:
        """One more. Returns its status, and the seconds until its response began, when ``acknowledged()`` is called."""
        self.number += 1
        number, statuses = self.number, list[int]()

        def insert() -> None:
            with closing(connector(node)(writing=True)) as connection:
                connection.execute("INSERT INTO writes VALUES (?)", (number,))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await run_sync(insert)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"written"})

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 200:
                    acknowledged()
                statuses.append(message["status"])
                times.append(time.perf_counter())

        watcher = self._nodes.watchers[node.hostname]
        middleware = LiteFSMiddleware(
            app, watcher, replicated_to=copies, on_unreplicated="error", replication_timeout=2.0, cookie=None
        )
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"", "scheme": "https"}
        times = [time.perf_counter()]
        await middleware(scope, receive, send)
        return statuses[0], times[1] - times[0]

    async def is_there(self, node: FarNode) -> bool:
        """Whether the node has the last write."""
        return await run_sync(self._ask, node)

    def _ask(self, node: FarNode) -> bool:
        with closing(connector(node)(writing=False)) as connection:
            found = connection.execute("SELECT count(*) FROM writes WHERE id = ?", (self.number,)).fetchone()
            return bool(found[0])


async def kill_after_a_write(nodes: Nodes, client: Client, arm: Arm, writes: int) -> None:
    """One round."""
    primary = await nodes.primary()
    for _ in range(writes):
        status, seconds = await client.write(primary, arm.copies)
        arm.refused += status != 200
        arm.seconds.append(seconds)
    primary = await nodes.primary()
    status, _ = await client.write(primary, arm.copies, lambda: nodes.kill(primary))
    if status != 200:
        arm.refused += 1
        return
    arm.acknowledged += 1
    await run_sync(primary._reap)
    nodes.consul.end_all()
    others = [node for node in nodes.all if node is not primary]
    await run_sync(until, lambda: any(node.leads() for node in others), "another one is the primary", SOON)
    arm.lost += not await client.is_there(await run_sync(nodes.leader))
    await run_sync(primary.start)


async def measure(
    directory: Path, size: int, arms: Sequence[Arm], kills: int, writes: int = WRITES, delay: float = DELAY
) -> None:
    """``kills`` for each of the arms, in turn."""
    with ExitStack() as stack:
        nodes = await run_sync(Nodes, directory, size, delay, stack)
        async with nodes.watched():
            client = Client(nodes)
            for _ in range(kills):
                for arm in arms:
                    await kill_after_a_write(nodes, client, arm, writes)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.replicated", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of the primary, for each row (default: 100)")
    parser.add_argument("--delay", type=float, default=DELAY, help=f"seconds between nodes, each way (default: {DELAY:g})")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 3], help="(default: 2 3)")
    chosen = parser.parse_args()
    logging.getLogger("litefs_watch").setLevel(logging.ERROR)  # what the kills break is no news
    print(HEAD)  # noqa: T201 - what it is for
    failed = False
    for size in chosen.nodes:
        arms = [Arm(copies) for copies in range(size)]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            anyio.run(measure, Path(directory), size, arms, chosen.kills, WRITES, chosen.delay)
        for arm in arms:
            print(arm.row(size), flush=True)  # noqa: T201
        failed = failed or arms[-1].lost > 0
    version = subprocess.run([os.environ["LITEFS_BIN"], "version"], capture_output=True, text=True, check=False).stdout
    options = f"--kills {chosen.kills} --delay {chosen.delay:g}"
    print(f"\n`python -m tests.chaos.replicated {options}`, {version.strip() or 'LiteFS'}.")  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
