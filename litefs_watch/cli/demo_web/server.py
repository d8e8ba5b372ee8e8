"""The page's routes, and the process around them."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from litefs_watch.cli.demo_web.nodes import ACTIONS, LONGEST_LAG, Nodes, RefusedError

FILES = {"/": "index.html", "/style.css": "style.css", "/demo.js": "demo.js"}
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
PAGE = resources.files("litefs_watch.cli.demo_web").joinpath("page")
LARGEST = 4096
"""Bytes of a request's body."""
PAGE_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
}


def application(
    nodes: Nodes, ready: Callable[[], object] | None = None, failed: Callable[[], object] | None = None
) -> Starlette:
    """The page, its requests to the nodes, and what one does to them. Other sites' pages can ask for none of that: what
    changes something is JSON, which a browser lets no other origin send, and only loopback's names are answered.

    ``failed`` is called where the nodes end by a fault: a server would go on without them."""

    async def file(request: Request) -> Response:
        name = FILES[request.url.path]
        content = await anyio.to_thread.run_sync(PAGE.joinpath(name).read_bytes)
        return Response(content, media_type=KINDS[name.rpartition(".")[2]], headers=PAGE_HEADERS)

    async def notes(request: Request) -> Response:
        lane, hostname = request.path_params["lane"], known(nodes, request.path_params["hostname"])
        if lane not in nodes.edges:
            raise HTTPException(404, f"there is no lane {lane!r}: with, or without")
        body = json.dumps(await json_object(request)).encode() if request.method == "POST" else b""
        scope = {**request.scope, "path": "/notes", "raw_path": b"/notes", "root_path": ""}
        answer = await nodes.edges[lane].fetch(hostname, scope, body, request.receive)
        response = Response(answer.body, answer.status)
        trail = (b"demo-trail", " ".join(answer.trail).encode("latin-1"))
        response.raw_headers = [*answer.headers, trail, (b"cache-control", b"no-store")]
        return response

    async def events(request: Request) -> Response:
        if nodes.feed.full:
            return PlainTextResponse("too many pages are open\n", 429)
        headers = {"cache-control": "no-store"}
        return StreamingResponse(nodes.feed.subscribe(), media_type="text/event-stream", headers=headers)

    async def state(request: Request) -> Response:
        return JSONResponse(nodes.state(), headers={"cache-control": "no-store"})

    async def act(request: Request) -> Response:
        action, wanted = request.path_params["action"], await json_object(request)
        if action == "visitors":
            nodes.set_visitors(wanted.get("on") is True)
        elif action == "lag":
            await nodes.set_lag(known(nodes, wanted.get("node")), lag(wanted.get("seconds")))
        elif action in ACTIONS:
            try:
                await nodes.act(action, known(nodes, wanted.get("node")))
            except RefusedError as error:
                raise HTTPException(409, str(error)) from error
        else:
            raise HTTPException(404, f"there is no {action!r}: lag, visitors, {', '.join(ACTIONS)}")
        return Response(status_code=204)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(nodes.run)
                if ready is not None:
                    ready()
                yield
                tasks.cancel_scope.cancel()
        except Exception:
            if failed is not None:
                failed()
            raise

    return Starlette(
        routes=[
            *(Route(path, file) for path in FILES),
            Route("/events", events),
            Route("/state", state),
            Route("/do/{action}", act, methods=["POST"]),
            Route("/{lane}/{hostname}/notes", notes, methods=["GET", "POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)],
        lifespan=lifespan,
    )


def known(nodes: Nodes, hostname: object) -> str:
    if not isinstance(hostname, str) or hostname not in nodes:
        raise HTTPException(404, f"there is no node {hostname!r}")
    return hostname


def lag(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_LAG:
        raise HTTPException(422, f"a lag is 0 to {LONGEST_LAG:g} seconds, not {seconds!r}")
    return float(seconds)


async def json_object(request: Request) -> dict[str, Any]:
    """The body. Raises `HTTPException` where it is none, is too large, or is not said to be JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "wanted is application/json")
    body = b""
    async for chunk in request.stream():
        body = (body + chunk)[: LARGEST + 1]
    if len(body) > LARGEST:
        raise HTTPException(413, f"more than {LARGEST} bytes")
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"no JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise HTTPException(422, "wanted is a JSON object")
    return wanted


class _Server(uvicorn.Server):
    """Ends its streams when it is told to end: uvicorn waits for open connections."""

    failed: bool = False

    def __init__(self, nodes: Nodes, ready: Callable[[], object] | None) -> None:
        app = application(nodes, ready, self._fail)
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=2)
        )
        self._nodes = nodes

    def _fail(self) -> None:
        self.failed = self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._nodes.feed.close()
        super().handle_exit(sig, frame)


async def serve(listener: socket.socket, ready: Callable[[], object] | None = None) -> bool:
    """Until a signal ends it: True; or a fault, which is logged. ``ready`` is called when it can be asked."""
    nodes = await anyio.to_thread.run_sync(Nodes)  # makes a directory
    server = _Server(nodes, ready)
    await server.serve(sockets=[listener])
    return not server.failed


def listen(port: int) -> socket.socket:
    """On loopback alone. Raises `OSError` where the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # whoever is told of it may come at once
    except BaseException:
        listener.close()
        raise
    return listener
