"""WebSockets that were let in while this node was the primary, and what becomes of them when it is the primary no more.

A request ends, and the next one is sent to where the primary is by then; a WebSocket stays where it was opened, and all that
it writes is refused there. So it is closed with 1012: its client connects again, and is sent on.

The rules.

1. **Where another node is named as the primary, they are closed at once**: their clients can go there.
2. **Where none is known, they stay for ``websocket_grace`` seconds.** A node may be the primary again a moment later (LiteFS
   was restarted, a hand-over was broken off), and meanwhile there is nowhere to go.
3. **What is true when it is looked at counts**, not what was heard on the way: whoever is the primary again keeps them.
4. **What was closed is over for the application**: it receives a disconnect with the same code, and what it sends raises
   `WebSocketClosed`, an `OSError`, as with a client that has left (ASGI, 'Send exception'). Closing it once more is nothing.

One subscription wakes them all; each has a task of its own only while it is being closed, since its client may be stuck.
"""

from __future__ import annotations

import logging
from functools import partial

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from litefs_watch.asgi.types import Message, Receive, Send
from litefs_watch.changes import PrimaryChange, Role
from litefs_watch.consistency import Exchange, Options
from litefs_watch.errors import WatcherClosed
from litefs_watch.sources.thread import call_soon
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.watchers.watcher import Watcher, spawn

logger: logging.Logger = logging.getLogger("litefs_watch")

SERVICE_RESTART = 1012
"""'Service Restart: a client may reconnect' (IANA's registry of RFC 6455)."""
_PRIVATE = 4012
"""The same for a server that lets an application send 1000 and 3000 to 4999 only (Daphne)."""
_LAST_WORD = 1.0
"""Seconds that a client which takes nothing is given to hear of it, once the application has returned."""
_REASON = "this node is no longer the primary; connect again"  # 123 bytes at most


class WebSocketClosed(OSError):
    """Raised where the application sends on a WebSocket that was closed here."""

    @classmethod
    def is_behind(cls, error: BaseException) -> bool:
        """Whether ``error`` is one, or was raised while one was handled, as Starlette's ``WebSocketDisconnect``."""
        return isinstance(error, cls) or isinstance(error.__context__, cls)


class OpenWebSockets:
    """Those of one middleware, in however many event loops."""

    def __init__(self, watcher: Watcher | AwaitableWatcher, options: Options) -> None:
        self._watcher = watcher.watcher if isinstance(watcher, AwaitableWatcher) else watcher
        self._which = options.close_websockets
        self._grace = options.websocket_grace
        self._loops: dict[EventLoopToken, _Loop] = {}

    def concern(self, exchange: Exchange) -> bool:
        """Whether a WebSocket that was let in now is one of those that are closed."""
        if self._which == "none" or (self._which == "primary_paths" and not exchange.writes):
            return False
        return (exchange.role or _role(self._watcher)) is Role.PRIMARY

    def add(self, websocket: OpenWebSocket) -> None:
        """It was accepted. In its event loop."""
        token = current_token()
        loop = self._loops.get(token)
        if loop is None:
            loop = self._loops[token] = _Loop(self._watcher, self._grace, token)
        loop.open.add(websocket)
        loop.look()

    def discard(self, websocket: OpenWebSocket) -> None:
        """It is over, however that came. In its event loop."""
        token = current_token()
        if (loop := self._loops.get(token)) is not None:
            loop.open.discard(websocket)
            if not loop.open:
                loop.end()
                del self._loops[token]


class _Loop:
    """Those of one event loop, and the subscription that wakes them."""

    def __init__(self, watcher: Watcher | BlockingWatcher, grace: float, token: EventLoopToken) -> None:
        self.open: set[OpenWebSocket] = set()
        self._watcher = watcher
        self._grace = grace
        self._token = token
        self._waiting: anyio.CancelScope | None = None
        self._unsubscribe = watcher.on_primary_change(self._changed)

    def _changed(self, change: PrimaryChange) -> None:
        """In the watcher's thread."""
        if not call_soon(self._token, self.look):  # the loop was closed with WebSockets in it
            self._unsubscribe()

    def look(self) -> None:
        """Do what follows from what is true now."""
        role = _role(self._watcher)
        if role is Role.UNKNOWN:
            if self._waiting is None and self.open:
                self._waiting = anyio.CancelScope()
                spawn(partial(self._outlast, self._waiting))
            return
        self._stop_waiting()
        if role is Role.REPLICA:
            self._close_all()

    async def _outlast(self, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep(self._grace)
            if self._waiting is scope:
                self._waiting = None
                if _role(self._watcher) is not Role.PRIMARY:
                    self._close_all()

    def _close_all(self) -> None:
        leaving = [websocket for websocket in self.open if websocket.begin_close()]
        for websocket in leaving:
            spawn(websocket.close)
        if leaving:
            logger.info("this node is no longer the primary: %d WebSockets are closed (%d)", len(leaving), SERVICE_RESTART)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def end(self) -> None:
        """None is open any more."""
        self._unsubscribe()
        self._stop_waiting()


class OpenWebSocket:
    """One of them: the server's ``receive`` and ``send``, for the application."""

    def __init__(self, all_of_them: OpenWebSockets, receive: Receive, send: Send) -> None:
        self._all = all_of_them
        self._server_receive = receive
        self._server_send = send
        self._receiving: anyio.CancelScope | None = None
        self._closing = self._told = False
        self._closed = anyio.Event()

    async def receive(self) -> Message:
        """What the client says; once it was closed here, that."""
        if not self._closed.is_set():
            try:
                with anyio.CancelScope() as self._receiving:
                    message = await self._server_receive()
                    if message["type"] == "websocket.disconnect":
                        self._all.discard(self)
                        return {**message, "code": SERVICE_RESTART} if self._closing else message  # Granian says 1005
                    return message
            finally:
                self._receiving = None
        if self._closed.is_set() and not self._told:
            self._told = True
            return {"type": "websocket.disconnect", "code": SERVICE_RESTART, "reason": _REASON}
        return await self._server_receive()  # for who does not heed that

    async def send(self, message: Message) -> None:
        """Raises `WebSocketClosed` once it is being closed here."""
        kind = message["type"]
        if self._closing:
            await self._closed.wait()  # else the application may return, and the server close it, with another code
            if kind != "websocket.close":
                raise WebSocketClosed(_REASON)
            return
        if kind == "websocket.close":
            self._all.discard(self)
        await self._server_send(message)
        if kind == "websocket.accept":
            self._all.add(self)

    def begin_close(self) -> bool:
        """From now on the application sends nothing more. False where that is so already."""
        begins, self._closing = not self._closing, True
        return begins

    async def close(self) -> None:
        """Close it, then tell the application, which may return at once."""
        try:
            for code in (SERVICE_RESTART, _PRIVATE):
                try:
                    await self._server_send({"type": "websocket.close", "code": code, "reason": _REASON})
                    break
                except Exception as error:  # noqa: BLE001 - whatever servers raise where the client has left
                    logger.debug("a WebSocket could not be closed (%d): %r", code, error)
        finally:
            self._closed.set()
            if self._receiving is not None:
                self._receiving.cancel()

    async def end(self) -> None:
        """The application has returned. Where it is just being closed, that goes out before the server says another code."""
        self._all.discard(self)
        if self._closing:
            with anyio.move_on_after(_LAST_WORD):
                await self._closed.wait()


def _role(watcher: Watcher | BlockingWatcher) -> Role:
    try:
        return watcher.run.standing.role
    except WatcherClosed:
        return Role.UNKNOWN
