"""The event streams of other nodes: read by the same reader as this node's own, and each by itself.

A peer may be anything: down, frozen, another program, one that floods or lies. What it does ends in its own stream's health,
in growing pauses, and nowhere else. So does the DNS.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from urllib.parse import urlsplit

import anyio
import h11
from anyio import sleep

from litefs_watch import fly
from litefs_watch.core.peers import DATABASES, TxidsTold
from litefs_watch.core.readings import Reading, StreamEnded
from litefs_watch.errors import ConfigError, WireError
from litefs_watch.position import check_database_name
from litefs_watch.printable import safe
from litefs_watch.settings import DEFAULT_API_URL, MOST_PEERS, Settings
from litefs_watch.sources.connection import connect, send
from litefs_watch.sources.event_decoder import Garbled, Reached
from litefs_watch.sources.http import Response, encode_request, time_for
from litefs_watch.sources.stream import ANSWER_TIMEOUT, EventStream
from litefs_watch.sources.thread import CallThread
from litefs_watch.sources.wire import Disconnected, Event

logger: logging.Logger = logging.getLogger("litefs_watch")

REFRESH = 15.0
"""Seconds between two questions to Fly.io's DNS."""
DNS_TIMEOUT = 10.0
"""Seconds for its answer."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0
"""Seconds before a peer's stream that failed through a fault of ours runs again; the same for the DNS, which then waits for
`REFRESH` at most."""

MOST: int = MOST_PEERS
RATE = 50_000
"""Events of one peer in a second: a third of a processor's time. LiteFS commits some thousand."""
METRICS_LIMIT = 1024 * 1024
"""Bytes of ``/metrics``: LiteFS prints some 700 for each database."""
_TXID = re.compile(rb'^litefs_db_txid\{db="((?:[^"\\\n]|\\[^\n]){1,500})"\} ([0-9.e+]{1,30})$', re.MULTILINE)
_ESCAPED = re.compile(rb"\\(.)")
_MACHINE = re.compile(r"[A-Za-z0-9-]{1,63}")

Publish = Callable[[str, Reading | TxidsTold, tuple[str, str]], None]


class PeerStream(EventStream):
    """One peer's. What can't be read ends it: it may have been the word that a position went back.

    When it is open, LiteFS's metrics tell once where the databases are that it has not told of yet: TXIDs, for people.
    """

    def __init__(self, url: str, publish: Publish, changed: Callable[[], None]) -> None:
        super().__init__(url, report=self._tell, look=changed, name=f"peer {safe(url)}")
        self.url = url
        self.asked: bool = False
        """Whether the metrics of the stream that is open have told, or don't."""
        self._publish = publish
        self._second = 0.0  # when the present one began; the first one with the stream …
        self._before = 0  # … and how many events there were before it
        self._names = CallThread("litefs_watch peer's name")  # the loop's own threads are the application's

    async def run(self) -> None:
        try:
            await super().run()
        except Exception as error:  # no more comes, and nobody else says so
            self.health.down(f"failed, and runs again: {error!r}")
            self._tell(StreamEnded(time.monotonic()))
            raise

    def _tell(self, reading: Reading | TxidsTold) -> None:
        if isinstance(reading, StreamEnded):
            self.asked = False
        self._publish(self.url, reading, self.identity)

    def _take_in(self, data: bytes | None) -> bool:
        more = super()._take_in(data)
        if not self._open:
            return more
        if self._received >= self._second + 1.0:
            self._second, self._before = self._received, self.events
        elif self.events - self._before > RATE:
            raise Disconnected(f"more than {RATE:,} events in a second: is this LiteFS?")
        return more

    def _begin(self, event: Reached | Event) -> None:
        super()._begin(event)
        self._second, self._before = self._received, self.events

    def _take_other(self, event: Reached | Event | Garbled) -> None:
        if isinstance(event, Garbled):
            raise Disconnected(event.reason)
        super()._take_other(event)

    async def _ask_more(self, api_url: str) -> None:
        told = time.monotonic()
        try:
            with time_for("no answer", ANSWER_TIMEOUT):
                txids = parse_txids(await self._get(f"{api_url}/metrics"))
        except WireError:
            txids = {}
        self.asked = True
        self._tell(TxidsTold(told, txids))

    async def _get(self, url: str) -> bytes:
        async with self._connected(url) as sock:
            connection = h11.Connection(h11.CLIENT)
            response = Response(sock, connection, url)
            await send(sock, encode_request(connection, "GET", url))
            await response.read_head()
            return await response.read(METRICS_LIMIT) if response.status == 200 else b""

    @asynccontextmanager
    async def _connected(self, url: str) -> AsyncIterator[socket.socket]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        try:
            with time_for(f"no connection to {url}", ANSWER_TIMEOUT):
                sock = await self._reach(host, port)
        except (OSError, UnicodeError) as error:
            raise Disconnected(f"no connection to {url}: {getattr(error, 'strerror', None) or error}") from error
        with sock:
            yield sock

    async def _reach(self, host: str, port: int) -> socket.socket:
        found = await self._names.run(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
        refusal: OSError | None = None
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            try:
                return await connect(address, port)
            except OSError as error:
                refusal = refusal or error
        raise refusal or OSError(f"{host!r} has no address")


class PeerStreams:
    """The streams of all peers, whose readings go to ``publish``. ``changed()``: who they are, or how, may have changed."""

    def __init__(self, settings: Settings, *, publish: Publish, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._publish = publish
        self._changed = changed
        self.by_url: dict[str, PeerStream] = {}
        self.fault: str | None = None
        """Why they can't all be found."""
        self.found: bool = settings.peers != "fly"
        """Whether it is known who they are, or was found that nobody tells."""
        self._scopes: dict[str, anyio.CancelScope] = {}
        if settings.peers == "fly":
            _check_extra()
        else:
            self.by_url = {url: PeerStream(url, publish, changed) for url in settings.peers}

    async def run(self) -> None:
        """Read them until cancelled. Raises nothing of its own."""
        async with anyio.create_task_group() as self._tasks:
            for stream in list(self.by_url.values()):
                self._tasks.start_soon(self._follow, stream)
            if self._settings.peers == "fly":
                self._tasks.start_soon(_keep_running, self._refresh)

    def close(self, reason: str) -> None:
        """Each is down for that ``reason``. From any thread."""
        for stream in list(self.by_url.values()):
            stream.health.down(reason, level=logging.DEBUG)

    async def _follow(self, stream: PeerStream) -> None:
        with anyio.CancelScope() as scope:
            self._scopes[stream.url] = scope
            await _keep_running(stream.run)

    async def _refresh(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                with anyio.fail_after(DNS_TIMEOUT):
                    machines = await fly.get_all_instances(self._settings.app_name)
            except Exception as error:  # noqa: BLE001 - dnspython's, and whatever stands in for it
                self._say(f"the DNS does not tell {safe(str(self._settings.app_name))}'s machines: {_shown(error)}")
                await sleep(pause)
                pause = min(2 * pause, REFRESH)
                continue
            pause = FIRST_PAUSE
            self._heed(machines)
            await sleep(REFRESH)

    def _heed(self, machines: dict[str, str]) -> None:
        """Those that the DNS has told of; who is connected stays, whatever it says."""
        port = urlsplit(self._settings.api_url or DEFAULT_API_URL).port or 80
        names = sorted(name for name in machines if _MACHINE.fullmatch(name) and name != self._settings.node_name)
        urls = [f"http://{name}.vm.{self._settings.app_name}.internal:{port}" for name in names]
        for url, stream in list(self.by_url.items()):
            if url not in urls and not stream.health.alive:
                del self.by_url[url]
                if (scope := self._scopes.pop(url, None)) is not None:
                    scope.cancel()
        new = [url for url in urls if url not in self.by_url]
        room = MOST - len(self.by_url)
        for url in new[:room]:
            self.by_url[url] = stream = PeerStream(url, self._publish, self._changed)
            self._tasks.start_soon(self._follow, stream)
        left = len(new) - room
        self._say(f"{MOST} other nodes are watched, and {left} are not" if left > 0 else None)

    def _say(self, fault: str | None) -> None:
        if fault is not None and fault != self.fault:
            logger.warning("peers: %s", fault)
        self.fault, self.found = fault, True
        self._changed()


def parse_txids(metrics: bytes) -> dict[str, int]:
    """Each database's TXID, by LiteFS's ``/metrics``. They are floats: what is none exactly is left out, as is all else."""
    found: dict[str, int] = {}
    for name, number in islice(_TXID.findall(metrics), DATABASES):
        try:
            database, txid = check_database_name(_ESCAPED.sub(rb"\1", name).decode()), float(number)
        except ValueError:
            continue
        if 0 <= txid < 2**53 and txid.is_integer():
            found[database] = int(txid)
    return found


async def _keep_running(run: Callable[[], Awaitable[None]]) -> None:
    """Run it again where it fails through a fault of ours."""
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        try:
            return await run()
        except Exception:
            logger.exception("reading other nodes failed through a fault of litefs_watch; it begins again")
        if time.monotonic() - began >= LAST_PAUSE:
            pause = FIRST_PAUSE
        await sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


def _shown(error: BaseException) -> str:
    return safe(f"{type(error).__name__}: {error}"[:200])


def _check_extra() -> None:
    from importlib.util import find_spec

    if find_spec("dns") is None:
        raise ConfigError("peers='fly' needs dnspython: pip install 'litefs-watch[fly]'")
