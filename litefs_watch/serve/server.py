"""The process around the application: a listening socket, uvicorn, signals, and what systemd is told."""

from __future__ import annotations

import ipaddress
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import uvicorn

from litefs_watch.errors import ConfigError, WatcherClosed
from litefs_watch.serve.app import Sidecar
from litefs_watch.serve.connections import TURNED_AWAY, Connection
from litefs_watch.serve.notify import ALIVE, READY, STOPPING, notify, watchdog_interval
from litefs_watch.serve.options import TOKEN_VARIABLE, Options
from litefs_watch.settings import Settings
from litefs_watch.watchers import why
from litefs_watch.watchers.watcher import Watcher

logger: logging.Logger = logging.getLogger("litefs_watch")

GRACE = 1
"""Seconds that open connections have when it ends. Who waits and who follows is told at once; this is for the rest."""
OTHERS = 512
"""Connections besides those that wait and follow: health checks, and what is just being asked."""
BACKLOG = 2048
"""Connections that wait to be accepted: a crowd may come at once."""
ACCEPTED = 16
"""Connections that are accepted before the event loop turns to anything else: no more can be open beyond the limit, before
they are closed, than in some turns (asyncio accepts as many as its backlog, and logs for each that finds no descriptor)."""
RESERVE = TURNED_AWAY + 5 * ACCEPTED + 48
"""Descriptors besides those of connections within the limit: the watcher reads with some of them."""


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Raises `OSError`, and `ConfigError` for another address than that of loopback, unless there is a token."""
    try:
        return _listen(host, port, token)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"--host {host} --port {port}") from None


def _listen(host: str, port: int, token: str | None) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, address = found[0][0], found[0][4]
    if token is None and not _is_loopback(str(address[0])):
        raise ConfigError(
            f"--host {host} can be reached from other machines: whoever asks there needs a token, which stands in "
            f"{TOKEN_VARIABLE}, or in a file (--token-file)"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # whoever is told of it may come at once
    except BaseException:
        listener.close()
        raise
    return listener


def _is_loopback(text: str) -> bool:
    """Python before 3.13 says no of IPv4's in IPv6's clothes, ``::ffff:127.0.0.1``."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def serve(
    settings: Settings, options: Options, listener: socket.socket, ready: Callable[[], object], own_name: str | None = None
) -> bool:
    """Until a signal ends it (True), or the watcher fails (False). ``ready`` is called when it can be asked."""
    watcher = Watcher(settings)
    connections = _make_room(options)
    with anyio.open_signal_receiver(*_heeded()) as signals:
        async with anyio.create_task_group() as heeding:
            server = _Server(watcher, options, own_name, ready, connections)
            heeding.start_soon(server.end_by_signal, signals)
            try:
                async with watcher, anyio.create_task_group() as tasks:
                    tasks.start_soon(server.sidecar.events.run, watcher.changes())
                    tasks.start_soon(server.end_with_events)
                    tasks.start_soon(server.tell_systemd)
                    await server.serve(sockets=[listener])
                    tasks.cancel_scope.cancel()
            except WatcherClosed:  # it was stopped while it started
                if not server.signalled:
                    raise
            heeding.cancel_scope.cancel()
    return server.signalled


class _Server(uvicorn.Server):
    """Ends what waits and what follows before it waits for their connections: by stopping the watcher."""

    def __init__(
        self, watcher: Watcher, options: Options, own_name: str | None, ready: Callable[[], object], connections: int
    ) -> None:
        self._watcher = watcher
        self.sidecar = Sidecar(watcher, options, own_name)
        self._ready = ready
        self.signalled = False
        config = uvicorn.Config(
            self.sidecar.app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_level="critical",  # what a client can cause; our own faults are in our own log
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=connections,
            backlog=ACCEPTED,
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own would raise them again at the end."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        if self.started:
            self._ready()
            notify(READY)

    async def end_by_signal(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            logger.info("%s: ending", number.name)
            self.force_exit = self.signalled  # the second one
            self.signalled = True
            notify(STOPPING)
            await self._watcher.stop()

    async def end_with_events(self) -> None:
        """They end with the watcher, whoever ends that."""
        await self.sidecar.events.ended.wait()
        if not self.signalled:
            logger.error("the sidecar ends: %s", why.idle(self._watcher.run) or "its events have failed")
        self.should_exit = True

    async def tell_systemd(self) -> None:
        """That the event loop turns, and the watcher runs."""
        interval = watchdog_interval()
        while interval is not None and self._watcher.running:
            notify(ALIVE)
            await anyio.sleep(interval)


def _heeded() -> list[signal.Signals]:
    """Those that end it, but for what is ignored: in a shell's background."""
    return [each for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]


def _make_room(options: Options) -> int:
    """How many connections there may be: as many as the options ask for, if the system gives descriptors for them.

    1,024 are what many systems give at first, and let one raise.
    """
    connections = options.max_waiting + options.max_subscribers + OTHERS
    wanted = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return connections
    room = max(most - RESERVE, 1)
    logger.warning("this process may have %d descriptors open: room for %d connections, not for %d", most, room, connections)
    return room
