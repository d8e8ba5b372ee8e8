"""One run: a cluster, the application behind a middleware on each node, clients, faults, and the judgement."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from litefs_watch import BlockingWatcher, Role, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import App
from litefs_watch.testing import Guarantee, SessionReport, SimulatedCluster, SimulatedNode, Violation, check_sessions
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware
from tests.chaos.app import TOUCH, Connect, Maintenance, Store, asgi_app, create, newest, wsgi_app
from tests.chaos.client import Client, Record
from tests.chaos.driver import Driver
from tests.chaos.edge import Edge
from tests.chaos.faults import Faults, deafness
from tests.chaos.http import converse, converse_blocking

LOCKED = 0.2
"""Seconds that the application waits for SQLite's lock."""
FROZEN = 1.0
"""Seconds that it waits for a frozen LiteFS, before it gives up."""
EVERY = tuple(Guarantee)
OWN_WRITES = (Guarantee.READ_YOUR_WRITES,)
SEED = "LITEFS_WATCH_CHAOS_SEED"
"""The environment variable that has a run done again."""


@dataclass
class Run:
    """What is to be done. ``client`` makes the clients; another one may forget what it should keep."""

    requests: int
    monotonic: bool = True
    seed: str = field(default_factory=lambda: os.environ.get(SEED) or f"{random.getrandbits(32):08x}")
    journal: str = ""
    """SQLite's journal mode. Empty: the seed decides."""
    clients: int = 24
    client: Callable[..., Client] = Client
    fuse: bool = False
    left_out: Collection[str] = ()
    """Faults that do not happen."""
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        self.journal = self.journal or random.Random(f"{self.seed}/journal").choice(("delete", "wal"))

    @property
    def options(self) -> dict[str, Any]:
        return {"timeout": 0.05, "hold_writes": 0.2, "primary_paths": [TOUCH], "monotonic": self.monotonic}

    def settings(self, node: SimulatedNode) -> Settings:
        return node.settings(idle_interval=0.2, silence=0.6)


TOLD = 3
"""Violations of which all is told."""


@dataclass
class Outcome:
    """What came of it."""

    run: Run
    report: SessionReport
    driver: Driver
    edge: Edge

    def __str__(self) -> str:
        record = self.run.record
        lines = [f"{SEED}={self.run.seed} ({self.run.journal})", str(self.report), f"statuses {dict(record.statuses)}"]
        lines += [f"  {count} times {error}" for error, count in record.errors.most_common(10)]
        lines.append(f"{self.edge.replays} replays, {self.edge.loops} loops")
        for violation in self.report.violations[:TOLD]:
            lines += [str(violation), *self._story(violation)]
        lines += [f"faults {dict(self.driver.done)}", f"in vain {dict(self.driver.in_vain)}"]
        return "\n".join(lines)

    def _story(self, violation: Violation) -> Iterator[str]:
        """What the session did from what it relied on to what broke that."""
        record, first, last = self.run.record, violation.earlier, violation.later
        for operation in sorted(record.operations, key=lambda operation: operation.start):
            if operation.session == first.session and first.start <= operation.start <= last.start:
                yield f"  {operation.start}-{operation.end} {operation.answer} read {tuple(operation.read or ())[:3]}"
                yield from (f"    {step}" for step in record.trails[int(operation.start)])


class Scene:
    """A cluster whose nodes run the application, under faults from `started` on, until all requests are answered."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.edge = Edge([])
        self.roles: dict[str, Callable[[], Role]] = {}
        """By hostname: what its watcher says."""
        self._maintenance = Maintenance()
        self._stack = ExitStack()

    def __enter__(self) -> Scene:
        with ExitStack() as stack:
            self._deaf = stack.enter_context(deafness())
            self.cluster = stack.enter_context(SimulatedCluster(size=3, lag=0.001, fuse=self.run.fuse))
            with closing(self.cluster.connect(isolation_level=None)) as connection:
                connection.execute(f"PRAGMA journal_mode={self.run.journal}")
                create(connection, [])
            self.cluster.wait_until_replicated()
            self.edge.hostnames = [node.hostname for node in self.cluster]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def store(self, node: SimulatedNode) -> Store:
        # On LiteFS nobody sees a transaction before its TXID: here who has seen it waits until the cluster has shown that.
        return Store(node.hostname, connector(self.cluster, node), self._maintenance, self.cluster.sync)

    def clients(self) -> list[Client]:
        return [
            self.run.client(f"c{number}", self.run.seed, self.edge, self.run.record) for number in range(self.run.clients)
        ]

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Faults happen, until the block is left. Then all is healed."""
        chance = random.Random(f"{self.run.seed}/faults")
        faults = Faults(
            self.cluster,
            chance,
            self._maintenance,
            deaf=self._deaf,
            role_of=lambda hostname: self.roles[hostname](),
            fuse=self.run.fuse,
        )
        self._driver = Driver(faults, chance, self.run.record, left_out=self.run.left_out)
        thread = threading.Thread(target=self._driver.run, name="faults")
        thread.start()
        try:
            yield
        finally:
            self.run.record.finish()
            thread.join()

    def judge(self) -> Outcome:
        """Let everything arrive, and compare what was answered with what then is there."""
        self._driver.end()
        with closing(self.cluster.connect()) as connection:
            log = newest(connection, -1)[::-1]
        guarantees = EVERY if self.run.monotonic else OWN_WRITES
        report = check_sessions(self.run.record.operations, log, guarantees=guarantees)
        return Outcome(self.run, report, self._driver, self.edge)


def connector(cluster: SimulatedCluster, node: SimulatedNode) -> Connect:
    """Opens a node's database as it is on LiteFS: not at all where the process has died, and later where it is frozen."""

    def connect(*, writing: bool) -> sqlite3.Connection:
        deadline = time.monotonic() + FROZEN
        while node.frozen and time.monotonic() < deadline:
            time.sleep(0.002)
        if not node.running or node.frozen:
            raise sqlite3.OperationalError("disk I/O error")
        if writing and not node.is_primary:  # a hand-over has it that the next primary's file can be written a bit too soon
            raise sqlite3.OperationalError("attempt to write a readonly database")
        options: dict[str, Any] = {"factory": cluster.connection_class, "timeout": LOCKED, "isolation_level": None}
        connection: sqlite3.Connection = sqlite3.connect(f"file:{node.path()}?mode=rw", uri=True, **options)
        return connection

    return connect


async def run_asgi(run: Run) -> Outcome:
    """Through the ASGI middleware, in one event loop."""
    with Scene(run) as scene:
        async with AsyncExitStack() as stack:
            apps: dict[str, App] = {}
            for node in scene.cluster:
                watcher = await stack.enter_async_context(Watcher(run.settings(node)))
                scene.roles[node.hostname] = partial(getattr, watcher, "role")
                apps[node.hostname] = LiteFSMiddleware(asgi_app(scene.store(node)), watcher, **run.options)
            with scene.faults():
                async with anyio.create_task_group() as tasks:
                    for client in scene.clients():
                        tasks.start_soon(converse, client.conversation(run.requests // run.clients), apps)
        return scene.judge()


def run_wsgi(run: Run) -> Outcome:
    """Through the WSGI middleware, each client in a thread."""
    with Scene(run) as scene:
        with ExitStack() as stack:
            apps: dict[str, Any] = {}
            for node in scene.cluster:
                watcher = stack.enter_context(BlockingWatcher(run.settings(node)))
                scene.roles[node.hostname] = partial(getattr, watcher, "role")
                apps[node.hostname] = WSGIMiddleware(wsgi_app(scene.store(node)), watcher, **run.options)
            conversations = [client.conversation(run.requests // run.clients) for client in scene.clients()]
            threads = [threading.Thread(target=converse_blocking, args=(each, apps)) for each in conversations]
            with scene.faults():
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        return scene.judge()
