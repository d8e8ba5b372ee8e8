"""A node that ceases to be the primary while a view runs; and what Django logs and mails of a write that is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.handlers.exception import convert_exception_to_response
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings

from litefs_watch import Role
from litefs_watch.django import LiteFSMiddleware, get_watcher
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure

configure()
SOON = 10.0
View = Callable[[HttpRequest], HttpResponse]
Ask = Callable[[View, str], HttpResponse]


class NoAddresses:
    """A ``ROOT_URLCONF``."""

    urlpatterns: ClassVar[list[object]] = []


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(hostname="node-b") as node:
        options = {"litefs_dir": node.litefs_dir, "api_url": node.api_url, "hostname": "node-b", "database": "app.db"}
        with override_settings(LITEFS_WATCH=options | {"hold_writes": 0.5}):
            get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
            get_watcher().wait_for_tx(node.position(), timeout=SOON)
            yield node


class Errors(logging.Handler):
    """What is logged as an error, and so mailed to ADMINS: as Django's `AdminEmailHandler`, which needs whole settings."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def __len__(self) -> int:
        return len(self.records)

    def emit(self, record: logging.LogRecord) -> None:
        assert record.exc_info
        self.records.append(record)


@pytest.fixture
def mailed() -> Iterator[Errors]:
    logger, handler = logging.getLogger("django"), Errors()
    logger.addHandler(handler)
    with override_settings(ROOT_URLCONF=NoAddresses):
        yield handler
    logger.removeHandler(handler)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Through our middleware, and another one that raises, as Django loads them."""

    def sync(view: View, method: str) -> HttpResponse:
        return LiteFSMiddleware(convert_exception_to_response(view))(RequestFactory().generic(method, "/"))

    def asynchronous(view: View, method: str) -> HttpResponse:
        inner = sync_to_async(convert_exception_to_response(view))
        if not iscoroutinefunction(inner):
            markcoroutinefunction(inner)
        made = AsyncRequestFactory().generic(method, "/")
        made.scope["headers"].remove((b"cookie", b""))  # of the factory
        return async_to_sync(LiteFSMiddleware(inner))(made)

    return sync if request.param == "sync" else asynchronous


def demoted(node: SimulatedNode, *, committed: bool, notify: bool = True) -> View:
    """Commits, or does not; then the node is demoted, and a write is refused."""

    def view(request: HttpRequest) -> HttpResponse:
        if committed:
            node.commit()
        node.set_primary("node-a", notify=notify)
        raise OperationalError("attempt to write a readonly database")

    return view


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_has_committed_is_not_sent_on(ask: Ask, node: SimulatedNode, mailed: Errors, method: str) -> None:
    """The error stays, is logged and mailed as ever, once, and the client is told and pinned."""
    response = ask(demoted(node, committed=True), method)
    assert response.status_code == 500
    assert response.headers["litefs-committed"] == f"{node.position().txid:016x}"
    assert response.cookies["litefs_pos"].value == "pin"
    assert "fly-replay" not in response.headers
    assert len(mailed) == 1


@pytest.mark.parametrize("notify", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_has_not_is_replayed(
    ask: Ask, node: SimulatedNode, mailed: Errors, caplog: pytest.LogCaptureFixture, method: str, notify: bool
) -> None:
    """And no error for anybody: neither logged nor mailed."""
    response = ask(demoted(node, committed=False, notify=notify), method)
    assert response.status_code == 409
    assert response.headers["fly-replay"].startswith("instance=node-a")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert len(mailed) == 0


def test_on_a_replica_nothing_is_logged(
    ask: Ask, node: SimulatedNode, mailed: Errors, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware that writes with a GET: a new session, an audit log."""
    node.set_primary("node-a")
    get_watcher().wait_for_role(Role.REPLICA, timeout=SOON)
    assert ask(demoted(node, committed=False), "GET").status_code == 409
    assert ([record for record in caplog.records if record.levelno >= logging.ERROR], len(mailed)) == ([], 0)


def test_on_a_primary_that_is_one_it_stays_an_error(ask: Ask, node: SimulatedNode, mailed: Errors) -> None:
    """Logged and mailed once, and so is a bug, wherever it is."""

    def full(request: HttpRequest) -> HttpResponse:
        node.commit()
        raise OperationalError("attempt to write a readonly database")

    def broken(request: HttpRequest) -> HttpResponse:
        raise KeyError("bug")

    response = ask(full, "POST")
    assert (response.status_code, response.headers["litefs-txid"], len(mailed)) == (500, str(node.position()), 1)
    assert "litefs-committed" not in response.headers
    assert (ask(broken, "GET").status_code, len(mailed)) == (500, 2)


@pytest.mark.parametrize("is_primary", [True, False])
def test_a_view_s_error(node: SimulatedNode, mailed: Errors, is_primary: bool) -> None:
    """Django asks us first: on the primary it is Django's, and withheld until it is known what becomes of it."""
    if not is_primary:
        node.set_primary("node-a")
        get_watcher().wait_for_role(Role.REPLICA, timeout=SOON)
    error = OperationalError("attempt to write a readonly database")

    def view(request: HttpRequest) -> HttpResponse:
        answered = middleware.process_exception(request, error)
        assert (answered is None) is is_primary
        if answered is None:
            raise error
        return answered

    middleware: Any = LiteFSMiddleware(convert_exception_to_response(view))
    response = middleware(RequestFactory().get("/"))
    assert (response.status_code, len(mailed)) == ((500, 1) if is_primary else (409, 0))


def test_a_node_that_takes_over_in_between(node: SimulatedNode, mailed: Errors) -> None:
    """A page was withheld for the replay, and then there is nowhere to send it: it is an error after all."""
    node.set_primary("node-a")
    get_watcher().wait_for_role(Role.REPLICA, timeout=SOON)

    def view(request: HttpRequest) -> HttpResponse:
        answered: HttpResponse = middleware.process_exception(
            request, OperationalError("attempt to write a readonly database")
        )
        node.become_primary()
        get_watcher().wait_for_role(Role.PRIMARY, timeout=SOON)
        return answered

    middleware: Any = LiteFSMiddleware(view)
    response = middleware(RequestFactory().get("/"))
    assert (response.status_code, len(mailed)) == (500, 1)
    assert b"Server Error" in response.content
