"""Django notes refused writes on its own connections: a view that catches one can't hide it. Dead ones are closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.core.handlers.exception import convert_exception_to_response
from django.db import ConnectionHandler, DatabaseError, close_old_connections, connections, transaction
from django.db.utils import DatabaseErrorWrapper
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings

import litefs_watch.django
from litefs_watch import Role
from litefs_watch.django import LiteFSMiddleware, get_watcher
from litefs_watch.django.apps import LiteFSWatchConfig
from litefs_watch.django.connections import watch_connections
from litefs_watch.testing import SimulatedNode
from litefs_watch.web import notes
from litefs_watch.wsgi import LiteFSMiddleware as Around
from tests.django.configured import configure
from tests.refusing import database, kill_connections, refuse_writes

configure()
apps.populate(())  # Django warns of a database that is asked before that
SOON = 10.0
ALIAS = "refusing"
INSERT = "INSERT INTO t VALUES (2)"
View = Callable[[HttpRequest], HttpResponse]
Ask = Callable[[View], HttpResponse]


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of dead connections is the process's."""
    monkeypatch.setattr(notes, "dead_connections", notes.DeadConnections())


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    """A replica."""
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        where = {"litefs_dir": node.litefs_dir, "api_url": node.api_url, "hostname": "node-b", "database": "app.db"}
        with override_settings(LITEFS_WATCH=where | {"hold_writes": 0.05}, ROOT_URLCONF=()):
            get_watcher().wait_for_role(Role.REPLICA, timeout=SOON)
            yield node


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, node: SimulatedNode) -> Ask:
    """Through our middleware, as Django loads it."""
    middlewares: dict[View, Any] = {}

    def sync(view: View) -> HttpResponse:
        middleware = middlewares.setdefault(view, LiteFSMiddleware(convert_exception_to_response(view)))
        response: HttpResponse = middleware(RequestFactory().get("/items/1"))
        return response

    def asynchronous(view: View) -> HttpResponse:
        async def inner(request: HttpRequest) -> HttpResponse:
            response: HttpResponse = await sync_to_async(convert_exception_to_response(view))(request)
            return response

        response: HttpResponse = async_to_sync(LiteFSMiddleware(inner))(AsyncRequestFactory().get("/items/1"))
        return response

    return sync if request.param == "sync" else asynchronous


def connect(path: Path) -> Iterator[Any]:
    known = ConnectionHandler({"default": {}, ALIAS: {"ENGINE": "django.db.backends.sqlite3", "NAME": path}})
    connections.settings[ALIAS] = known.settings[ALIAS] | {"CONN_MAX_AGE": None}
    watch_connections()
    connection = connections[ALIAS]
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM t").fetchall()
    yield connection
    connection.close()
    del connections[ALIAS], connections.settings[ALIAS]


@pytest.fixture(params=["DELETE", "WAL"])
def refusing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A connection over which nothing can be written."""
    path = database(tmp_path, request.param)
    for connection in connect(path):
        refuse_writes(path)
        yield connection


def is_watched(connection: Any) -> bool:
    return type(connection.wrap_database_errors) is not DatabaseErrorWrapper


def insert() -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(INSERT)


def autocommit() -> None:
    insert()


def atomic() -> None:
    with transaction.atomic(using=ALIAS):
        insert()


def savepoints() -> None:
    """What is refused in the inner one is caught; with a WAL, the outer one fails."""
    with transaction.atomic(using=ALIAS):
        try:
            with transaction.atomic(using=ALIAS):
                insert()
        except DatabaseError:
            return


WRITES = [autocommit, atomic, savepoints]


@pytest.mark.parametrize("write", WRITES)
def test_what_a_view_catches_is_replayed(
    ask: Ask, node: SimulatedNode, refusing: Any, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As a REST framework's exception handler does, whatever it answers, but for a success, of which the log says once."""

    def answers(status: int) -> View:
        def view(request: HttpRequest) -> HttpResponse:
            try:
                write()
            except Exception:  # noqa: BLE001
                return HttpResponse(status=status)
            return HttpResponse(status=status)

        return view

    for status in (400, 500):
        assert ask(answers(status)).headers["fly-replay"] == "instance=node-a"
    assert caplog.messages == []
    swallows = answers(200)
    middleware: Any = LiteFSMiddleware(swallows)
    assert [middleware(RequestFactory().get(f"/items/{number}")).status_code for number in (1, 2)] == [200, 200]
    (said,) = caplog.messages
    assert said.startswith("GET /items/* answers with a success, and a write of its was refused here")
    node.become_primary()
    get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
    assert (ask(answers(400)).status_code, ask(swallows).status_code) == (400, 200)
    assert len([message for message in caplog.messages if "success" in message]) == 1


def test_an_error_made_of_it(ask: Ask, refusing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Raised ``from None`` by the view: it becomes the replay, and is no error in Django's log."""

    def view(request: HttpRequest) -> HttpResponse:
        try:
            atomic()
        except DatabaseError:
            raise KeyError("unavailable") from None
        return HttpResponse()

    assert ask(view).headers["fly-replay"] == "instance=node-a"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_process_exception(node: SimulatedNode, refusing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Django asks us first what becomes of a view's exception; where it stays one, its page is that of the exception."""

    def view(request: HttpRequest) -> HttpResponse:
        with pytest.raises(DatabaseError):
            atomic()
        error = KeyError("unavailable")
        answer = middleware.process_exception(request, error)
        assert isinstance(answer, HttpResponse)
        if takes_over:
            node.become_primary()
            get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
        return answer

    for takes_over in (False, True):
        middleware: Any = LiteFSMiddleware(view)
        response = middleware(RequestFactory().get("/"))
        assert response.status_code == (500 if takes_over else 409)
        errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert list(map(repr, errors)) == (["KeyError('unavailable')"] if takes_over else [])


def test_a_request_within_a_request(ask: Ask, refusing: Any) -> None:
    """A view that asks its own project: what it is refused afterwards is its own."""

    def inner(request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=400)

    def outer(request: HttpRequest) -> HttpResponse:
        assert ask(inner).status_code == 400
        with pytest.raises(DatabaseError):
            atomic()
        return HttpResponse(status=400)

    assert ask(outer).status_code == 409


def test_where_the_whole_application_is_wrapped(node: SimulatedNode, refusing: Any) -> None:
    """The outer middleware answers."""

    def view(request: HttpRequest) -> HttpResponse:
        with pytest.raises(DatabaseError):
            atomic()
        return HttpResponse(status=400)

    def application(environ: Any, start_response: Any) -> list[bytes]:
        request = RequestFactory(**environ).get("/")
        request.META = environ
        response: HttpResponse = LiteFSMiddleware(view)(request)
        start_response(f"{response.status_code} Bad Request", [])
        return [b"sorry"]

    started: list[Any] = []
    tell: Any = lambda *arguments: started.append(arguments)  # noqa: E731
    Around(application, get_watcher())(RequestFactory()._base_environ(), tell)
    ((status, headers),) = started
    assert (status, dict(headers)["fly-replay"]) == ("409 Conflict", "instance=node-a")


def test_outside_of_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A management command, a thread of one's own: nothing is noted, and nothing said."""

    def write() -> None:
        with pytest.raises(DatabaseError):
            atomic()
        connections[ALIAS].close()
        done.append(True)

    done: list[bool] = []
    path = database(tmp_path)
    for _ in connect(path):
        refuse_writes(path)
        write()
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert (len(done), caplog.messages) == (2, [])


def test_which_connections_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are open already when Django loads our middleware, or our application; and who connects anew."""
    registered: list[Any] = []
    monkeypatch.setattr("litefs_watch.django.apps.register", lambda *arguments, **keywords: registered.append(arguments))
    config = LiteFSWatchConfig("litefs_watch.django", litefs_watch.django)
    for connection in connect(database(tmp_path)):
        for load in (lambda: LiteFSMiddleware(lambda request: HttpResponse()), config.ready):
            del connection.wrap_database_errors
            with override_settings(LITEFS_WATCH={"litefs_dir": tmp_path, "database": "app.db"}):
                load()
            assert is_watched(connection)
        del connection.wrap_database_errors
        connection.close()
        connection.connect()
        assert is_watched(connection)
    assert registered


def test_a_dead_connection_is_closed(
    ask: Ask, node: SimulatedNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``CONN_MAX_AGE=None`` too: the read stays an error, is said once, and the next request works."""
    path = database(tmp_path)

    def view(request: HttpRequest) -> HttpResponse:
        try:
            with connections[ALIAS].cursor() as cursor:
                return HttpResponse(str(cursor.execute("SELECT * FROM t").fetchall()))
        except DatabaseError:
            return HttpResponse(status=503)

    for connection in connect(path):
        for _ in range(2):
            before = connection.connection
            kill_connections(path)
            assert ask(view).status_code == 503
            close_old_connections()  # as Django does at the end of each request
            assert ask(view).content == b"[(1,)]"
            close_old_connections()
            assert connection.connection is not before
            assert ask(view).content == b"[(1,)]"
    (said,) = [message for message in caplog.messages if "LiteFS was started anew" in message]
    assert "Django closes each" in said


def test_one_that_a_view_does_not_catch(ask: Ask, tmp_path: Path) -> None:
    """Django's own error page stays."""
    path = database(tmp_path)

    def view(request: HttpRequest) -> HttpResponse:
        insert()
        return HttpResponse()

    for _ in connect(path):
        kill_connections(path)
        assert ask(view).status_code == 500
