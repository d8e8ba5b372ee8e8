"""The body of a request on its way to the primary, and the client that may fall silent, or hang up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import anyio

from litefs_watch.asgi.types import Message, Receive
from litefs_watch.asgi.upstream import Connection
from litefs_watch.web.forwarding import AT_ONCE, LINGER, QUIET, Broken, Failed, late, silent
from litefs_watch.web.slots import Silent


class Upload:
    """Takes the body from ``receive`` in a task of its own, and sends it once there is a connection.

    ``length`` is what the client announced. In seconds: how long the client may be ``silent_for`` while there is no answer,
    and how long the primary may be ``stuck_for`` without taking anything.
    """

    def __init__(self, receive: Receive, length: bytes | None, silent_for: float, stuck_for: float, waiting: Silent) -> None:
        self._receive = receive
        self._length = length
        self._silent_for = silent_for
        self._stuck_for = stuck_for
        self._waiting = waiting
        self._begun = anyio.Event()
        self._connected = anyio.Event()
        self._ended = anyio.Event()
        self._connection: Connection | None = None
        self._on_failure: Callable[[Failed], None] | None = None
        self._on_progress: Callable[[], None] = lambda: None
        self._failure: Failed | None = None
        self._limit: anyio.CancelScope | None = None
        self._throw_away = False
        self._pieces = 0
        self.first: bytes = b""
        self.in_hand: bool = False
        """Whether ``first`` is all there is."""

    @property
    def is_empty(self) -> bool:
        return self.in_hand and not self.first

    @property
    def is_over(self) -> bool:
        """Whether all of it was sent, or nothing more will be."""
        return self._ended.is_set() or self._throw_away

    @property
    def is_sent(self) -> bool:
        """Whether the primary has it all, and nobody writes any more."""
        return self.in_hand or (self._ended.is_set() and not self._throw_away)

    async def begin(self) -> None:
        """Wait for its first piece, for a moment: a body that is here at once can go out in one piece with the head."""
        with anyio.move_on_after(AT_ONCE):
            await self._begun.wait()

    def go(self, connection: Connection, on_failure: Callable[[Failed], None], on_progress: Callable[[], None]) -> None:
        """Send it, from now on. ``on_failure`` is told why it can't be; ``on_progress`` is called with every piece."""
        self._connection, self._on_failure, self._on_progress = connection, on_failure, on_progress
        if self._failure is not None:
            on_failure(self._failure)
        elif self._limit is not None:
            self._waiting.add(self, time.monotonic())
        self._connected.set()

    async def run(self, hung_up: Callable[[], None]) -> None:
        """The task. It ends with the client: then it calls ``hung_up``."""
        more = True
        while more and not self.in_hand:
            message = await self._next()
            if message["type"] == "http.disconnect":
                hung_up()
                return
            more = message.get("more_body", False)
            await self._take(message.get("body", b""), more)
        self._ended.set()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        hung_up()

    async def _next(self) -> Message:
        with anyio.CancelScope() as limit:
            if not self._throw_away:
                limit.deadline = anyio.current_time() + self._silent_for
                self._limit = limit
                if self._connection is not None:
                    self._waiting.add(self, time.monotonic())
            try:
                return await self._receive()
            finally:
                self._limit = None
                self._waiting.remove(self)
        self._fail(silent(f"the client was silent for {self._silent_for:g} s"))
        return await self._receive()

    async def _take(self, piece: bytes, more: bool) -> None:
        self._pieces += 1
        if not self._begun.is_set():
            self.first = piece
            self.in_hand = not more or self._length == b"%d" % len(piece)
            self._begun.set()
        if self.in_hand:
            return
        await self._connected.wait()
        if self._connection is not None and not self._throw_away:
            try:
                await self._send(self._connection, piece, more)
            except Broken:  # there may be an answer all the same
                self._throw_away = True
            except Failed as failure:
                self._fail(failure)
            self._on_progress()

    async def _send(self, connection: Connection, piece: bytes, more: bool) -> None:
        data = connection.encode(piece, end=not more)
        try:
            with anyio.fail_after(self._stuck_for):
                await connection.send(data)
        except TimeoutError:
            raise late(self._stuck_for) from None

    def _fail(self, failure: Failed) -> None:
        self._throw_away = True
        self._failure = failure
        if self._on_failure is not None:
            self._on_failure(failure)

    def answered(self) -> None:
        """The primary's answer has begun: the client may want to read it before it goes on."""
        self._silent_for = math.inf
        self._waiting.remove(self)
        if self._limit is not None:
            self._limit.deadline = math.inf

    def cut(self) -> None:
        """Others need the connection."""
        self._fail(silent("the client was silent, and others needed the connection"))

    async def settle(self) -> None:
        """Throw away what still comes, until it is silent, or `LINGER` is over."""
        self._throw_away = True
        with anyio.move_on_after(LINGER):
            while not self._ended.is_set():
                seen = self._pieces
                with anyio.move_on_after(QUIET):
                    await self._ended.wait()
                if self._pieces == seen:
                    return
