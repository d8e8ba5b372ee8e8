"""POSTs that only read: they wait and run here as a GET does."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from litefs_watch import Position, Role
from litefs_watch.asgi import LiteFSMiddleware, mark_written
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, raises, replica, unknown


async def ask(watcher: FakeWatcher, path: str, token: object = None, handler: Handler | None = None) -> Reply:
    options: dict[str, Any] = {"primary_paths": ["/graphql/admin"], "read_paths": ["/search", "/graphql*"]}
    headers = [("cookie", f"litefs_pos={token}")] if token is not None else []
    return await call(LiteFSMiddleware(handler or Handler(), watcher.watcher, **options), "POST", path, headers)


@pytest.mark.parametrize("path", ["/search", "/graphql"])
@pytest.mark.parametrize("watcher", [replica, unknown])
async def test_it_runs_on_every_node(path: str, watcher: Any) -> None:
    """Also while no primary is known; without a token it waits for nothing, and is pinned to nothing."""
    asked = watcher()
    reply = await ask(asked, path)
    assert (reply.status, reply.cookie, asked.waits) == (200, None, [])


async def test_it_waits_for_what_its_client_has_seen() -> None:
    """And goes to the primary where that does not come."""
    watcher = replica()
    reply = await ask(watcher, "/search", Position(12, 1))
    assert (reply.status, watcher.waits) == (409, [("tx", Position(12, 1), 0.5)])

    def arrive() -> None:
        watcher.known = Position(12, 1)

    watcher.during = arrive
    assert (await ask(watcher, "/search", Position(12, 1))).status == 200


async def test_on_the_primary_it_moves_no_token() -> None:
    """Others write meanwhile; but one that says that it has written has."""
    watcher = FakeWatcher(Role.PRIMARY)
    assert (await ask(watcher, "/search", handler=Handler(lambda _: watcher.commit()))).cookie is None
    assert (await ask(watcher, "/search", handler=Handler(mark_written))).cookie is not None


async def test_one_that_writes_after_all_is_replayed() -> None:
    """SQLite refuses it."""
    refused = sqlite3.OperationalError("attempt to write a readonly database")
    assert (await ask(replica(), "/search", handler=Handler(raises(refused)))).status == 409


@pytest.mark.parametrize("path", ["/orders", "/graphql/admin"])
async def test_all_others_go_to_the_primary(path: str) -> None:
    """And so does what is one of ``primary_paths`` as well."""
    handler = Handler()
    assert ((await ask(replica(), path, handler=handler)).status, handler.runs) == (409, 0)
