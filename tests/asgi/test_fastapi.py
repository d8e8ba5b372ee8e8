"""The dependencies of `litefs_watch.fastapi`, wherever the watcher is run."""

# No postponed annotations: FastAPI looks at them.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import Depends, FastAPI, WebSocket

from litefs_watch import ConfigError, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.fastapi import LiteFS, ensure_instance, ensure_primary
from litefs_watch.testing import SimulatedNode


def add_routes(app: FastAPI) -> FastAPI:
    @app.get("/hostname")
    async def hostname(litefs: LiteFS) -> str:
        return litefs.hostname

    @app.get("/primary", dependencies=[Depends(ensure_primary)])
    async def primary() -> str:
        return "here"

    @app.get("/on/node-b", dependencies=[Depends(ensure_instance("node-b"))])
    async def on_b() -> str:
        return "here"

    @app.websocket("/live")
    async def live(socket: WebSocket, litefs: LiteFS) -> None:
        await socket.accept()
        await socket.send_text(litefs.hostname)
        await socket.close()

    return app


def client_of(app: FastAPI) -> httpx2.AsyncClient:
    """Which knows nothing of lifespans."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://testserver")


async def test_without_a_lifespan() -> None:
    """httpx's ASGITransport sends none: the watcher that a test runs is the middleware's."""
    with SimulatedNode(hostname="node-a", primary="node-b") as node:
        async with Watcher(node.settings()) as watcher:
            app = add_routes(FastAPI())
            app.add_middleware(LiteFSMiddleware, watcher=watcher)
            async with client_of(app) as client:
                assert (await client.get("/hostname")).json() == "node-a"
                assert (await client.get("/primary")).headers["fly-replay"] == "instance=node-b"
                assert (await client.get("/on/node-b")).headers["fly-replay"] == "instance=node-b"


async def test_under_a_lifespan_of_one_s_own() -> None:
    """Which runs the watcher, and says nothing of it."""
    with SimulatedNode(hostname="node-a") as node:
        watcher = Watcher(node.settings())

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with watcher:
                yield

        app = add_routes(FastAPI(lifespan=lifespan))
        app.add_middleware(LiteFSMiddleware, watcher=watcher)
        async with lifespan(app), client_of(app) as client:
            assert (await client.get("/hostname")).json() == "node-a"
            assert (await client.get("/primary")).json() == "here"


def test_in_a_web_socket() -> None:
    """Likewise."""
    from starlette.testclient import TestClient

    with SimulatedNode(hostname="node-a") as node:
        app = add_routes(FastAPI())
        app.add_middleware(LiteFSMiddleware, watcher=Watcher(node.settings()))
        with TestClient(app).websocket_connect("/live") as socket:
            assert socket.receive_text() == "node-a"


def test_without_the_middleware() -> None:
    """The application's lifespan tells; where nobody does, the error says what to write."""
    from starlette.testclient import TestClient

    with SimulatedNode(hostname="node-a") as node:
        watcher = Watcher(node.settings())
        with TestClient(add_routes(FastAPI(lifespan=watcher.lifespan))) as client:
            assert client.get("/hostname").json() == "node-a"
    with pytest.raises(ConfigError, match=r"LiteFSMiddleware.*FastAPI\(lifespan=watcher.lifespan\)"):
        TestClient(add_routes(FastAPI())).get("/hostname")
