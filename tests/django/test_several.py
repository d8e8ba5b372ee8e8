"""Several databases in Django's one middleware; and a Secure cookie that comes over HTTP, which is said once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings

from litefs_watch import Position, Role
from litefs_watch.django import LiteFSMiddleware, get_watcher
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure

configure()
SOON = 10.0
USERS = "users.db"
View = Callable[[HttpRequest], HttpResponse]
Ask = Callable[..., HttpResponse]


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    """A primary with two databases."""
    with SimulatedNode(hostname="node-b") as node:
        node.commit(USERS)
        with configured(node, databases=["app.db", USERS]):
            yield node


@contextmanager
def configured(node: SimulatedNode, **options: Any) -> Iterator[None]:
    where = {"litefs_dir": node.litefs_dir, "api_url": node.api_url, "hostname": "node-b", "database": "app.db"}
    with override_settings(LITEFS_WATCH=where | {"hold_writes": 0.05, "timeout": 0.05} | options):
        get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
        for database in ("app.db", USERS):
            get_watcher().wait_for_tx(node.position(database), database=database, timeout=SOON)
        yield


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, node: SimulatedNode) -> Ask:
    """``ask(view, method, **headers)``."""

    def sync(view: View, method: str, **headers: str) -> HttpResponse:
        response: HttpResponse = LiteFSMiddleware(view)(RequestFactory().generic(method, "/", headers=headers))
        return response

    def asynchronous(view: View, method: str, **headers: str) -> HttpResponse:
        async def inner(request: HttpRequest) -> HttpResponse:
            response: HttpResponse = await sync_to_async(view)(request)
            return response

        made = AsyncRequestFactory().generic(method, "/", headers=headers)
        made.scope["headers"].remove((b"cookie", b""))  # of the factory
        response: HttpResponse = async_to_sync(LiteFSMiddleware(inner))(made)
        return response

    return sync if request.param == "sync" else asynchronous


def test_each_database_has_its_own_cookie(ask: Ask, node: SimulatedNode) -> None:
    """Set where that one was written; and each is waited for."""

    def view(request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            node.commit(USERS)
        return HttpResponse("done")

    response = ask(view, "POST")
    at = node.position(USERS)
    assert {name: cookie.value for name, cookie in response.cookies.items()} == {"litefs_pos_users.db": str(at)}
    assert response.headers["litefs-txid-users-db"] == str(at)
    assert "litefs-txid" not in response.headers

    node.set_primary("node-a")
    get_watcher().wait_for_role(Role.REPLICA, timeout=SOON)
    assert ask(view, "GET", cookie=f"litefs_pos_users.db={at}; litefs_pos={node.position()}").content == b"done"
    for name in ("litefs_pos", "litefs_pos_users.db"):
        assert ask(view, "GET", cookie=f"{name}={Position(9, 1)}").headers["fly-replay"] == "instance=node-a"


@pytest.mark.parametrize("databases", ["app.db", [], ["app.db", "app.db"]])
def test_databases_that_are_none(node: SimulatedNode, databases: Any) -> None:
    """A name alone, none, and one twice: said when Django starts."""
    with (
        override_settings(LITEFS_WATCH={"litefs_dir": node.litefs_dir, "database": "app.db", "databases": databases}),
        pytest.raises(ImproperlyConfigured, match="databases is a sequence of names"),
    ):
        LiteFSMiddleware(lambda request: HttpResponse())


@pytest.mark.parametrize(("headers", "said"), [({}, True), ({"x-forwarded-proto": "https"}, False)])
def test_a_secure_cookie_over_http(
    ask: Ask, node: SimulatedNode, caplog: pytest.LogCaptureFixture, headers: Any, said: bool
) -> None:
    """Is said; not where Django knows, or a proxy says, that it was HTTPS."""
    with configured(node):
        assert ask(lambda request: HttpResponse(), "POST", host="shop.example.com", **headers).cookies
        assert ["Secure was set over HTTP, for shop.example.com" in message for message in caplog.messages] == [True] * said
        caplog.clear()
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_HTTPS", "on")):
            assert ask(lambda request: HttpResponse(), "POST", host="shop.example.com", **{"x-https": "on"}).cookies
        assert caplog.messages == []


def test_it_is_said_once(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """However many requests come."""
    with configured(node):
        middleware: Any = LiteFSMiddleware(lambda request: HttpResponse())
        for _ in range(2):
            assert middleware(RequestFactory().post("/", headers={"host": "shop.example.com"})).cookies
    assert len(caplog.messages) == 1
