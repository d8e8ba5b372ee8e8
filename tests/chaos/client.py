"""Clients behind the edge, each with what it keeps of the answers: cookies, or a header. What they hold is opaque to them.

What a client does next is drawn from its own seed, so that a seed gives the same requests however they interleave.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from litefs_watch.consistency import Options
from litefs_watch.testing import Operation
from tests.chaos.app import SWAP, TOUCH
from tests.chaos.edge import Edge
from tests.chaos.http import Conversation, Request, Response, Sent

TOKEN_HEADER = Options().header or ""
LOST_HEADER, DOUBTED_HEADER = "litefs-lost", "litefs-doubted"

KINDS = {("GET", "/"): 45, ("POST", "/"): 40, ("POST", SWAP): 10, ("GET", TOUCH): 5}
"""How often a client does what."""
STAYS = 40
"""Requests of a session, on average, before its client starts as somebody new."""


class Record:
    """What all clients did, and how far they are. From any thread."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.trails: dict[int, list[str]] = {}
        """By an operation's start: each machine that was asked, with what it was given and what it answered."""
        self.doubts: set[float] = set()
        """The starts of those operations whose answer said that it can't tell whether something is lost."""
        self.false_alarms: list[str] = []
        """Answers that were sure of a loss, of nodes that were not the primary, whose history is the one that counts."""
        self._leaders: list[tuple[int, str]] = []
        self._dead: list[tuple[str, float]] = []
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.over = False
        self._tick = itertools.count()
        self._begun = 0
        self._progress = threading.Condition()
        self._leading = threading.Lock()

    def begin(self) -> int:
        """A request is about to be sent. The time, by a clock that ticks with each request and each answer."""
        with self._progress:
            self._begun += 1
            self._progress.notify_all()
        return next(self._tick)

    def end(self) -> int:
        return next(self._tick)

    @contextlib.contextmanager
    def leads(self, hostname: str) -> Iterator[None]:
        """Inside, this node becomes the primary: by the cluster's own word."""
        with self._leading:
            yield
            self._leaders.append((next(self._tick), hostname))

    def dies(self, hostname: str) -> None:
        """Until `lives` its LiteFS is dead, and what it has left in an ordinary directory is what it was."""
        with self._leading:
            self._dead.append((hostname, float("inf")))

    def lives(self, hostname: str) -> None:
        with self._leading:
            self._dead = [(name, min(until, next(self._tick)) if name == hostname else until) for name, until in self._dead]

    def leaders(self, start: int) -> set[str]:
        """Who has been the primary since then, or was dead and can't know that it is not; nobody where the cluster doesn't
        say."""
        with self._leading:
            before = [leader for tick, leader in self._leaders if tick <= start][-1:]
            dead = [hostname for hostname, until in self._dead if until > start]
            return {*before, *(leader for tick, leader in self._leaders if tick > start), *dead}

    def wait_for(self, begun: int, timeout: float) -> bool:
        """Wait until so many requests have begun, at most ``timeout`` seconds. False where all is over."""
        with self._progress:
            self._progress.wait_for(lambda: self._begun >= begun or self.over, timeout)
            return not self.over

    @property
    def begun(self) -> int:
        return self._begun

    def finish(self) -> None:
        with self._progress:
            self.over = True
            self._progress.notify_all()


@dataclass
class Session:
    """What one user has: a name, and the tokens that came back."""

    name: str
    by_header: bool
    cookies: dict[str, str] = field(default_factory=dict)
    header: str | None = None

    def headers(self) -> dict[str, str]:
        if self.by_header:
            return {TOKEN_HEADER: self.header} if self.header is not None else {}
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}

    def keep(self, response: Response) -> None:
        """Keep what an answer says is to be kept, as a browser or a program does."""
        for line in response.all("set-cookie"):
            pair, *attributes = (part.strip() for part in line.split(";"))
            name, _, value = pair.partition("=")
            if "max-age=0" in (attribute.lower() for attribute in attributes):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        self.header = response.header(TOKEN_HEADER) or self.header


class Client:
    """Does one request after the other."""

    def __init__(self, name: str, seed: str, edge: Edge, record: Record) -> None:
        self.name = name
        self._chance = random.Random(f"{seed}/{name}")
        self._edge = edge
        self._record = record
        self._number = 0
        self._sessions = 0
        self.session = self._new_session()

    def _new_session(self) -> Session:
        self._sessions += 1
        return Session(f"{self.name}.{self._sessions}", by_header=self._chance.random() < 0.25)

    def conversation(self, requests: int) -> Conversation:
        """Its requests, each answered before the next is sent."""
        for _ in range(requests):
            if self._record.over:
                return
            if self._chance.random() < 1 / STAYS:
                self.session = self._new_session()
            yield from self._operate()

    def _operate(self) -> Generator[Sent, Response, None]:
        session = self.session
        ((method, path),) = self._chance.choices(list(KINDS), KINDS.values())  # type: ignore[arg-type]
        self._number += 1
        written = f"{self.name}-{self._number}" if (method, path) != ("GET", "/") else None
        start = self._record.begin()
        request = Request(method, path, written or "", session.headers())
        trail = self._record.trails[start] = []
        response = yield from self._edge.route(request, self._chance, trail)
        end = self._record.end()
        if response.header(LOST_HEADER) is not None:
            leaders = self._record.leaders(start)
            if leaders and trail[-1].partition(":")[0] not in leaders:
                self._record.false_alarms += [*trail, f"from {start} to {end} the primary was {leaders}"]
        self.keep(session, response)
        ok = response.status == 200
        self._record.statuses[response.status] += 1
        if not ok:
            self._record.errors[response.body.decode()[:80]] += 1
        self._record.operations.append(
            Operation(
                session.name,
                start,
                end,
                written=written,
                read=json.loads(response.body).get("read") if ok else None,
                node=response.header("x-node") or "",
                answer="ok" if ok else "refused" if response.status == 503 else "unknown",
                told_lost=any(response.header(name) is not None for name in (LOST_HEADER, DOUBTED_HEADER)),
            )
        )
        if response.header(DOUBTED_HEADER) is not None:
            self._record.doubts.add(start)

    def keep(self, session: Session, response: Response) -> None:
        """Take in what an answer brought."""
        session.keep(response)


class Forgetful(Client):
    """Keeps no token."""

    def keep(self, session: Session, response: Response) -> None:
        pass
