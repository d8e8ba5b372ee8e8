"""LiteFS's event stream, ``GET /events``: the source that sees replication on LiteFS's own mount.

On connecting, ``init`` tells the role; it carries no positions, so all are read then; from there on ``tx`` is trusted. There
is no heartbeat: silence is normal. When it ends, it is opened again with growing pauses.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel

from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.errors import WireError
from litefs_watch.sources import Health
from litefs_watch.sources.http import HTTP_ERRORS, Response, request
from litefs_watch.sources.wire import Event, Init, LineDecoder, PrimaryChanged, Tx, parse_event, parse_info

FIRST_PAUSE = 0.05
"""Seconds before the first attempt to reconnect; each next pause is twice as long, with up to half of it taken off."""
LAST_PAUSE = 2.0
"""Seconds: the longest pause."""
STEADY = 1.0
"""Seconds that a stream must live for the pauses to begin anew; one that dies sooner is not reconnected to in a spin."""
ANSWER_TIMEOUT = 5.0
"""Seconds for the connection, for the response's head, and for ``init``, each."""
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
        on_data_dir: Callable[[Path], None],
    ) -> None:
        self._api_url = api_url
        self._report = report
        self._look = look
        self._on_data_dir = on_data_dir
        self.health = Health("stream")
        self.attempted = False
        """Whether the first attempt has succeeded or failed."""
        self.events = 0
        self.connections = 0
        self._opened_at = 0.0

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
        try:
            async with request("GET", f"{api_url}/events", timeout=ANSWER_TIMEOUT) as response:
                if response.status != 200:
                    where = f" to {response.headers['location']!r}" if "location" in response.headers else ""
                    raise WireError(
                        f"GET {api_url}/events answered {response.status}{where}, not 200: is this LiteFS's http.addr? "
                        "Set LITEFS_API_URL (api_url=) to it"
                    )
                await self._follow(response, api_url)
            reason = f"{api_url}/events ended"
        except HTTP_ERRORS as error:
            reason = str(error) or type(error).__name__
            if api_url not in reason:
                reason = f"{api_url}/events: {reason}"
        now = time.monotonic()
        lived = now - self._opened_at if self.health.alive else 0.0
        was_open = self.health.alive
        self.health.down(reason)
        if was_open:
            self._report(StreamEnded(now))
        self.attempted = True
        self._look()  # whatever ended the stream, or keeps it away, may have changed the mount too
        return lived

    async def _follow(self, response: Response, api_url: str) -> None:
        decoder = LineDecoder()
        with anyio.CancelScope(deadline=anyio.current_time() + ANSWER_TIMEOUT) as patience:
            while (chunk := await response.chunk()) is not None:
                received = time.monotonic()
                for line in decoder.feed(chunk):
                    self._take(line, received, api_url)
                    patience.deadline = float("inf")  # `init` has come
                await anyio.lowlevel.checkpoint()  # whoever was woken goes first; getting ready for more can wait
        if patience.cancelled_caught:
            raise TimeoutError(f"{api_url}/events sent no whole line within {ANSWER_TIMEOUT:g} s")

    def _take(self, line: bytes, received: float, api_url: str) -> None:
        alive = self.health.alive
        try:
            event = parse_event(line)
        except WireError as error:
            if not alive:
                raise
            self.health.fault(f"{api_url}/events: {error}")
            self._look()
            return
        self.events += 1
        if isinstance(event, Tx) and alive:
            self._report(TxEvent(received, event.database, event.data.position))
        else:
            self._take_other(event, received, api_url)
        self.health.fault(None)

    def _take_other(self, event: Event, received: float, api_url: str) -> None:
        if not self.health.alive:
            if not isinstance(event, Init):
                raise WireError(f"{api_url}/events began with {event.type!r} instead of 'init': is this LiteFS?")
            self._opened_at = received
            self.connections += 1
            self.health.up(f"connected to {api_url}/events")
            self._tasks.start_soon(self._fetch_data_dir, api_url)
        if isinstance(event, Init | PrimaryChanged):
            first = isinstance(event, Init)
            self._report(RoleEvent(received, event.data.is_primary, event.data.hostname, first))
        if not isinstance(event, PrimaryChanged):
            self._look()  # `init` carries no positions; and an unknown event may mean anything
        self.attempted = True

    async def _fetch_data_dir(self, api_url: str) -> None:
        """Learn where LiteFS keeps its data: the second choice, for when this stream is away."""
        try:
            with anyio.fail_after(ANSWER_TIMEOUT):
                async with request("GET", f"{api_url}/info", timeout=ANSWER_TIMEOUT) as response:
                    info = parse_info(await response.read(_INFO_LIMIT))
        except HTTP_ERRORS:
            return
        if info.path.startswith("/"):
            self._on_data_dir(Path(info.path))
