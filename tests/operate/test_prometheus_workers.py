"""Metrics of one server whose workers are processes: gunicorn, with the configuration that docs/operate/metrics.md has."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from litefs_watch import Position
from litefs_watch.testing import SimulatedNode
from tests.contract.real import until
from tests.docs.pages import blocks
from tests.environment import environment_of
from tests.servers import serve

(CONFIGURATION,) = (code for code in blocks("operate/metrics.md") if code.startswith("# gunicorn.conf.py"))
MOST = 5000
"""Requests after which both workers have had some, or one of two has all: that may start late."""
AHEAD = Position(1000, 1)


class Server:
    def __init__(self, port: int, seen: Path) -> None:
        self._port = port
        self._seen = seen

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """Which worker has answered, and what."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method=method)
        try:
            response = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return int(response.headers["worker"]), response.read().decode()

    def scrape(self) -> tuple[int, dict[str, float]]:
        """Which worker has answered, and the samples."""
        worker, text = self.ask("GET", "/metrics")
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return worker, {name: float(value) for name, value in lines}

    def wait(self, number: int, stack: ExitStack) -> int:
        """A request that waits. Which worker has it."""
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
        connection.sendall(f"GET /?{number} HTTP/1.1\r\nhost: x\r\ncookie: litefs_pos={AHEAD}\r\n\r\n".encode())
        seen = self._seen / str(number)
        until(lambda: seen.exists() and bool(seen.read_text()), "a worker has the request")
        return int(seen.read_text())


def of_both(ask: Callable[[int], int]) -> list[int]:
    """Ask until both workers have been: who it was, each time."""
    asked = list[int]()
    while len(set(asked)) < 2:
        assert len(asked) < MOST
        asked.append(ask(len(asked)))
    return asked


def test_two_workers_are_one_server(tmp_path: Path) -> None:
    """What they did is told right after they did it, by whichever is asked. Who waits at a worker that is killed does not
    wait any more; what it has done stays counted."""
    counted, configuration = tmp_path / "counted", tmp_path / "gunicorn.conf.py"
    counted.mkdir()
    configuration.write_text(CONFIGURATION)
    with ExitStack() as stack:
        node = stack.enter_context(SimulatedNode(hostname="node-b", primary="node-a", fuse=False))
        environment = environment_of(node) | {"PROMETHEUS_MULTIPROC_DIR": str(counted), "SEEN": str(tmp_path)}
        options = ["--workers", "2", "--threads", "64", "--preload", "--config", str(configuration)]
        port = stack.enter_context(serve("gunicorn", "tests.operate.metered_app:app", *options, **environment))
        server = Server(port, tmp_path)
        writes = of_both(lambda _: server.ask("POST", "/")[0])

        def told(_: int) -> int:
            worker, samples = server.scrape()
            assert samples['litefs_watch_replays_total{reason="write"}'] == len(writes)
            assert samples['litefs_watch_role{role="replica"}'] == 1
            return worker

        of_both(told)
        waiting = of_both(lambda number: server.wait(number, stack))

        def waiters() -> float:
            try:
                return server.scrape()[1]['litefs_watch_waiters{kind="wait"}']
            except OSError:  # it went to the one that was being killed
                return -1.0

        until(lambda: waiters() == len(waiting), "all are told to wait")
        os.kill(waiting[0], signal.SIGKILL)
        left = len(waiting) - waiting.count(waiting[0])
        until(lambda: waiters() == left, "those of the other worker are told to wait")
        node.commit(txid=AHEAD.txid, checksum=AHEAD.checksum)
        until(lambda: waiters() == 0, "none is")
        samples = server.scrape()[1]
        assert samples['litefs_watch_wait_seconds_count{outcome="met"}'] == left
        assert samples['litefs_watch_replays_total{reason="write"}'] == len(writes)
