"""Applications that commit after their response has started, each in the way that its framework makes easy.

``POST /orders/N`` writes a row, ``GET /orders/N`` says whether it is there.
"""

# No postponed annotations: the frameworks look at them.

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Annotated, Any

import anyio

from tests.asgi.apps import configure_with_urls
from tests.late import Shop


def fastapi_dependency(shop: Shop) -> Any:
    """SQLAlchemy's textbook session for FastAPI: it commits in the dependency's exit."""
    from fastapi import Depends, FastAPI
    from sqlalchemy import NullPool, create_engine, text
    from sqlalchemy.orm import Session

    engine = create_engine("sqlite://", creator=shop.connect, poolclass=NullPool)

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            try:
                yield session
                session.commit()
            except Exception:
                session.rollback()
                raise

    app = FastAPI()

    @app.post("/orders/{number}")
    def order(number: int, session: Annotated[Session, Depends(get_session)]) -> bool:
        session.execute(text("INSERT INTO orders VALUES (:number)"), {"number": number})
        return True

    @app.get("/orders/{number}")
    def read(number: int) -> bool:
        return shop.has(number)

    return app


def litestar_dependency(shop: Shop) -> Any:
    """A generator, which Litestar ends before the response."""
    from litestar import Litestar, get, post
    from litestar.di import NamedDependency, Provide
    from litestar.params import FromPath

    async def order_of_request() -> AsyncIterator[list[int]]:
        numbers: list[int] = []
        yield numbers
        for number in numbers:
            await anyio.to_thread.run_sync(shop.add, number)

    @post("/orders/{number:int}", dependencies={"order": Provide(order_of_request)})
    async def order_(number: FromPath[int], order: NamedDependency[Any]) -> bool:
        order.append(number)
        return True

    @get("/orders/{number:int}", sync_to_thread=True)
    def read(number: FromPath[int]) -> bool:
        return shop.has(number)

    return Litestar([order_, read], logging_config=None)


def quart_teardown(shop: Shop) -> Any:
    """What Quart does when the context of the request ends."""
    from quart import Quart, g, jsonify

    app = Quart("shop")

    @app.post("/orders/<int:number>")
    async def order(number: int) -> Any:
        g.number = number
        return jsonify(True)

    @app.get("/orders/<int:number>")
    async def read(number: int) -> Any:
        return jsonify(await anyio.to_thread.run_sync(shop.has, number))

    @app.teardown_appcontext
    async def commit(error: BaseException | None) -> None:
        if "number" in g:
            await anyio.to_thread.run_sync(shop.add, g.number)

    return app


def starlette_background(shop: Shop) -> Any:
    """A BackgroundTask."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def orders(request: Request) -> Response:
        number = request.path_params["number"]
        if request.method == "POST":
            return JSONResponse(True, background=BackgroundTask(shop.add_later, number))
        return JSONResponse(await anyio.to_thread.run_sync(shop.has, number))

    return Starlette(routes=[Route("/orders/{number:int}", orders, methods=["GET", "POST"])])


def fastapi_background(shop: Shop) -> Any:
    """FastAPI's BackgroundTasks."""
    from fastapi import BackgroundTasks, FastAPI

    app = FastAPI()

    @app.post("/orders/{number}")
    def order(number: int, tasks: BackgroundTasks) -> bool:
        tasks.add_task(shop.add_later, number)
        return True

    @app.get("/orders/{number}")
    def read(number: int) -> bool:
        return shop.has(number)

    return app


def litestar_background(shop: Shop) -> Any:
    """Litestar's BackgroundTask."""
    from litestar import Litestar, Response, get, post
    from litestar.background_tasks import BackgroundTask
    from litestar.params import FromPath

    async def later(number: int) -> None:
        await anyio.to_thread.run_sync(shop.add_later, number)

    @post("/orders/{number:int}")
    async def order(number: FromPath[int]) -> Response[bool]:
        return Response(True, background=BackgroundTask(later, number))

    @get("/orders/{number:int}", sync_to_thread=True)
    def read(number: FromPath[int]) -> bool:
        return shop.has(number)

    return Litestar([order, read], logging_config=None)


def quart_background(shop: Shop) -> Any:
    """What Quart runs beside the next requests."""
    from quart import Quart, jsonify

    app = Quart("shop")

    @app.post("/orders/<int:number>")
    async def order(number: int) -> Any:
        app.add_background_task(shop.add_later, number)
        return jsonify(True)

    @app.get("/orders/<int:number>")
    async def read(number: int) -> Any:
        return jsonify(await anyio.to_thread.run_sync(shop.has, number))

    return app


async def _pieces(shop: Shop, number: int) -> AsyncIterator[bytes]:
    yield b"tr"
    await anyio.to_thread.run_sync(shop.add, number)
    yield b"ue"


def starlette_stream(shop: Shop) -> Any:
    """A stream that writes while it streams."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def orders(request: Request) -> Response:
        number = request.path_params["number"]
        if request.method == "POST":
            return StreamingResponse(_pieces(shop, number))
        return JSONResponse(await anyio.to_thread.run_sync(shop.has, number))

    return Starlette(routes=[Route("/orders/{number:int}", orders, methods=["GET", "POST"])])


def django_stream(shop: Shop) -> Any:
    """Django's StreamingHttpResponse."""
    configure_with_urls()
    from django.core.handlers.asgi import ASGIHandler
    from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
    from django.urls import path

    async def orders(request: HttpRequest, number: int) -> HttpResponseBase:
        if request.method == "POST":
            return StreamingHttpResponse(_pieces(shop, number))
        return JsonResponse(await anyio.to_thread.run_sync(shop.has, number), safe=False)

    urls = ModuleType("late_urls")
    urls.urlpatterns = [path("orders/<int:number>", orders)]  # type: ignore[attr-defined]

    class Handler(ASGIHandler):  # type: ignore[misc]
        """Of views of its own: Django has one set of settings in a process."""

        def create_request(self, scope: Any, body_file: Any) -> Any:
            request, error = super().create_request(scope, body_file)
            if request is not None:
                request.urlconf = urls
            return request, error

    return Handler()


Make = Callable[[Shop], Any]

EXITS: list[Make] = [fastapi_dependency, litestar_dependency, quart_teardown]
BACKGROUND: list[Make] = [starlette_background, fastapi_background, litestar_background, quart_background]
STREAMS: list[Make] = [starlette_stream, django_stream]
