"""What the WSGI middleware adds to a request: in process as in `benchmarks.http`, and through gunicorn, in processor time.

In process the least of many rounds counts, in turn: what else the machine does only adds. Through gunicorn (four threads)
each round has a baseline of its own, and what is counted is the processor time of gunicorn's worker, in all its threads.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.http import AT, HEADERS, MET, Server, replica
from benchmarks.table import show
from litefs_watch import BlockingWatcher
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware

CALLS = 50
ROUNDS = 1001
SERVED_ROUNDS = 41
THREADS = 4


def bare(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", "5")])
    return [b"hello"]


class Floor:
    """What no middleware that looks for a cookie and sees the response start can do without."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        cookie = environ.get("HTTP_COOKIE", "")
        found = cookie if "litefs_pos" in cookie else environ.get("HTTP_LITEFS_TXID")

        def start_looked_at(status: str, headers: Any, exc_info: Any = None) -> Any:
            if status.startswith("5"):
                raise RuntimeError(f"not the answer that was expected, to {found!r}")
            return start_response(status, headers)

        body: Iterable[bytes] = self.app(environ, start_looked_at)
        return body


def environ_of(headers: list[tuple[bytes, bytes]], method: str = "GET") -> dict[str, Any]:
    """As large as gunicorn's."""
    environ: dict[str, Any] = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": "gunicorn",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "REQUEST_METHOD": method,
        "RAW_URI": "/",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
    }
    return environ | {"HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in headers}


def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
    pass


def microseconds(app: Any, environ: dict[str, Any]) -> float:
    """For one call, on average over some."""
    began = time.perf_counter()
    for _ in range(CALLS):
        app(dict(environ), start_response)
    return (time.perf_counter() - began) / CALLS * 1e6


def in_process() -> None:
    with replica() as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_tx(AT, timeout=10.0)
        ours: Any = LiteFSMiddleware(bare, watcher)
        ways = {
            "bare application": (bare, environ_of(HEADERS)),
            "the floor: looks at headers and status": (Floor(bare), environ_of(HEADERS)),
            "LiteFSMiddleware, without our cookie": (ours, environ_of(HEADERS)),
            "LiteFSMiddleware, with one that is met": (ours, environ_of(MET)),
            "LiteFSMiddleware, a write on a replica": (ours, environ_of(HEADERS, "POST")),
        }
        least = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for name, (app, environ) in ways.items():
                least[name] = min(least[name], microseconds(app, environ))
    floor = least["bare application"]
    rows = [[name, f"{took:.2f} us", f"{took - floor:+.2f} us"] for name, took in least.items()]
    show(f"One request under WSGI, in process (least of {ROUNDS} rounds, in turn)", ["", "least", "over bare"], rows)


def served_app() -> Any:
    """In gunicorn's worker: what the environment says."""
    watcher = BlockingWatcher()
    watcher.start()  # beside the bare application, too: what it takes is in both
    return {"bare": bare, "floor": Floor(bare), "ours": LiteFSMiddleware(bare, watcher)}[os.environ["WAY"]]


class Gunicorn(Server):
    """The same, behind gunicorn with one worker."""

    def __init__(self, way: str, node: SimulatedNode) -> None:
        environment = {
            "WAY": way,
            "LITEFS_DIR": str(node.litefs_dir),
            "DATABASE_FILENAME": "app.db",
            "LITEFS_API_URL": str(node.api_url),
            "FLY_MACHINE_ID": node.hostname,
        }
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self.address = listener.getsockname()
            words = ["-k", "gthread", "--threads", str(THREADS), "--keep-alive", "600", "-b", f"fd://{listener.fileno()}"]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *words, "benchmarks.under_wsgi:served_app()"],
                pass_fds=[listener.fileno()],
                env=os.environ | environment,
                stderr=subprocess.DEVNULL,
            )
        connection = http.client.HTTPConnection("127.0.0.1", self.address[1], timeout=30)
        connection.request("GET", "/")
        connection.getresponse().read()  # its worker is there
        connection.close()

    def processor_time(self) -> int:
        """Nanoseconds that its worker has run, in all its threads."""
        master = self._process.pid
        (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{worker}/task").glob("*/schedstat"))


@contextmanager
def servers() -> Iterator[dict[str, Gunicorn]]:
    with replica() as node:
        started = {way: Gunicorn(way, node) for way in ("bare", "floor", "ours")}
        try:
            yield started
        finally:
            for server in started.values():
                server.stop()


async def served() -> None:
    ways = {
        "bare application": ("bare", HEADERS),
        "the floor": ("floor", HEADERS),
        "LiteFSMiddleware, without our cookie": ("ours", HEADERS),
        "LiteFSMiddleware, with one that is met": ("ours", MET),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    with servers() as started:
        for server in started.values():
            await server.connect(THREADS)
            await server.requests(HEADERS)  # warms up
        for number in range(SERVED_ROUNDS):
            turn = list(ways.items())
            random.Random(number).shuffle(turn)
            for name, (way, headers) in turn:
                before, began = started[way].processor_time(), time.perf_counter()
                requests = await started[way].requests(headers) * (time.perf_counter() - began)
                took[name].append((started[way].processor_time() - before) / requests / 1e3)
    baseline = took["bare application"]
    rows = []
    for name, each in took.items():
        ratio = statistics.median(one / bare_one - 1 for one, bare_one in zip(each, baseline, strict=True))
        rows.append([name, f"{statistics.median(each):.1f} us", f"{ratio:+.1%}"])
    title = f"Through gunicorn, {THREADS} connections (median of {SERVED_ROUNDS} rounds, in turn)"
    show(title, ["", "processor time a request", "of bare"], rows)


def main() -> None:
    in_process()
    asyncio.run(served())


if __name__ == "__main__":
    main()
