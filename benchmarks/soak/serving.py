"""What runs in the machines' process: each node is watched twice, by a `Watcher`, for an ASGI application that uvicorn
serves, and by a `BlockingWatcher`, for a WSGI application that gets a new thread for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import uvicorn

from benchmarks.soak.leaks import leak
from benchmarks.soak.machines import Address, Known, Order, Usage
from litefs_watch import BlockingWatcher, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware
from tests.chaos.app import Maintenance, Store, asgi_app, wsgi_app

LOCKED = 0.2
"""Seconds that the application waits for SQLite's lock."""
ROWS = 200
"""That the table keeps: it must not be the database that grows."""

Watchers = list[Watcher | BlockingWatcher]


def serve(connection: Connection, order: Order) -> None:
    """Serve until nobody asks any more."""
    logging.getLogger("litefs_watch").setLevel(logging.ERROR)  # what its faults break is no news; failures still show
    asyncio.run(_serve(connection, order))


async def _serve(connection: Connection, order: Order) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    watchers: Watchers = []
    asgi: dict[str, Address] = {}
    wsgi: dict[str, Address] = {}
    with ExitStack() as stack:
        async with AsyncExitStack() as watching, asyncio.TaskGroup() as tasks:
            servers = []
            for hostname, settings in order.settings.items():
                watcher = await watching.enter_async_context(Watcher(settings))
                blocking = stack.enter_context(BlockingWatcher(settings))
                watchers += [watcher, blocking]
                store = Store(hostname, connector(settings), Maintenance(), partial(leak, order.leaks, watcher, loop))
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                asgi[hostname] = listener.getsockname()
                servers.append(_uvicorn(LiteFSMiddleware(asgi_app(store), watcher, **order.options)))
                tasks.create_task(servers[-1].serve([listener]))
                wsgi[hostname] = stack.enter_context(_threads(WSGIMiddleware(wsgi_app(store), blocking, **order.options)))
            connection.send((asgi, wsgi))
            answers = {"usage": lambda: _usage(loop, watchers), "known": lambda: [_known(each) for each in watchers]}
            done = partial(loop.call_soon_threadsafe, over.set)
            threading.Thread(target=_answer, args=(connection, answers, done), daemon=True).start()
            await over.wait()
            for server in servers:
                server.should_exit = True


def _answer(connection: Connection, answers: Mapping[str, Callable[[], object]], done: Callable[[], object]) -> None:
    try:
        with contextlib.suppress(EOFError, OSError):
            while True:
                connection.send(answers[connection.recv()]())
    finally:
        done()


def _known(watcher: Watcher | BlockingWatcher) -> Known:
    status = watcher.status
    return Known(
        watcher=f"{type(watcher).__name__} of {status.hostname}",
        hostname=status.hostname,
        role=status.role,
        position=next(iter(status.positions.values()), None),
    )


def _usage(loop: asyncio.AbstractEventLoop, watchers: Watchers) -> Usage:
    counts = [watcher.statistics() for watcher in watchers]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Usage(
        memory=pages * os.sysconf("SC_PAGESIZE"),
        descriptors=len(os.listdir("/proc/self/fd")) - 1,  # its own
        threads=len(os.listdir("/proc/self/task")),
        tasks=len(asyncio.all_tasks(loop)),
        waiters=sum(each.waiters for each in counts),
        timeouts=sum(each.timeouts for each in counts),
        reconnects=sum(each.reconnects for each in counts),
        restarts=sum(each.restarts for each in counts),
    )


def connector(node: Settings) -> Callable[..., sqlite3.Connection]:
    """Opens the database in the mount as any application does; who writes keeps the newest `ROWS` of the table."""

    def connect(*, writing: bool) -> sqlite3.Connection:
        path = f"file:{node.litefs_dir}/{node.database}?mode=rw"
        connection = sqlite3.connect(path, uri=True, timeout=LOCKED, isolation_level=None)
        if writing:
            oldest = f"DELETE FROM writes WHERE number <= NEW.number - {ROWS}"
            try:
                connection.execute(f"CREATE TEMP TRIGGER kept AFTER INSERT ON main.writes BEGIN {oldest}; END")
            except BaseException:
                connection.close()
                raise
        return connection

    return connect


def _uvicorn(app: Any) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False))  # errors: a 500


class _Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()


@contextmanager
def _threads(app: Any) -> Iterator[Address]:
    with _Threads(("127.0.0.1", 0), _Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield ("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()
