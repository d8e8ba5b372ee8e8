"""Two nodes, simulated or real, on which an application commits late; and clients who read what they have written."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import SimulatedCluster
from tests.contract.real import RealPair, reason_against_real, until

ROUNDS = 50
SOON = 20.0
"""Seconds."""

TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY)"

WHERE = ["simulated", pytest.param("real", marks=pytest.mark.litefs)]


@dataclass
class Two:
    """A primary, and a replica that lags."""

    primary: Any
    replica: Any
    connect: Callable[..., sqlite3.Connection]
    """Of a hostname."""


@contextmanager
def two_nodes(where: str, directory: Path) -> Iterator[Two]:
    """Both have a table."""
    if where == "simulated":
        with SimulatedCluster(size=2, lag=0.05) as cluster:
            cluster.execute(TABLE)
            cluster.wait_until_replicated()
            yield Two(cluster.primary, cluster.replicas[0], partial(cluster.connect, check_same_thread=False, timeout=SOON))
        return
    if reason := reason_against_real():
        pytest.skip(reason)
    with RealPair(directory) as pair:
        nodes = {node.hostname: node for node in (pair.primary, pair.replica)}

        def connect(hostname: str) -> sqlite3.Connection:
            return sqlite3.connect(nodes[hostname].litefs_dir / "app.db", check_same_thread=False, timeout=SOON)

        with closing(connect(pair.primary.hostname)) as connection, connection:
            connection.execute(TABLE)
        until(lambda: pair.replica.position() == pair.primary.position(), "the replica has the table")
        yield Two(pair.primary, pair.replica, connect)


@dataclass
class Shop:
    """What the handlers of a node do."""

    connect: Callable[[], sqlite3.Connection]
    may_commit: threading.Event = field(default_factory=threading.Event)
    has_committed: threading.Event = field(default_factory=threading.Event)

    def add(self, number: int) -> None:
        with closing(self.connect()) as connection, connection:
            connection.execute("INSERT INTO orders VALUES (?)", (number,))

    def has(self, number: int) -> bool:
        with closing(self.connect()) as connection:
            return connection.execute("SELECT 1 FROM orders WHERE id = ?", (number,)).fetchone() is not None

    def add_later(self, number: int) -> None:
        """In the background: when the test says so."""
        if not self.may_commit.wait(SOON):
            raise TimeoutError("nobody said that it may commit")
        self.may_commit.clear()
        self.add(number)
        self.has_committed.set()

    def commit_now(self) -> None:
        self.may_commit.set()
        assert self.has_committed.wait(SOON)
        self.has_committed.clear()


Ask = Callable[[str, str], Any]
"""``ask(method, path)``: the answer's JSON, of a client who keeps its cookies and follows replays."""


def stale_reads(write: Ask, read: Ask) -> int:
    """Of `ROUNDS` reads, each right after a write."""
    stale = 0
    for number in range(ROUNDS):
        write("POST", f"/orders/{number}")
        stale += not read("GET", f"/orders/{number}")
    return stale


def beside_control(write: Ask, read: Ask, shop: Shop, control: Ask, beside: Shop) -> tuple[list[bool], list[bool]]:
    """What each of `ROUNDS` reads has seen, and what the same application on one machine has shown. The write is committed
    in the background, by chance before the read or after it."""
    chance = random.Random(7)
    seen, expected = [], []
    for number in range(ROUNDS):
        other, commits_first = number + ROUNDS, chance.random() < 0.5
        write("POST", f"/orders/{number}")
        control("POST", f"/orders/{other}")
        for each in (shop, beside) if commits_first else ():
            each.commit_now()
        seen.append(read("GET", f"/orders/{number}"))
        expected.append(control("GET", f"/orders/{other}"))
        for each in () if commits_first else (shop, beside):
            each.commit_now()
    return seen, expected
