"""A watcher for applications that know no lifespan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from litefs_watch import Role, Watcher
from litefs_watch.asgi import LifespanMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from litefs_watch.testing import SimulatedNode
from tests.asgi.fakes import Handler, call


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with SimulatedNode() as node:
        yield Watcher(node.settings())


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """As Django does."""
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    await Handler()(scope, receive, send)


class Server:
    """Sends the lifespan's messages, one when asked for, and keeps what comes back."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Message](5)
        self._out, self.replies = anyio.create_memory_object_stream[Message](5)

    async def run(self, app: Any) -> None:
        with self._receive, self._out:
            await app({"type": "lifespan"}, self._receive.receive, self._out.send)

    async def tell(self, event: str) -> str:
        await self._send.send({"type": f"lifespan.{event}"})
        with anyio.fail_after(10):
            return str((await self.replies.receive())["type"])

    def close(self) -> None:
        self._send.close()
        self.replies.close()


async def test_it_answers_for_an_application_that_refuses(watcher: Watcher) -> None:
    """Started before the first request, stopped after the last."""
    server, app = Server(), LifespanMiddleware(refuses, watcher)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        assert await server.tell("startup") == "lifespan.startup.complete"
        assert (watcher.running, watcher.role) == (True, Role.PRIMARY)
        assert (await call(app)).status == 200
        assert await server.tell("shutdown") == "lifespan.shutdown.complete"
        assert not watcher.running
    server.close()
    assert (await call(app)).status == 200
    assert not watcher.running  # a late request does not start it again


async def test_an_applications_own_lifespan_runs_inside(watcher: Watcher) -> None:
    """The watcher is there before it starts, and until after it has stopped."""
    seen: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            seen.append(watcher.running)
            await send({"type": f"lifespan.{event}.complete"})
        seen.append(watcher.running)

    server = Server()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, LifespanMiddleware(app, watcher))
        assert await server.tell("startup") == "lifespan.startup.complete"
        assert await server.tell("shutdown") == "lifespan.shutdown.complete"
    server.close()
    assert seen == [True, True, False]


async def test_starlettes_lifespan_works_inside(watcher: Watcher) -> None:
    """With the framework itself."""
    server, app = Server(), Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])
    wrapped = LifespanMiddleware(app, watcher)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, wrapped)
        assert await server.tell("startup") == "lifespan.startup.complete"
        assert await server.tell("shutdown") == "lifespan.shutdown.complete"
    server.close()
    assert not watcher.running


async def test_a_startup_that_fails_stays_failed(watcher: Watcher) -> None:
    """The application's own failure is told, and the watcher is stopped."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        raise RuntimeError("no")

    server = Server()

    async def run() -> None:
        with pytest.raises(RuntimeError, match="no"):
            await server.run(LifespanMiddleware(app, watcher))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        assert await server.tell("startup") == "lifespan.startup.failed"
    server.close()
    assert not watcher.running


async def test_the_first_request_starts_it_where_the_server_sends_no_lifespan(watcher: Watcher) -> None:
    """As under Daphne; requests that come together wait for one start."""
    handler = Handler(lambda scope: running.append(watcher.running))
    running: list[bool] = []
    app = LifespanMiddleware(handler, watcher)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(call, app)
    assert running == [True] * 10
    await watcher.stop()


async def test_a_watcher_that_runs_is_left_to_its_owner(watcher: Watcher) -> None:
    """Neither started again nor stopped."""
    async with watcher:
        server, app = Server(), LifespanMiddleware(refuses, watcher)
        assert (await call(app)).status == 200
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, app)
            assert await server.tell("startup") == "lifespan.startup.complete"
            assert await server.tell("shutdown") == "lifespan.shutdown.complete"
        server.close()
        assert watcher.running
