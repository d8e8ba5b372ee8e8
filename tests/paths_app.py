"""A replica that sends ``/admin/*`` on and leaves ``/healthz`` alone, for servers that import their application; 200 is an
answer of its own, 409 a replay. ``PATHS_APP`` says what it is made of."""

from __future__ import annotations

import os
import warnings
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount, Route

from litefs_watch import BlockingWatcher, Settings, wsgi
from litefs_watch.asgi import LiteFSMiddleware
from tests.asgi.fakes import Handler, replica

PATHS: dict[str, Any] = {"primary_paths": ["/admin/*"], "passthrough_paths": ["/healthz"]}


def plain() -> Any:
    return LiteFSMiddleware(Handler(), replica().watcher, **PATHS)


def starlette() -> Any:
    inner = Starlette(routes=[Route("/{path:path}", Handler())])
    inner.add_middleware(LiteFSMiddleware, watcher=replica().watcher, **PATHS)
    return inner


def mounted() -> Any:
    return Starlette(routes=[Mount("/sub", starlette())])


def fastapi() -> Any:
    from fastapi import FastAPI

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises the server's option
        app = FastAPI(root_path="/api")
    app.routes.append(Route("/{path:path}", Handler()))
    app.add_middleware(LiteFSMiddleware, watcher=replica().watcher, **PATHS)
    return app


def bare() -> Any:
    def answers(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-length", "0")])
        return []

    return wsgi.LiteFSMiddleware(answers, BlockingWatcher(Settings.from_env()), **PATHS)


KINDS = {"plain": plain, "starlette": starlette, "mounted": mounted, "fastapi": fastapi, "wsgi": bare}
app = KINDS[os.environ["PATHS_APP"]]()
