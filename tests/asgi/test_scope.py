"""The scope is the application's own: who is around the middleware sees what the application has put into it."""

from __future__ import annotations

import contextvars
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx2
import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin, SQLAlchemySyncConfig
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.middleware import DefineMiddleware
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from litefs_watch import NotPrimary, Position, Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware, Redirect
from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.consistency import current_exchange
from litefs_watch.testing import SimulatedCluster
from tests.asgi.fakes import FakeWatcher, Handler, call, replica
from tests.asgi.serving import serve


def outer(app: App, seen: list[Scope]) -> App:
    """A middleware that traces: it looks at the scope when the application has returned."""

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            seen.append(scope)

    return traced


async def test_an_outer_middleware_sees_what_the_application_has_set() -> None:
    """The route and the endpoint, for traces and metrics; without a token, with one that is met, and after a write."""

    async def order(request: Request) -> Response:
        request.scope["mark"] = request.path_params["number"]
        return PlainTextResponse("ordered")

    app = Starlette(routes=[Route("/orders/{number:int}", order, methods=["GET", "POST"])])
    seen: list[Scope] = []
    traced = outer(LiteFSMiddleware(app, FakeWatcher().watcher), seen)
    at = ("cookie", f"litefs_pos={Position(10, 1)}")
    for number, (method, headers) in enumerate([("GET", []), ("GET", [at]), ("POST", [])]):
        assert (await call(traced, method, f"/orders/{number}", headers)).status == 200
        assert (seen[-1]["mark"], seen[-1]["endpoint"]) == (number, order)


@pytest.mark.parametrize("fails", [False, True])
async def test_who_keeps_its_context_keeps_no_headers(fails: bool) -> None:
    """As uvicorn's timers do, which end idle connections: of each request, for as long as its connection lives."""
    kept: list[contextvars.Context] = []

    def headers() -> list[tuple[bytes, bytes]]:
        exchange = kept[0][current_exchange]
        assert exchange is not None
        return list(exchange.headers)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(contextvars.copy_context())
        assert (b"x-large", b"1") in headers()
        if fails:
            raise ZeroDivisionError
        await PlainTextResponse("here")(scope, receive, send)

    with pytest.raises(ZeroDivisionError) if fails else ExitStack():
        await call(LiteFSMiddleware(app, FakeWatcher().watcher), "GET", "/", [("x-large", "1")])
    assert headers() == []


async def test_what_is_lost_is_seen_outside_too() -> None:
    """It is put into the state that is there."""
    watcher, state = FakeWatcher(Role.PRIMARY, txid=10), {"mine": 1}
    seen: list[Scope] = []
    traced = outer(LiteFSMiddleware(Handler(), watcher.watcher), seen)
    await call(traced, "GET", "/", [("litefs-txid", str(Position(11, 7)))], state=state)
    assert seen[0]["state"] is state
    assert state == {"mine": 1, "litefs_lost": 11}


async def test_what_is_answered_is_of_the_request_as_it_came() -> None:
    """However the application's routing has changed its scope before it raised."""

    async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(path="/nowhere", raw_path=b"/nowhere", query_string=b"", root_path="/changed")
        raise NotPrimary("node-b")

    to = Redirect("https://{hostname}.example.com")
    app = LiteFSMiddleware(Starlette(routes=[Mount("/shop", elsewhere)]), replica().watcher, replay=to)
    reply = await call(app, "GET", "/shop/orders?page=2")
    assert (reply.status, reply.header("location")) == (307, "https://node-b.example.com/shop/orders?page=2")


def shop(watcher: Watcher, cluster: SimulatedCluster, *, inside: bool) -> Any:
    """Litestar with Advanced Alchemy's autocommit, which commits in a hook around the application's ``send``."""
    hostname = watcher.hostname
    connect_args = {"factory": cluster.connection_class, "timeout": 2}
    engine = create_engine(f"sqlite:///{cluster.path(hostname)}", connect_args=connect_args)
    config = SQLAlchemySyncConfig(engine_instance=engine, before_send_handler="autocommit")

    @post("/orders", sync_to_thread=True)
    def order(db_session: NamedDependency[Session]) -> int:
        db_session.execute(text("INSERT INTO orders DEFAULT VALUES"))
        return int(db_session.execute(text("SELECT count(*) FROM orders")).scalar_one())

    @get("/orders", sync_to_thread=True)
    def count(db_session: NamedDependency[Session]) -> int:
        return int(db_session.execute(text("SELECT count(*) FROM orders")).scalar_one())

    around: Any = partial(LiteFSMiddleware, watcher=watcher, secure=False, timeout=5)
    app = Litestar(
        [order, count],
        middleware=[DefineMiddleware(around)] if inside else [],
        plugins=[SQLAlchemyPlugin(config=config)],
        lifespan=[watcher.lifespan],
        logging_config=None,
    )
    return app if inside else around(app)


@pytest.mark.parametrize("inside", [True, False], ids=["DefineMiddleware", "outermost"])
def test_advanced_alchemy_commits(inside: bool) -> None:
    """Whichever way the middleware is added: the row is there, the next write is not locked out, a replica has it."""
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(size=2, lag=0.02))
        cluster.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        cluster.wait_until_replicated()
        urls = {}
        for node in cluster.nodes:
            urls[node.hostname] = stack.enter_context(serve(shop(Watcher(node.settings()), cluster, inside=inside)))
        client = stack.enter_context(httpx2.Client(timeout=20))
        for number in range(1, 6):
            written = client.post(urls["node-a"] + "/orders")
            assert (written.status_code, written.json()) == (201, number)
            assert cluster.query("node-a", "SELECT count(*) FROM orders") == [(number,)]
            read = client.get(urls["node-b"] + "/orders")
            if read.status_code == 409:
                assert inside  # the hook is around the middleware: it commits when the token is on its way
                read = client.get(urls["node-a"] + "/orders", headers={"fly-replay-src": "instance=node-b"})
            assert read.json() == number
