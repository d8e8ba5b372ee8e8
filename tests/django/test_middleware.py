"""`LiteFSMiddleware` for Django in this process, sync and async, around a view that is a function."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.db import ConnectionHandler, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings

from litefs_watch import NotPrimary, Position, Role
from litefs_watch.django import (
    FlyReplay,
    LiteFSMiddleware,
    Redirect,
    get_awaitable_watcher,
    get_watcher,
    lost_transaction,
    mark_written,
)
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure

configure()
SOON = 10.0
AHEAD = f"litefs_pos={Position(9, 1)}"
Ask = Callable[..., HttpResponse]


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        yield node


@pytest.fixture
def configured(node: SimulatedNode) -> Iterator[Callable[..., Any]]:
    """``LITEFS_WATCH`` for that node, with these options."""
    overrides: list[override_settings] = []

    def set_options(**options: Any) -> None:
        where = {"litefs_dir": node.litefs_dir, "api_url": node.api_url, "hostname": "node-b", "database": "app.db"}
        overrides.append(override_settings(LITEFS_WATCH=where | {"hold_writes": 0.05} | options))
        overrides[-1].enable()

    set_options()
    yield set_options
    for override in reversed(overrides):
        override.disable()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, configured: Any) -> Ask:
    """``ask(view, method, path, **headers)``; the view is ``def (request) -> HttpResponse``."""

    def sync(view: Callable[[HttpRequest], HttpResponse], method: str, path: str, **headers: str) -> HttpResponse:
        return LiteFSMiddleware(view)(RequestFactory().generic(method, path, headers=headers))

    def asynchronous(view: Callable[[HttpRequest], HttpResponse], method: str, path: str, **headers: str) -> HttpResponse:
        async def async_view(request: HttpRequest) -> HttpResponse:
            response: HttpResponse = await sync_to_async(view)(request)
            return response

        middleware = LiteFSMiddleware(async_view)
        made = AsyncRequestFactory().generic(method, path, headers=headers)
        made.scope["headers"].remove((b"cookie", b""))  # of the factory
        return async_to_sync(middleware)(made)

    return sync if request.param == "sync" else asynchronous


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


def unreached(request: HttpRequest) -> HttpResponse:
    raise AssertionError("the view ran")


def refused(request: HttpRequest) -> HttpResponse:
    """As Django answers where a write was refused: with an error page, and a signal."""
    try:
        raise sqlite3.OperationalError("attempt to write a readonly database")
    except sqlite3.OperationalError:
        got_request_exception.send(sender=None, request=request)
        return HttpResponse(status=500)


def test_a_write_is_replayed(ask: Ask) -> None:
    """The answer is bare: no content type, no cookie; and Django is told that it need not log it."""
    response = ask(unreached, "POST", "/a?b")
    assert response.status_code == 409
    assert dict(response.items()) == {
        "fly-replay": "instance=node-a",
        "content-length": "0",
        "cache-control": "no-store",
    }
    assert response._has_been_logged


def test_a_read_waits(ask: Ask, node: SimulatedNode) -> None:
    """In the thread, or on the loop; woken by the transaction."""
    watcher = get_watcher()
    watcher.wait_for_tx(1, timeout=SOON)
    inner = watcher._live().board
    add = inner._tx_waiters.add

    def add_and_commit(waiter: Any) -> None:
        add(waiter)
        threading.Thread(target=node.commit).start()

    inner._tx_waiters.add = add_and_commit  # type: ignore[method-assign]
    response = ask(page, "GET", "/", cookie="litefs_pos=2")
    assert (response.status_code, response.content) == (200, b"page")
    assert response.headers["vary"] == "cookie"
    assert not response.cookies
    assert node.position().txid == 2


def test_a_view_that_writes_and_says_so(ask: Ask, node: SimulatedNode) -> None:
    """Django's own cookies and headers stay, and its test client sees ours."""
    node.become_primary()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)

    def view(request: HttpRequest) -> HttpResponse:
        node.commit()
        mark_written(request)
        response = HttpResponse("written", headers={"vary": "accept"})
        response.set_cookie("theirs", "1")
        return response

    response = ask(view, "GET", "/")
    assert response.cookies["theirs"].value == "1"
    ours = response.cookies["litefs_pos"]
    assert ours.value == str(node.position())
    assert (ours["max-age"], ours["path"], ours["samesite"], ours["httponly"], ours["secure"]) == (
        "300",
        "/",
        "Lax",
        True,
        True,
    )
    assert response.headers["litefs-txid"] == ours.value
    assert response.headers["cache-control"] == "private"
    assert response.headers["vary"] == "accept, cookie"


@pytest.mark.parametrize("token", [Position(1, 7), Position(9, 7)], ids=["of another history", "ahead"])
def test_what_is_lost(ask: Ask, node: SimulatedNode, configured: Any, token: Position) -> None:
    """Is told to the view before it answers, and to the client, whose token is replaced."""
    configured(timeout=0.01)
    node.become_primary()
    at = node.position()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
    get_watcher().wait_for_tx(at, timeout=SOON)

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"{lost_transaction(request)} {request.META.get('litefs_watch.lost')}")

    response = ask(view, "GET", "/", cookie=f"litefs_pos={token}")
    assert response.content == b"%d %d" % (token.txid, token.txid)
    assert response.headers["litefs-lost"] == f"{token.txid:016x}"
    assert response.cookies["litefs_pos"].value == str(at)
    response = ask(view, "GET", "/", cookie=f"litefs_pos={at}")
    assert response.content == b"None None"
    assert "litefs-lost" not in response.headers


def test_a_modified_session_is_a_write(ask: Ask, node: SimulatedNode) -> None:
    """One of the database's; a signed cookie is none."""
    node.become_primary()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)

    def view_with(session: Any) -> Callable[[HttpRequest], HttpResponse]:
        def view(request: HttpRequest) -> HttpResponse:
            request.session = session
            return HttpResponse()

        return view

    in_database = SimpleNamespace(modified=True, get_model_class=None)
    assert ask(view_with(in_database), "GET", "/").cookies["litefs_pos"].value == str(node.position())
    for other in (SimpleNamespace(modified=True), SimpleNamespace(modified=False, get_model_class=None)):
        assert not ask(view_with(other), "GET", "/").cookies


@pytest.mark.parametrize("role", [Role.PRIMARY, Role.REPLICA])
def test_a_session_that_could_not_be_saved(ask: Ask, node: SimulatedNode, role: Role) -> None:
    """Django answers 400 then, and tells nobody why. On the primary it is a 400 of the view's own."""
    if role is Role.PRIMARY:
        node.become_primary()
    get_watcher().wait_for_role(role, timeout=SOON)
    lite = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": node.database_file()}}

    def status_with(session: SimpleNamespace, databases: Any = lite) -> int:
        def view(request: HttpRequest) -> HttpResponse:
            request.session = session
            return HttpResponse(status=400)

        known = ConnectionHandler(databases)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("litefs_watch.django.middleware.connections", known)
            return int(ask(view, "GET", "/").status_code)

    def session(**values: Any) -> SimpleNamespace:
        return SimpleNamespace(**{"modified": True, "get_model_class": None, "is_empty": bool, "model": None} | values)

    assert status_with(session()) == (400 if role is Role.PRIMARY else 409)
    assert status_with(session(modified=False)) == 400
    assert status_with(session(is_empty=lambda: True)) == 400
    elsewhere = {"default": {"ENGINE": "django.db.backends.dummy"}}
    assert status_with(session(), elsewhere) == 400
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        assert status_with(session(modified=False)) == (400 if role is Role.PRIMARY else 409)


def test_an_error_page_behind_which_a_refused_write_is(ask: Ask) -> None:
    """It becomes the replay. On the primary, and where nothing was refused, it stays."""
    assert ask(refused, "GET", "/").headers["fly-replay"] == "instance=node-a"
    assert ask(lambda _: HttpResponse(status=500), "GET", "/").status_code == 500


def test_an_error_page_on_the_primary_stays(ask: Ask, node: SimulatedNode) -> None:
    """There it is a fault of another kind."""
    node.become_primary()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
    assert ask(refused, "GET", "/").status_code == 500


def test_an_exception_that_comes_through(ask: Ask) -> None:
    """With DEBUG_PROPAGATE_EXCEPTIONS."""

    def elsewhere(request: HttpRequest) -> HttpResponse:
        raise NotPrimary("node-a")

    def broken(request: HttpRequest) -> HttpResponse:
        raise KeyError("bug")

    assert ask(elsewhere, "GET", "/").status_code == 409
    with pytest.raises(KeyError):
        ask(broken, "GET", "/")


def test_what_a_view_raises_is_no_error_of_django_s(configured: Any) -> None:
    """`process_exception` takes it before Django would log it and mail it."""
    request = RequestFactory().get("/")

    def view(request: HttpRequest) -> HttpResponse:
        response = middleware.process_exception(request, NotPrimary("node-a"))
        assert response is not None
        assert middleware.process_exception(request, KeyError("bug")) is None
        return response

    middleware = LiteFSMiddleware(view)
    assert middleware(request).status_code == 409  # type: ignore[union-attr]
    assert middleware.process_exception(RequestFactory().get("/"), NotPrimary("node-a")) is None  # left alone by us


def test_no_primary_is_503(ask: Ask, node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """After the hold; said once in the log, by us."""
    node.lose_primary()
    get_watcher().wait_for_role(Role.UNKNOWN, timeout=SOON)
    response = ask(unreached, "POST", "/orders")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["content-type"].startswith("text/plain")
    assert [record.getMessage()[:20] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "503 for POST /orders"
    ]


def test_a_redirect_keeps_path_and_query(ask: Ask, configured: Any) -> None:
    """Percent-encoded."""
    configured(replay=Redirect("https://{hostname}.example.com"))
    response = ask(unreached, "POST", "/a%20b?a=%20b&c")
    assert response.status_code == 307
    assert response.headers["location"] == "https://node-a.example.com/a%20b?a=%20b&c"


@pytest.mark.parametrize("raw", [{}, {"RAW_URI": "/%E2%82%AC%2F?q"}])
def test_a_redirect_knows_what_django_has_decoded(configured: Any, raw: dict[str, str]) -> None:
    """Beyond latin-1; and as the client wrote it, where the server tells."""
    configured(replay=Redirect("https://{hostname}.example.com"))
    request = RequestFactory().generic("POST", "/%E2%82%AC%2F?q", **raw)
    response: Any = LiteFSMiddleware(unreached)(request)
    end = "%2F" if raw else "/"
    assert response.headers["location"] == f"https://node-a.example.com/%E2%82%AC{end}?q"


def test_a_strategy_of_one_s_own(ask: Ask, configured: Any) -> None:
    """A function, or a coroutine function, under either."""

    def plain(request: HttpRequest, hostname: str) -> HttpResponse:
        return HttpResponse(f"{request.path} {hostname}", status=202)

    async def coroutine(request: HttpRequest, hostname: str) -> HttpResponse:
        return plain(request, hostname)

    for replay in (plain, coroutine):
        configured(replay=replay)
        response = ask(unreached, "PUT", "/orders")
        assert (response.status_code, response.content) == (202, b"/orders node-a")
        # It carries no count, so what another node has sent here is not sent on.
        assert ask(unreached, "PUT", "/orders", **{"fly-replay-src": "instance=node-x"}).status_code == 503


def test_within_another_one_it_does_nothing(ask: Ask, configured: Any) -> None:
    """The application may be wrapped as a whole, too: the outer one decides."""
    configured(on_timeout="stale", timeout=0.01)
    inner = LiteFSMiddleware(page)
    inner._begin = unreached  # type: ignore[method-assign]
    response = ask(inner, "GET", "/", cookie=AHEAD)
    assert response.headers["litefs-stale"] == "true"
    assert response.content == b"page"


def test_requests_that_are_served_at_once_are_counted(configured: Any) -> None:
    """Each takes a thread: what a hand-over may hold rests on how many there are."""
    together = threading.Barrier(3, timeout=SOON)

    def view(request: HttpRequest) -> HttpResponse:
        together.wait()
        return HttpResponse("done")

    middleware: Any = LiteFSMiddleware(view)
    threads = [threading.Thread(target=middleware, args=(RequestFactory().get("/"),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert middleware._gate.budget.crowd.most == 3


def test_paths_that_pass_through(ask: Ask, configured: Any) -> None:
    """Are left alone, whatever they are."""
    configured(passthrough_paths=["/healthz"])
    assert ask(page, "POST", "/healthz").content == b"page"


def test_a_wait_within_a_transaction_is_told(
    configured: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: it waits in vain, since its own transaction stops the replication."""
    open_one = SimpleNamespace(in_atomic_block=True, alias="default")
    monkeypatch.setattr(connections, "all", lambda initialized_only: [open_one])
    configured(timeout=0.01, on_timeout="stale")
    middleware = LiteFSMiddleware(page)
    for _ in range(2):
        middleware(RequestFactory().get("/", headers={"cookie": AHEAD}))
    assert caplog.text.count("within a transaction on 'default'") == 1


def test_the_watcher_of_the_process(node: SimulatedNode, configured: Any) -> None:
    """One, until the settings are overridden; an async view has the same."""
    watcher = get_watcher()
    assert get_watcher() is watcher
    assert get_awaitable_watcher().watcher is watcher
    watcher.start()
    configured(database="b.db")
    assert get_watcher() is not watcher
    assert not watcher.running
    assert get_watcher().settings.database == "b.db"


def test_a_handler_from_before_the_settings_were_overridden(configured: Any) -> None:
    """As Django's test client keeps one: it works with the new ones, and afterwards with the old ones again."""
    middleware: Any = LiteFSMiddleware(page)
    stale = RequestFactory().get("/", headers={"cookie": AHEAD})
    with override_settings(LITEFS_WATCH=django_settings.LITEFS_WATCH | {"on_timeout": "stale", "timeout": 0.01}):
        assert middleware(stale).headers["litefs-stale"] == "true"
    assert middleware(RequestFactory().get("/", headers={"cookie": AHEAD})).status_code == 409


@pytest.mark.parametrize("name", [":memory:", "file:memorydb_default?mode=memory&cache=shared"])
def test_a_database_in_memory(name: str, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django's test runner has it, which then runs the checks: none is to be named."""
    monkeypatch.delenv("DATABASE_FILENAME", raising=False)
    monkeypatch.setitem(django_settings.DATABASES, "default", {"ENGINE": "django.db.backends.sqlite3", "NAME": name})
    with override_settings(LITEFS_WATCH={"litefs_dir": node.litefs_dir, "api_url": None}):
        middleware: Any = LiteFSMiddleware(page)
        assert middleware(RequestFactory().get("/")).status_code == 200


def test_what_a_stream_writes_is_still_to_come(ask: Ask, node: SimulatedNode) -> None:
    """The position has moved, by the view or by another request's commit: its client is pinned, unless the view says that
    it is done."""
    node.become_primary()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)

    def view(request: HttpRequest) -> Any:
        node.commit()
        if request.path == "/done":
            mark_written(request)
        return StreamingHttpResponse(iter(["page"])) if request.path != "/page" else page(request)

    assert ask(view, "POST", "/stream").cookies["litefs_pos"].value == "pin"
    for path in ("/done", "/page"):
        assert ask(view, "POST", path).cookies["litefs_pos"].value == str(node.position())


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("django.db.backends.sqlite3", "/litefs/my shop.db"),
        ("django.contrib.gis.db.backends.spatialite", "/litefs/my shop.db"),
        ("django.db.backends.sqlite3", "file:/litefs/my%20shop.db?mode=rw"),
    ],
)
def test_the_database_is_django_s(engine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, however it is named."""
    monkeypatch.delenv("DATABASE_FILENAME", raising=False)
    monkeypatch.setitem(django_settings.DATABASES, "default", {"ENGINE": engine, "NAME": name})
    with override_settings(LITEFS_WATCH={"litefs_dir": "/litefs"}):
        assert get_watcher().settings.database == "my shop.db"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timout": 1}, "there is no 'timout'; did you mean 'timeout'?"),
        ({"xyzzy": 1}, "there is no 'xyzzy'; there are .*standalone"),
        ({"timeout": -1}, "timeout is a number of seconds"),
        ({"TIMEOUT": 1, "timeout": 1}, "stands there twice"),
        ({"replay": 1}, "replay: FlyReplay"),
        ({"api_url": "ftp://x"}, "api_url"),
        (3, "is a dictionary"),
        ({}, "LITEFS_DIR is not set"),
        ({"litefs_dir": "/litefs"}, "which database"),
    ],
)
def test_settings_that_cannot_work(options: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Django does not start with them."""
    for name in ("LITEFS_DIR", "DATABASE_FILENAME"):
        monkeypatch.delenv(name, raising=False)
    with override_settings(LITEFS_WATCH=options), pytest.raises(ImproperlyConfigured, match=message):
        LiteFSMiddleware(page)


def test_forward_is_for_the_whole_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where it belongs."""
    from litefs_watch.replay import Forward

    options = {"standalone": True, "replay": Forward("http://{hostname}:8080")}
    with override_settings(LITEFS_WATCH=options), pytest.raises(ImproperlyConfigured, match=r"wsgi\.py"):
        LiteFSMiddleware(page)


def test_keys_in_capitals_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django's own dictionaries have them; what is missing comes from the environment."""
    monkeypatch.setenv("LITEFS_DIR", "/elsewhere")
    monkeypatch.setenv("DATABASE_FILENAME", "e.db")
    with override_settings(LITEFS_WATCH={"LITEFS_DIR": "/litefs", "REPLAY": FlyReplay()}):
        assert str(get_watcher().settings.litefs_dir) == "/litefs"
        assert get_watcher().settings.database == "e.db"


def test_standalone_runs_everything(ask: Ask, configured: Any) -> None:
    """Development without LiteFS."""
    configured(litefs_dir=None, standalone=True)
    assert ask(page, "POST", "/").content == b"page"
