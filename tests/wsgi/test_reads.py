"""Reads wait for what their client has seen, before the application runs."""

from __future__ import annotations

import time
from typing import Any

from litefs_watch import BlockingWatcher, Position, Role
from litefs_watch.core.readings import TxEvent
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware, mark_written
from tests.wsgi.test_forward import Reply

SOON = 10.0


def test_what_is_met_for_a_moment_is_waited_for_again() -> None:
    """A look has seen it before its events came: the first of them looks like a database that has gone back."""

    def handler(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return []

    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        before, wait, times = node.commit(), watcher.wait_for_tx, 0
        watcher.wait_for_tx(before, timeout=SOON)
        following = Position(before.txid + 1, before.checksum ^ 1)

        def wait_for_a_moment(*arguments: Any, **options: Any) -> Position:
            nonlocal times
            times += 1
            if times == 1:
                node.commit(checksum=following.checksum)
            found = wait(*arguments, **options)
            if times == 1:
                watcher.run.board.apply(TxEvent(time.monotonic(), "app.db", before))
            return found

        watcher.wait_for_tx = wait_for_a_moment  # type: ignore[method-assign]
        app = LiteFSMiddleware(handler, watcher, timeout=SOON, on_timeout="error")
        assert Reply(app, "GET", "/", HTTP_COOKIE=f"litefs_pos={following}").status == "200 OK"
    assert times == 2


def test_a_read_that_is_met_and_writes_knows_where_the_database_was() -> None:
    """A GET that writes, as sessions do: where the database goes back meanwhile, what it has written may be lost."""

    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        seen = [node.commit() for _ in range(3)]
        watcher.wait_for_tx(seen[-1], timeout=SOON)

        def handler(environ: Any, start_response: Any) -> Any:
            mark_written(environ)
            node.record("app.db", seen[0], notify=False)
            start_response("200 OK", [])
            return []

        reply = Reply(LiteFSMiddleware(handler, watcher), "GET", "/", HTTP_COOKIE=f"litefs_pos={seen[-1]}")
        assert reply.status[:3] == "500"
        assert b"may be lost" in reply.read()
