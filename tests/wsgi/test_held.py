"""A write that is held while no primary is known, and whose client leaves: it is not run when there is one."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from litefs_watch import BlockingWatcher, Role
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware
from tests.wsgi.test_forward import Reply

SOON = 10.0


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_a_held_write_whose_client_has_left_is_not_run(leaves: bool, key: str) -> None:
    """Whatever it has sent before; one whose client waits is run."""
    runs: list[str] = []
    waits = threading.Event()

    def handler(environ: Any, start_response: Any) -> Any:
        runs.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [])
        return []

    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        node.lose_primary()
        watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
        app = LiteFSMiddleware(handler, watcher, hold_writes=SOON)
        wait = watcher.wait_for_primary

        def wait_for_primary(**options: Any) -> Any:
            waits.set()
            return wait(**options)

        watcher.wait_for_primary = wait_for_primary  # type: ignore[method-assign]
        client, server = socket.socketpair()
        with client, server:
            client.sendall(b"a body that nobody has read")
            thread = threading.Thread(target=lambda: Reply(app, "POST", "/", **{key: server}).read())
            thread.start()
            assert waits.wait(SOON)
            if leaves:
                client.close()
            node.become_primary()
            thread.join(SOON)
    assert runs == ([] if leaves else ["POST"])
