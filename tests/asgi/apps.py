"""The same small application in five frameworks: orders in SQLite, with the middleware around it.

====================  ========================================================================
``GET /orders``       how many there are, after waiting where the client's token says so
``POST /orders``      one more
``GET /add``          one more by a GET, which says so
``GET /sneak``        one more by a GET, which does not: on a replica, SQLite refuses it
``GET /primary``      ``watcher.ensure_primary()``
``GET /on/HOST``      ``watcher.ensure_instance(HOST)``
``GET /stream``       two pieces, the second when the client has shown that it has the first
``GET /bug``          an exception that is nobody's business
====================  ========================================================================
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from types import ModuleType
from typing import Any

import anyio

from litefs_watch import Watcher
from litefs_watch.asgi import LifespanMiddleware, mark_written
from tests.django.configured import configure


class Shop:
    """What the handlers of a node do. SQLite is used off the event loop, as it should be."""

    def __init__(self, watcher: Watcher, connect: Callable[[], sqlite3.Connection]) -> None:
        self.watcher = watcher
        self._connect = connect
        self.first_piece_is_there = threading.Event()

    def count(self) -> int:
        with closing(self._connect()) as connection:
            (found,) = connection.execute("SELECT count(*) FROM orders").fetchone()
            return int(found)

    def add(self) -> int:
        with closing(self._connect()) as connection:
            with connection:
                connection.execute("INSERT INTO orders DEFAULT VALUES")
            (found,) = connection.execute("SELECT count(*) FROM orders").fetchone()
            return int(found)

    async def in_thread(self, function: Callable[[], int]) -> int:
        return await anyio.to_thread.run_sync(function)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"first"
        assert await anyio.to_thread.run_sync(self.first_piece_is_there.wait, 10)  # the client's thread sets it
        yield b"second"


def starlette(shop: Shop) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def orders(request: Request) -> Response:
        return JSONResponse(await shop.in_thread(shop.add if request.method == "POST" else shop.count))

    async def add(request: Request) -> Response:
        number = await shop.in_thread(shop.add)
        mark_written(request)
        return JSONResponse(number)

    async def sneak(request: Request) -> Response:
        return JSONResponse(await shop.in_thread(shop.add))

    async def primary(request: Request) -> Response:
        request.state.litefs.ensure_primary()
        return JSONResponse("here")

    async def on(request: Request) -> Response:
        request.state.litefs.ensure_instance(request.path_params["host"])
        return JSONResponse("here")

    async def stream(request: Request) -> Response:
        return StreamingResponse(shop.pieces())

    async def bug(request: Request) -> Response:
        raise KeyError("bug")

    routes = [
        Route("/orders", orders, methods=["GET", "POST"]),
        Route("/add", add),
        Route("/sneak", sneak),
        Route("/primary", primary),
        Route("/on/{host}", on),
        Route("/stream", stream),
        Route("/bug", bug),
    ]
    return Starlette(routes=routes, lifespan=shop.watcher.lifespan)


def fastapi(shop: Shop) -> Any:
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import StreamingResponse

    from litefs_watch.fastapi import LiteFS, ensure_instance, ensure_primary

    app = FastAPI(lifespan=shop.watcher.lifespan)

    @app.get("/orders")
    def count() -> int:
        return shop.count()

    @app.post("/orders")
    def order() -> int:
        return shop.add()

    def add(request: Request) -> int:
        number = shop.add()
        mark_written(request)
        return number

    add.__annotations__["request"] = Request  # FastAPI looks for names in the module
    app.get("/add")(add)

    @app.get("/sneak")
    def sneak() -> int:
        return shop.add()

    @app.get("/primary", dependencies=[Depends(ensure_primary)])
    def primary() -> str:
        return "here"

    @app.get("/on/node-a", dependencies=[Depends(ensure_instance("node-a"))])
    def on_a() -> str:
        return "here"

    async def on(host: str, litefs: Any) -> str:
        litefs.ensure_instance(host)
        return "here"

    on.__annotations__["litefs"] = LiteFS
    app.get("/on/{host}")(on)

    @app.get("/stream", response_class=StreamingResponse)
    async def stream() -> Any:
        return StreamingResponse(shop.pieces())

    @app.get("/bug")
    async def bug() -> None:
        raise KeyError("bug")

    return app


def litestar(shop: Shop) -> Any:
    from litestar import Litestar, Request, get, post
    from litestar.response import Stream

    @get("/orders", sync_to_thread=True)
    def count() -> int:
        return shop.count()

    @post("/orders", sync_to_thread=True)
    def order() -> int:
        return shop.add()

    async def add(request: Any) -> int:
        number = await shop.in_thread(shop.add)
        mark_written(request)
        return number

    add.__annotations__ |= {"request": Request, "return": int}

    @get("/sneak", sync_to_thread=True)
    def sneak() -> int:
        return shop.add()

    @get("/primary")
    async def primary() -> str:
        shop.watcher.ensure_primary()
        return "here"

    async def on(request: Any) -> str:
        shop.watcher.ensure_instance(request.path_params["host"])
        return "here"

    on.__annotations__ |= {"request": Request, "return": str}

    async def stream() -> Any:
        return Stream(shop.pieces())

    stream.__annotations__["return"] = Stream

    @get("/bug")
    async def bug() -> str:
        raise KeyError("bug")

    handlers = [count, order, get("/add")(add), sneak, primary, get("/on/{host:str}")(on), get("/stream")(stream), bug]
    return Litestar(handlers, lifespan=[shop.watcher.lifespan], logging_config=None)


def quart(shop: Shop) -> Any:
    from quart import Quart, jsonify, request

    app = Quart("shop")

    @app.before_serving
    async def start() -> None:
        await shop.watcher.start()

    @app.after_serving
    async def stop() -> None:
        await shop.watcher.stop()

    @app.route("/orders", methods=["GET", "POST"])
    async def orders() -> Any:
        return jsonify(await shop.in_thread(shop.add if request.method == "POST" else shop.count))

    @app.route("/add")
    async def add() -> Any:
        number = await shop.in_thread(shop.add)
        mark_written(request)
        return jsonify(number)

    @app.route("/sneak")
    async def sneak() -> Any:
        return jsonify(await shop.in_thread(shop.add))

    @app.route("/primary")
    async def primary() -> Any:
        shop.watcher.ensure_primary()
        return jsonify("here")

    @app.route("/on/<host>")
    async def on(host: str) -> Any:
        shop.watcher.ensure_instance(host)
        return jsonify("here")

    @app.route("/stream")
    async def stream() -> Any:
        return shop.pieces()

    @app.route("/bug")
    async def bug() -> Any:
        raise KeyError("bug")

    return app


_shops: dict[str, Shop] = {}  # Django has one set of views in a process: they find their node's shop by the scope


def configure_with_urls() -> None:
    """Django's settings, for this process."""
    from django.conf import settings

    configure()
    if not hasattr(settings, "ROOT_URLCONF"):
        settings.ROOT_URLCONF = _urls()


def django(shop: Shop) -> Any:
    configure_with_urls()
    from django.core.asgi import get_asgi_application

    application = get_asgi_application()
    _shops[shop.watcher.hostname] = shop

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "shop": shop.watcher.hostname}, receive, send)

    return LifespanMiddleware(app, shop.watcher)


def _urls() -> ModuleType:
    from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def shop_of(request: Any) -> Shop:
        return _shops[request.scope["shop"]]

    def orders(request: HttpRequest) -> HttpResponse:
        shop = shop_of(request)
        return JsonResponse(shop.add() if request.method == "POST" else shop.count(), safe=False)

    def add(request: HttpRequest) -> HttpResponse:
        number = shop_of(request).add()
        mark_written(request)
        return JsonResponse(number, safe=False)

    def sneak(request: HttpRequest) -> HttpResponse:
        return JsonResponse(shop_of(request).add(), safe=False)

    async def primary(request: HttpRequest) -> HttpResponse:
        shop_of(request).watcher.ensure_primary()
        return JsonResponse("here", safe=False)

    def on(request: HttpRequest, host: str) -> HttpResponse:
        shop_of(request).watcher.ensure_instance(host)
        return JsonResponse("here", safe=False)

    async def stream(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(shop_of(request).pieces())

    def bug(request: HttpRequest) -> HttpResponse:
        raise KeyError("bug")

    urls = ModuleType("tests_http_urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("orders", orders),
        path("add", add),
        path("sneak", sneak),
        path("primary", primary),
        path("on/<host>", on),
        path("stream", stream),
        path("bug", bug),
    ]
    return urls


FRAMEWORKS: dict[str, Callable[[Shop], Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
    "django": django,
}
