"""LiteFS's event stream, ``GET /events``: the source that sees replication on LiteFS's own mount.

On connecting, ``init`` tells the role; it carries no positions, so all are read then; from there on ``tx`` is trusted. There
is no heartbeat: silence is normal. When it ends, it is opened again with growing pauses.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio

from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded
from litefs_watch.sources import Health
from litefs_watch.sources.burst import Burst
from litefs_watch.sources.connection import pump, send
from litefs_watch.sources.event_decoder import NEED_DATA, NOTHING, EventDecoder, Garbled, Reached
from litefs_watch.sources.http import HTTP_ERRORS, connection_to, request, time_for
from litefs_watch.sources.wire import Disconnected, Event, Init, PrimaryChanged, parse_info

FIRST_PAUSE = 0.05
"""Seconds before the first attempt to reconnect; each next pause is twice as long, with up to half of it taken off."""
LAST_PAUSE = 2.0
"""Seconds: the longest pause."""
STEADY = 1.0
"""Seconds that a stream must live for the pauses to begin anew; one that dies sooner is not reconnected to in a spin."""
ANSWER_TIMEOUT = 5.0
"""Seconds for the connection, for the response's head, and for ``init``, each."""
TURN = 256
"""Steps of the decoder, an event each at most, until the loop's other tasks have their turn: about 1 ms of work where LiteFS
talks, 10 ms where something else does."""
_INFO_LIMIT = 64 * 1024

_jitter = random.Random()  # noqa: S311 - no secret; our own, so that an application's seeded numbers stay what they are


class EventStream:
    """Reads the stream and reports what it says."""

    def __init__(
        self,
        api_url: str | None,
        *,
        report: Callable[[Reading], None],
        look: Callable[[], None],
        on_data_dir: Callable[[Path], None] | None = None,
        name: str = "stream",
    ) -> None:
        self._api_url = api_url
        self._report = report
        self._look = look
        self._on_data_dir = on_data_dir
        self.health: Health = Health(name)
        self.attempted: bool = False
        """Whether the first attempt has succeeded or failed."""
        self.events: int = 0
        self.connections: int = 0
        self.identity: tuple[str, str] = "", ""
        """The ids of the node that answers, or did last, and of its cluster; see `EventDecoder.identity`."""
        self._open = False  # `init` has come
        self._opened_at = self._received = 0.0

    async def run(self) -> None:
        if self._api_url is None:
            self.health.down("turned off (api_url=None)", level=logging.DEBUG)
            self.attempted = True
            return
        async with anyio.create_task_group() as self._tasks:
            pause = FIRST_PAUSE
            while True:
                lived = await self._session(self._api_url)
                pause = FIRST_PAUSE if lived >= STEADY else min(pause * 2, LAST_PAUSE)
                await anyio.sleep(pause * _jitter.uniform(0.5, 1.0))

    async def _session(self, api_url: str) -> float:
        """One connection, from the attempt to its end. Returns for how many seconds the stream was open."""
        self._open = False
        try:
            await self._follow(api_url)
            reason = f"{self._url} ended"
        except Disconnected as error:
            reason = str(error)
            if api_url not in reason:
                reason = f"{self._url}: {reason}"
        now = time.monotonic()
        lived = now - self._opened_at if self._open else 0.0
        self.health.down(reason)
        if self._open:
            self._report(StreamEnded(now))
        self.attempted = True
        self._look()  # whatever ended the stream, or keeps it away, may have changed the mount too
        return lived

    async def _follow(self, api_url: str) -> None:
        self._url = url = f"{api_url}/events"
        self._decoder = decoder = EventDecoder(url)
        self._burst = Burst(self._report)
        async with self._connected(url) as sock:
            with time_for(f"no answer from {url}", ANSWER_TIMEOUT):
                await send(sock, decoder.request)
                await pump(sock, self._take_in, lambda: decoder.answered)
            with time_for(f"{url} sent no whole line", ANSWER_TIMEOUT):
                await pump(sock, self._take_in, lambda: self._open or decoder.ended)
            if self._open:
                self._tasks.start_soon(self._ask_more, api_url)
            await pump(sock, self._take_in, lambda: decoder.ended)

    def _connected(self, url: str) -> AbstractAsyncContextManager[socket.socket]:
        return connection_to(url, timeout=ANSWER_TIMEOUT)

    def _take_in(self, data: bytes | None) -> bool:
        """Take in what has come; None: what was left over. Returns whether something is left over again."""
        decoder, burst = self._decoder, self._burst
        if data is not None:
            self._received = time.monotonic()
            decoder.receive(data)
        try:
            for _ in range(TURN):
                event = decoder.next_event()
                if type(event) is Reached and self._open:
                    self.events += 1
                    burst.put(self._received, event.database, event.position)
                    if self.health.status.fault is not None:
                        self.health.fault(None)
                    if decoder.drained:
                        event = NEED_DATA
                        break
                elif event is NEED_DATA:
                    break
                elif event is not NOTHING:
                    burst.flush(self._received)
                    self._take_other(event)
        except Disconnected:
            burst.flush(self._received)
            raise
        burst.flush(self._received)
        return event is not NEED_DATA

    def _take_other(self, event: Reached | Event | Garbled) -> None:
        if isinstance(event, Garbled):
            if not self._open:
                raise Disconnected(event.reason)
            self.health.fault(f"{self._url}: {event.reason}")
            self._look()
            return
        self.events += 1
        if not self._open:
            self._begin(event)
        if isinstance(event, Init | PrimaryChanged):
            first = isinstance(event, Init)
            self._report(RoleEvent(self._received, event.data.is_primary, event.data.hostname, first))
        if not isinstance(event, PrimaryChanged):
            self._look()  # `init` carries no positions; and an unknown event may mean anything
        self.attempted = True
        self.health.fault(None)

    def _begin(self, event: Reached | Event) -> None:
        if not isinstance(event, Init):
            kind = "tx" if isinstance(event, Reached) else event.type
            raise Disconnected(f"{self._url} began with {kind!r} instead of 'init': is this LiteFS?")
        self._open = True
        self._opened_at = self._received
        self.identity = self._decoder.identity
        self.connections += 1
        self.health.up(f"connected to {self._url}")

    async def _ask_more(self, api_url: str) -> None:
        """Once it is open, learn where LiteFS keeps its data: the second choice, for when this stream is away."""
        if self._on_data_dir is None:
            return
        try:
            with anyio.fail_after(ANSWER_TIMEOUT):
                async with request("GET", f"{api_url}/info", timeout=ANSWER_TIMEOUT) as response:
                    info = parse_info(await response.read(_INFO_LIMIT))
        except (*HTTP_ERRORS, TimeoutError, RuntimeError):  # RuntimeError: no thread to look the name up in
            return
        if info.path.startswith("/"):
            self._on_data_dir(Path(info.path))
