"""What honest requests cost while a client lies: about what it has seen, and about where it comes from.

A replica behind gunicorn (eight threads) and behind uvicorn, each in a process of its own; its application takes some
milliseconds for a request, as one does that reads a database. Ten connections of a liar beside as many honest clients as
there are threads: each thread that a liar gets is one less. Each way of lying in turn with none, and with ten connections
that ask for nothing special: that is what ten more clients cost, whatever they say.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from benchmarks.table import show
from litefs_watch.testing import SimulatedNode

THREADS = 8
LIARS = 10
SECONDS = 0.5
ROUNDS = 7
WORK = 0.01
"""Seconds that the application takes."""
PAUSE = 0.1
"""Seconds between an answer and a liar's next request: it is somewhere in the world."""
BEYOND = "0000000000000100/8f1c0d2e3b4a5968"
"""A position that this replica does not get."""

WAYS: Mapping[str, tuple[str, Mapping[str, str]] | None] = {
    "nobody": None,
    "ten that ask for nothing special": ("GET", {}),
    "ten that have seen the future": ("GET", {"cookie": f"litefs_pos={BEYOND}"}),
    "ten that make up how they came": (
        "POST",
        {"fly-replay-src": "instance=node-b;state=litefs.1.0", "content-length": "0"},
    ),
}
SERVERS = {
    "gunicorn": ["-k", "gthread", "-w", "1", "--threads", str(THREADS), "-b", "fd://{fd}", "benchmarks.attacked:wsgi"],
    "uvicorn": ["--log-level", "critical", "--port", "{port}", "benchmarks.attacked:asgi"],
}


@contextmanager
def served(server: str, node: SimulatedNode, secret: str) -> Iterator[int]:
    """On a port that takes connections from the start."""
    environment = {
        "LITEFS_DIR": str(node.litefs_dir),
        "DATABASE_FILENAME": "app.db",
        "LITEFS_API_URL": str(node.api_url),
        "FLY_MACHINE_ID": node.hostname,
        "SECRET": secret,
        "WORK": str(WORK),
    }
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port, inherits = listener.getsockname()[1], server == "gunicorn"
        words = [word.format(fd=listener.fileno(), port=port) for word in SERVERS[server]]
        if not inherits:
            listener.close()
        process = subprocess.Popen(
            [sys.executable, "-m", server, *words],
            pass_fds=[listener.fileno()] if inherits else [],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 30):
            return
        time.sleep(0.05)
    raise TimeoutError("the server did not start")


class Client(threading.Thread):
    """Asks again and again until it is told to end."""

    def __init__(self, port: int, method: str, headers: Mapping[str, str], pause: float, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._ask = (port, method, headers)
        self._pause = pause
        self._over = over
        self.seconds: list[float] = []
        self.start()

    def run(self) -> None:
        port, method, headers = self._ask
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not self._over.is_set():
            began = time.perf_counter()
            with suppress(http.client.HTTPException, OSError):
                connection.request(method, "/", headers=dict(headers))
                connection.getresponse().read()
                self.seconds.append(time.perf_counter() - began)
            if self._pause:
                self._over.wait(self._pause)
        connection.close()


def measure(port: int, lie: tuple[str, Mapping[str, str]] | None) -> float:
    """The median of the honest clients' times, in seconds."""
    over = threading.Event()
    liars = [Client(port, *lie, PAUSE, over) for _ in range(LIARS)] if lie is not None else []
    clients = [Client(port, "GET", {}, 0.0, over) for _ in range(THREADS)]
    time.sleep(SECONDS)
    over.set()
    for client in (*clients, *liars):
        client.join()
    return statistics.median(each for client in clients for each in client.seconds)


def compare(server: str, secret: str) -> list[list[str]]:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    with SimulatedNode(primary="node-b") as node, served(server, node, secret) as port:
        measure(port, None)  # warms up
        for number in range(ROUNDS):
            turn = list(WAYS.items())
            random.Random(number).shuffle(turn)
            for name, lie in turn:
                times[name].append(measure(port, lie))
    alone = times["nobody"]
    rows = []
    for name, each in times.items():
        ratio = statistics.median(one / usual for one, usual in zip(each, alone, strict=True))
        rows.append([f"{server}: {name}", f"{statistics.median(each) * 1e3:.1f} ms", f"{ratio:.2f}"])
    return rows


def main() -> None:
    for secret in ("", "of no consequence"):
        rows = [row for server in SERVERS for row in compare(server, secret)]
        with_secret = "with" if secret else "without"
        title = f"Requests of {THREADS} honest clients, {with_secret} a secret (median of {ROUNDS} rounds, in turn)"
        show(title, ["", "median", "of usual"], rows)


if __name__ == "__main__":
    main()
