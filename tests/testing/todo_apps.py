"""A to-do list in six frameworks, as their own pages would write it: nothing in it knows of a simulator.

``POST /todos/TITLE`` adds one, ``GET /todos`` lists the titles. `MAKERS` makes each for a node; `app` the one that ``TODO``
names, for a server in another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import aiosqlite

from litefs_watch import BlockingWatcher, Settings, Watcher
from litefs_watch.asgi import LifespanMiddleware
from litefs_watch.asgi import LiteFSMiddleware as AsgiMiddleware
from litefs_watch.wsgi import LiteFSMiddleware as WsgiMiddleware

OPTIONS: Any = {"secure": False, "timeout": 10.0, "max_waiting": 20}  # more than the server's threads: all may wait
TABLE = "CREATE TABLE todo (id INTEGER PRIMARY KEY, title TEXT NOT NULL)"


def _path(settings: Settings) -> str:
    return f"{settings.litefs_dir}/{settings.database}"


def _table(base: Any) -> Any:
    """The model that both of SQLAlchemy's styles use."""
    from sqlalchemy.orm import Mapped, mapped_column

    return type(
        "Todo",
        (base,),
        {
            "__tablename__": "todo",
            "__annotations__": {"id": Mapped[int], "title": Mapped[str]},
            "id": mapped_column(primary_key=True),
            "title": mapped_column(),
        },
    )


def fastapi(settings: Settings) -> Any:
    """SQLAlchemy's asyncio, over aiosqlite."""
    import fastapi
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase
    from sqlalchemy.pool import NullPool

    base: Any = type("Base", (DeclarativeBase,), {})
    todo = _table(base)
    sessions = async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{_path(settings)}", poolclass=NullPool))
    watcher = Watcher(settings)
    api = fastapi.FastAPI(lifespan=watcher.lifespan)

    async def add(title: str) -> None:
        async with sessions() as session, session.begin():
            session.add(todo(title=title))

    async def titles() -> list[str]:
        async with sessions() as session:
            return list(await session.scalars(select(todo.title)))

    api.post("/todos/{title}")(add)
    api.get("/todos")(titles)
    return AsgiMiddleware(api, watcher, **OPTIONS)


def flask(settings: Settings) -> Any:
    """SQLAlchemy's ordinary sessions."""
    import flask
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import DeclarativeBase, sessionmaker

    base: Any = type("Base", (DeclarativeBase,), {})
    todo = _table(base)
    sessions = sessionmaker(create_engine(f"sqlite:///{_path(settings)}"))
    site = flask.Flask(__name__)

    def add(title: str) -> Any:
        with sessions.begin() as session:
            session.add(todo(title=title))
        return "", 201

    def titles() -> Any:
        with sessions() as session:
            return flask.jsonify(list(session.scalars(select(todo.title))))

    site.post("/todos/<title>")(add)
    site.get("/todos")(titles)
    watcher = BlockingWatcher(settings)
    watcher.start()
    return WsgiMiddleware(site, watcher, **OPTIONS)


def litestar(settings: Settings) -> Any:
    """Advanced Alchemy, whose session commits when the response is known."""
    import litestar
    from advanced_alchemy.extensions.litestar import (
        AsyncSessionConfig,
        EngineConfig,
        SQLAlchemyAsyncConfig,
        SQLAlchemyPlugin,
    )
    from litestar.di import NamedDependency
    from litestar.params import FromPath
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import DeclarativeBase
    from sqlalchemy.pool import NullPool

    base: Any = type("Base", (DeclarativeBase,), {})
    todo = _table(base)

    async def add(title: str, db_session: Any) -> None:
        db_session.add(todo(title=title))

    async def titles(db_session: Any) -> list[str]:
        return list(await db_session.scalars(select(todo.title)))

    for handler in (add, titles):
        handler.__annotations__ |= {
            "db_session": NamedDependency[AsyncSession],
            "return": None if handler is add else list[str],
        }
    add.__annotations__["title"] = FromPath[str]
    database = SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{_path(settings)}",
        engine_config=EngineConfig(poolclass=NullPool),
        session_config=AsyncSessionConfig(expire_on_commit=False),
        before_send_handler="autocommit",
    )
    watcher = Watcher(settings)
    database.get_engine()  # looks for the file: not on the event loop
    site: Any = litestar.Litestar(
        [litestar.post("/todos/{title:str}")(add), litestar.get("/todos")(titles)],
        plugins=[SQLAlchemyPlugin(config=database)],
        lifespan=[watcher.lifespan],
        logging_config=None,  # Litestar's own one takes the root logger, and every later test's log with it
    )
    return AsgiMiddleware(site, watcher, **OPTIONS)


async def _add(path: str, title: str) -> None:
    async with aiosqlite.connect(path) as connection:
        await connection.execute("INSERT INTO todo (title) VALUES (?)", (title,))
        await connection.commit()


async def _titles(path: str) -> Iterable[str]:
    async with aiosqlite.connect(path) as connection:
        return [title for (title,) in await connection.execute_fetchall("SELECT title FROM todo")]


def starlette(settings: Settings) -> Any:
    """aiosqlite, a connection for each request."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def add(request: Any) -> Any:
        await _add(_path(settings), request.path_params["title"])
        return JSONResponse(None, 201)

    async def titles(request: Any) -> Any:
        return JSONResponse(await _titles(_path(settings)))

    watcher = Watcher(settings)
    routes = [Route("/todos/{title}", add, methods=["POST"]), Route("/todos", titles)]
    return AsgiMiddleware(Starlette(routes=routes, lifespan=watcher.lifespan), watcher, **OPTIONS)


def quart(settings: Settings) -> Any:
    """aiosqlite in Quart."""
    import quart

    site: Any = quart.Quart(__name__)

    async def add(title: str) -> Any:
        await _add(_path(settings), title)
        return "", 201

    async def titles() -> Any:
        return quart.jsonify(await _titles(_path(settings)))

    site.post("/todos/<title>")(add)
    site.get("/todos")(titles)
    watcher = Watcher(settings)
    return LifespanMiddleware(AsgiMiddleware(site, watcher, **OPTIONS), watcher)


def django(settings: Settings) -> Any:
    """Django's ORM. One for each process: its settings are the process's."""
    import sys

    import django
    from django.conf import settings as configuration

    configuration.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="of no consequence",
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["litefs_watch.django.LiteFSMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": _path(settings)}},
        LITEFS_WATCH=OPTIONS,
    )
    django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.db import models
    from django.http import HttpResponse, JsonResponse
    from django.urls import path

    meta = type("Meta", (), {"app_label": "todos", "db_table": "todo"})
    fields = {"__module__": __name__, "Meta": meta, "title": models.TextField(), "id": models.AutoField(primary_key=True)}
    todo: Any = type("Todo", (models.Model,), fields)

    def add(request: Any, title: str) -> HttpResponse:
        todo.objects.create(title=title)
        return HttpResponse(status=201)

    def titles(request: Any) -> HttpResponse:
        return JsonResponse(list(todo.objects.values_list("title", flat=True)), safe=False)

    module: Any = sys.modules[__name__]
    module.urlpatterns = [path("todos", titles), path("todos/<title>", add)]
    return get_wsgi_application()


MAKERS: dict[str, Callable[[Settings], Any]] = {
    maker.__name__: maker for maker in (fastapi, flask, litestar, starlette, quart, django)
}
ASGI = ("fastapi", "litestar", "starlette", "quart")


def app() -> Any:
    """The application that the environment asks for."""
    return MAKERS[os.environ["TODO"]](Settings.from_env())
