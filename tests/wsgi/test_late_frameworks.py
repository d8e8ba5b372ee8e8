"""Flask's teardown, and streams of Flask and Django that write, on a lagging cluster and on LiteFS itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import flask
import pytest
from werkzeug.test import Client

from litefs_watch import BlockingWatcher
from litefs_watch.wsgi import LiteFSMiddleware
from tests.asgi.apps import configure_with_urls
from tests.late import SOON, WHERE, Ask, Shop, stale_reads, two_nodes

Make = Callable[[Shop], Any]


def flask_teardown(shop: Shop) -> Any:
    app = flask.Flask(__name__)

    @app.post("/orders/<int:number>")
    def order(number: int) -> Any:
        flask.g.number = number
        return flask.jsonify(True)

    @app.get("/orders/<int:number>")
    def read(number: int) -> Any:
        return flask.jsonify(shop.has(number))

    @app.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        if "number" in flask.g:
            shop.add(flask.g.number)

    return app.wsgi_app


def _pieces(shop: Shop, number: int) -> Iterator[bytes]:
    yield b"tr"
    shop.add(number)
    yield b"ue"


def flask_stream(shop: Shop) -> Any:
    app = flask.Flask(__name__)

    @app.post("/orders/<int:number>")
    def order(number: int) -> Any:
        return flask.Response(flask.stream_with_context(_pieces(shop, number)))

    @app.get("/orders/<int:number>")
    def read(number: int) -> Any:
        return flask.jsonify(shop.has(number))

    return app.wsgi_app


def django_stream(shop: Shop) -> Any:
    configure_with_urls()
    from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
    from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def orders(request: HttpRequest, number: int) -> HttpResponseBase:
        if request.method == "POST":
            return StreamingHttpResponse(_pieces(shop, number))
        return JsonResponse(shop.has(number), safe=False)

    urls = ModuleType("late_wsgi_urls")
    urls.urlpatterns = [path("orders/<int:number>", orders)]  # type: ignore[attr-defined]

    class Request(WSGIRequest):  # type: ignore[misc]
        urlconf = urls

    class Handler(WSGIHandler):  # type: ignore[misc]
        request_class = Request

    return Handler()


@contextmanager
def site(where: str, directory: Path, make: Make) -> Iterator[tuple[Ask, Ask, list[str]]]:
    """How a client asks the primary, how it asks the replica, and what is replayed."""
    with ExitStack() as stack:
        two = stack.enter_context(two_nodes(where, directory))
        clients, cookies = {}, {"cookie": ""}
        replays: list[str] = []
        for node in (two.primary, two.replica):
            watcher = stack.enter_context(BlockingWatcher(node.settings()))
            app = make(Shop(partial(two.connect, node.hostname)))
            app = LiteFSMiddleware(app, watcher, secure=False, timeout=SOON, on_timeout="error")
            clients[node.hostname] = Client(app, use_cookies=False)
            watcher.wait_for_primary(timeout=SOON)
            watcher.wait_for_tx(two.primary.position(), timeout=SOON)

        def ask(hostname: str, method: str, path: str) -> Any:
            answer = clients[hostname].open(path, method=method, headers=cookies, buffered=True)
            if answer.status_code == 409:
                replays.append(path)
                to = answer.headers["fly-replay"].removeprefix("instance=")
                headers = cookies | {"fly-replay-src": f"instance={hostname}"}
                answer = clients[to].open(path, method=method, headers=headers, buffered=True)
            assert answer.status_code == 200, answer
            if "set-cookie" in answer.headers:
                cookies["cookie"] = answer.headers["set-cookie"].split(";")[0]
            return json.loads(answer.data)

        yield partial(ask, two.primary.hostname), partial(ask, two.replica.hostname), replays


@pytest.mark.parametrize("where", WHERE)
def test_a_commit_in_flask_s_teardown_is_read(where: str, tmp_path: Path) -> None:
    """On the replica itself, 50 times of 50: the response starts after the commit, and carries its position."""
    with site(where, tmp_path, flask_teardown) as (write, read, replays):
        assert stale_reads(write, read) == 0
        assert replays == []


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("make", [flask_stream, django_stream])
def test_what_a_stream_writes_while_it_streams_is_read(make: Make, where: str, tmp_path: Path) -> None:
    """50 times of 50, on the primary, as on one machine."""
    with site(where, tmp_path, make) as (write, read, replays):
        assert stale_reads(write, read) == 0
        assert len(replays) == 50
