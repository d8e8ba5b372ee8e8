"""A watcher that says what a test wants it to say, and an ASGI server and client in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio

from litefs_watch import (
    NoPrimary,
    NotPrimary,
    Position,
    Role,
    Settings,
    TransactionLost,
    WaitTimeout,
    Watcher,
    WrongInstance,
)
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from litefs_watch.changes import PrimaryChange, Standing
from litefs_watch.core.history import Lineage, View
from litefs_watch.position import Where

Headers = list[tuple[bytes, bytes]]


class FakeWatcher:
    """The public names of `Watcher` that the middleware uses. Each wait is noted in ``waits``, and ends at once: ``during``
    is called, may change anything, and raises `WaitTimeout` unless what was waited for is true then."""

    def __init__(self, role: Role = Role.PRIMARY, primary: str | None = None, txid: int = 10) -> None:
        self.settings = Settings("/nowhere", "app.db", api_url=None, hostname="node-a")
        self.hostname = "node-a"
        self.role = role
        self.primary = primary
        self.known: Position | None = Position(txid, 1)
        self.file: Position | Exception | None = None
        """What reading the file gives; None: what is known."""
        self.waits: list[tuple[Any, ...]] = []
        self.reads = 0
        self.lost = 0
        self.replaced = False
        self.term = 0
        self.since = float("-inf")
        self.streaming = True
        self._lineage: Lineage | None = None
        self.data_dir: Path | None = None
        self.era: object = None
        """None: each position is the start of another one."""
        self.confirmed = True
        """Whether anything confirms what is known."""
        self.follows = True
        """Whether a replica follows its primary."""
        self.tells = True
        """Whether a look tells whether this node is the primary."""
        self.during: Callable[[], object] = lambda: None
        self.callbacks: list[Callable[[PrimaryChange], object]] = []
        self.misplaced: str | None = None
        self.running = True
        self.supervisor = None

    @property
    def standing(self) -> Standing:
        return Standing(self.role, self.primary)

    @property
    def vouched(self) -> bool:
        return self.role is not Role.UNKNOWN and self.follows

    def position(self, database: str | None = None) -> Position | None:
        return self.known

    @property
    def run(self) -> FakeWatcher:
        return self

    def glance(self, database: str) -> tuple[Role, Position | None]:
        return self.role, self.known

    def has_position(self, database: str, position: Position) -> bool:
        lineage = self.view().lineage
        return lineage is not None and lineage.has(position)

    def view(self, database: str | None = None) -> View:
        if self._lineage is None or self._lineage.last != self.known:  # as on a real one, it is the same until it changes
            self._lineage = None if self.known is None else Lineage.of(self.known)
        lineage = self._lineage if self.confirmed else None
        known = View(self.standing, self.vouched, self.known, lineage, self.replaced, self.data_dir, self.term, self.since)
        return known._replace(era=self._lineage if self.era is None else self.era)

    def has_tx(self, txid: int | Position, database: str | None = None) -> bool:
        view = self.view()
        where = view.where(txid)
        return (where is Where.HERE and (view.vouched or isinstance(txid, Position))) or (
            where is Where.UNTOLD and view.vouched
        )

    def count_lost(self) -> None:
        self.lost += 1

    async def confirm_primary(self, *, database: str | None = None, timeout: float | None = None) -> bool:
        self.waits.append(("primary?", timeout))
        self.during()
        if not self.tells:
            raise WaitTimeout("in vain")
        return self.role is Role.PRIMARY

    async def read_position(self, database: str | None = None) -> Position | None:
        self.reads += 1
        if isinstance(self.file, Exception):
            raise self.file
        return self.file or self.known

    async def wait_for_tx(
        self, txid: int | Position, *, database: str | None = None, timeout: float | None = None
    ) -> Position:
        self.waits.append(("tx", txid, timeout))
        self.during()
        if self.known is None or not self.has_tx(txid):
            if isinstance(txid, Position) and self.role is Role.PRIMARY:
                raise TransactionLost("gone")
            raise WaitTimeout("in vain")
        return self.known

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        self.waits.append(("primary", timeout))
        self.during()
        if self.role is Role.UNKNOWN:
            raise WaitTimeout("in vain")
        return self.primary

    async def wait_for_role(self, role: Role, *, timeout: float | None = None) -> None:
        self.waits.append((role, timeout))
        self.during()
        if self.role is not role:
            raise WaitTimeout("in vain")

    def become(self, role: Role, primary: str | None = None) -> None:
        change = PrimaryChange(role, primary, self.role, self.primary)
        self.role, self.primary = role, primary
        for callback in list(self.callbacks):
            callback(change)

    def on_primary_change(self, callback: Callable[[PrimaryChange], object]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def commit(self) -> None:
        """A transaction that LiteFS has, and of which the watcher has not heard."""
        before = self.file if isinstance(self.file, Position) else self.known
        self.file = Position((before.txid if before else 0) + 1, 2)

    def ensure_primary(self) -> None:
        if self.role is Role.UNKNOWN:
            raise NoPrimary("none")
        if self.role is Role.REPLICA:
            raise NotPrimary(self.primary)

    def ensure_instance(self, hostname: str) -> None:
        if hostname != self.hostname:
            raise WrongInstance(hostname)

    @property
    def watcher(self) -> Watcher:
        """For the type checker."""
        return cast("Watcher", self)


def replica(txid: int = 10) -> FakeWatcher:
    return FakeWatcher(Role.REPLICA, "node-b", txid)


def unknown(txid: int = 10) -> FakeWatcher:
    return FakeWatcher(Role.UNKNOWN, None, txid)


@dataclass
class Reply:
    """What came of a request."""

    messages: list[Message] = field(default_factory=list)
    received: int = 0
    """How many messages the application took."""

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.messages[0]["headers"] if key == name.encode()]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, f"{name} more than once: {found}"
        return found[0] if found else None

    @property
    def cookie(self) -> str | None:
        """The ``set-cookie``."""
        return self.header("set-cookie")


def scope_of(
    method: str = "GET", path: str = "/", headers: Iterable[tuple[str, str | bytes]] = (), **others: Any
) -> dict[str, Any]:
    raw = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": ("192.0.2.7", 1234),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    } | others


async def call(
    app: App, *arguments: Any, body: Iterable[bytes] = (b"",), reply: Reply | None = None, **others: Any
) -> Reply:
    """Send one request through ``app``: the arguments are those of `scope_of`. ``reply`` is filled where it raises, too."""
    reply = Reply() if reply is None else reply
    pieces = list(body)

    async def receive() -> Message:
        reply.received += 1
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        await anyio.sleep_forever()  # the client stays
        raise AssertionError

    async def send(message: Message) -> None:
        reply.messages.append(message)

    await app(scope_of(*arguments, **others), receive, send)
    return reply


@dataclass
class Handler:
    """An application that answers 200, and counts."""

    during: Callable[[Scope], object] = lambda scope: None
    headers: Headers = field(default_factory=lambda: [(b"content-type", b"text/plain")])
    status: int = 200
    runs: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        self.during(scope)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"here"})


def raises(error: Exception) -> Callable[[Scope], object]:
    def during(scope: Scope) -> object:
        raise error

    return during
