"""A write's response that waits until other nodes have it, in threads."""

from __future__ import annotations

import threading
from typing import Any

from werkzeug.test import Client, TestResponse

from litefs_watch import BlockingWatcher
from litefs_watch.wsgi import LiteFSMiddleware
from tests.replicated import PATIENCE, insert, settings, stopped, three, wait_until_connected


def test_a_write_waits_and_no_thread_is_taken_for_long() -> None:
    """As under ASGI; beyond ``max_waiting`` a tenth of the time. A read waits for nobody."""
    with three() as cluster, BlockingWatcher(settings(cluster)) as watcher:
        wait_until_connected(watcher)

        def app(environ: Any, start_response: Any) -> Any:
            if environ["REQUEST_METHOD"] == "POST":
                insert(cluster)
            start_response("200 OK", [("content-type", "text/plain")])
            return [b"done"]

        def post(**options: Any) -> TestResponse:
            options = {"replicated_to": 2, "replication_timeout": PATIENCE} | options
            return Client(LiteFSMiddleware(app, watcher, **options)).post("/")

        response = post()
        assert (response.status_code, response.headers["litefs-replicated"], response.text) == (200, "2", "done")
        with stopped(cluster, "node-b", "node-c"):
            response = post(replication_timeout=0.01)
            assert (response.status_code, response.headers["litefs-replicated"]) == (200, "0")
            refused = post(replication_timeout=0.01, on_unreplicated="error")
            assert (refused.status_code, refused.headers["litefs-replicated"]) == (503, "0")
            assert "stands on this node, and nowhere else yet" in refused.text
            assert "retry-after" not in refused.headers
            assert refused.headers["litefs-txid"] == str(cluster.primary.position())

            waiting = LiteFSMiddleware(app, watcher, replicated_to=1, replication_timeout=60.0, max_waiting=1)
            threads = [threading.Thread(target=Client(waiting).post, args=("/",)) for _ in range(2)]
            for thread in threads:
                thread.start()
            while watcher.statistics().waiters < 2:
                pass
            assert "litefs-replicated" not in Client(waiting).get("/").headers
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert watcher.statistics().waiters == 0
