"""One run: machines behind the edge, each with the application behind a middleware, clients, faults, and the judgement."""

from __future__ import annotations

import os
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

import anyio

from litefs_watch import BlockingWatcher, Role, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import App
from litefs_watch.testing import Guarantee, SessionReport, Violation, check_sessions
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware
from tests.chaos.app import TOUCH, Store, asgi_app, wsgi_app
from tests.chaos.client import Client, Record
from tests.chaos.edge import Edge
from tests.chaos.http import Conversation, converse, converse_blocking

EVERY = tuple(Guarantee)
OWN_WRITES = (Guarantee.READ_YOUR_WRITES,)
SEED = "LITEFS_WATCH_CHAOS_SEED"
"""The environment variable that has a run done again."""


@dataclass
class Run:
    """What is to be done. ``client`` makes the clients; another one may forget what it should keep."""

    requests: int
    """Of all clients together."""
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
        budget = {"max_waiting": self.clients, "max_held": self.clients}  # each has a thread
        return {"timeout": 0.05, "hold_writes": 0.2, "primary_paths": [TOUCH], "monotonic": self.monotonic} | budget


@dataclass
class Machine:
    """A node, and the application's part there."""

    settings: Settings
    store: Store
    role: Callable[[], Role] = lambda: Role.UNKNOWN
    """What its watcher says."""


class Faults(Protocol):
    """What goes wrong. `run` is for a thread of its own, and returns soon after the record is over."""

    done: Counter[str]
    """How often each fault took place, whole."""
    in_vain: Counter[str]
    """How often one could not, since another one was in its way."""

    def run(self) -> None: ...

    def end(self) -> None:
        """After `run`: end all that is under way, and heal the cluster. Raises what `run` has met."""


TOLD = 3
"""Violations of which all is told."""


@dataclass
class Outcome:
    """What came of it."""

    run: Run
    report: SessionReport
    driver: Faults
    edge: Edge

    def __str__(self) -> str:
        record = self.run.record
        lines = [f"{SEED}={self.run.seed} ({self.run.journal})", str(self.report), f"statuses {dict(record.statuses)}"]
        lines += [f"  {count} times {error}" for error, count in record.errors.most_common(10)]
        lines.append(f"{self.edge.replays} replays, {self.edge.loops} loops, {len(record.doubts)} doubts told")
        lines += [f"false alarm: {step}" for step in record.false_alarms]
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


class Scene(ABC):
    """A cluster whose machines run the application. A context manager."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.machines: dict[str, Machine] = {}
        """By hostname."""
        self.stack = ExitStack()
        """What is left at the end."""

    @abstractmethod
    def prepare(self) -> None:
        """Start the cluster, with the application's table, and fill `machines`."""

    @abstractmethod
    def make_faults(self) -> Faults: ...

    @abstractmethod
    def log(self) -> list[str]:
        """At the end, what is in the primary's database."""

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.edge = Edge(list(self.machines))
            self.driver = self.make_faults()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def conversations(self) -> list[Conversation]:
        run = self.run
        clients = [run.client(f"c{number}", run.seed, self.edge, run.record) for number in range(run.clients)]
        return [client.conversation(run.requests // run.clients) for client in clients]

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Faults happen, until the block is left."""
        thread = threading.Thread(target=self.driver.run, name="faults")
        thread.start()
        try:
            yield
        finally:
            self.run.record.finish()
            thread.join()

    def heal(self) -> None:
        """End what is under way, and let everything arrive."""
        self.driver.end()

    def judge(self) -> Outcome:
        """Compare what was answered with what is there once everything has arrived."""
        self.heal()
        guarantees = EVERY if self.run.monotonic else OWN_WRITES
        report = check_sessions(self.run.record.operations, self.log(), guarantees=guarantees)
        return Outcome(self.run, report, self.driver, self.edge)


async def run_asgi(given: Scene) -> Outcome:
    """Through the ASGI middleware, in one event loop."""
    with given as scene:
        async with AsyncExitStack() as stack:
            apps: dict[str, App] = {}
            for hostname, machine in scene.machines.items():
                watcher = await stack.enter_async_context(Watcher(machine.settings))
                machine.role = partial(getattr, watcher, "role")
                apps[hostname] = LiteFSMiddleware(asgi_app(machine.store), watcher, **scene.run.options)
            with scene.faults():
                async with anyio.create_task_group() as tasks:
                    for conversation in scene.conversations():
                        tasks.start_soon(converse, conversation, apps)
        return scene.judge()


def run_wsgi(given: Scene) -> Outcome:
    """Through the WSGI middleware, each client in a thread."""
    with given as scene:
        with ExitStack() as stack:
            apps: dict[str, Any] = {}
            for hostname, machine in scene.machines.items():
                watcher = stack.enter_context(BlockingWatcher(machine.settings))
                machine.role = partial(getattr, watcher, "role")
                apps[hostname] = WSGIMiddleware(wsgi_app(machine.store), watcher, **scene.run.options)
            threads = [threading.Thread(target=converse_blocking, args=(each, apps)) for each in scene.conversations()]
            with scene.faults():
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        return scene.judge()
