"""The Django project, served on each node of a simulated cluster by real servers, in processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litefs_watch import Position
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.contract.real import RealNode, RealPair

Node = SimulatedNode | RealNode

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "project"
GUNICORN = ["gunicorn", "-k", "gthread", "-w", "1", "--threads", "4", "--keep-alive", "60"]
SERVERS = {
    "gunicorn": [*GUNICORN, "shop.wsgi", "-b"],
    "gunicorn, wrapped": [*GUNICORN, "shop.wrapped", "-b"],
    "uvicorn": ["uvicorn", "--timeout-keep-alive", "60", "shop.asgi:application", "--fd"],
}


def environment(node: Node, publish_port: int | None = None, **settings: Any) -> dict[str, str]:
    """The environment of the project on a node; ``settings`` override those of `shop.settings`."""
    found = os.environ | {
        "LITEFS_DIR": str(node.litefs_dir),
        "LITEFS_API_URL": node.api_url or "none",
        "FLY_MACHINE_ID": node.hostname,
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONPATH": os.pathsep.join((str(PROJECT), str(ROOT))),
        "TEST_SETTINGS": json.dumps(settings),
    }
    found.pop("DATABASE_FILENAME", None)  # it is known from DATABASES
    return found | ({"TEST_PUBLISH_PORT": str(publish_port)} if publish_port else {})


def manage(node: Node, *words: str, cwd: Path = PROJECT, **settings: Any) -> subprocess.CompletedProcess[str]:
    """``manage.py`` with these words, on a node."""
    command = [sys.executable, str(PROJECT / "manage.py"), *words]
    env = environment(node, **settings) | {"PYTHONWARNINGS": "error"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


@contextmanager
def publisher(cluster: SimulatedCluster) -> Iterator[int]:
    """A port on which other processes have the cluster see their commits: they send a byte, and get one back when it has."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(1):
                cluster.sync()
                self.request.sendall(b"!")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@contextmanager
def serve(server: str, env: Mapping[str, str]) -> Iterator[int]:
    """One server, on a port that takes connections from the start. It must end cleanly, and without a traceback."""
    with socket.socket() as sock, tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as home:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        bind = f"fd://{sock.fileno()}" if server.startswith("gunicorn") else str(sock.fileno())
        command = [sys.executable, "-m", *SERVERS[server], bind]
        process = subprocess.Popen(
            command, cwd=PROJECT, env={**env, "HOME": home}, pass_fds=[sock.fileno()], stdout=log, stderr=subprocess.STDOUT
        )
        failed = True
        try:
            yield sock.getsockname()[1]
            failed = False
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            log.seek(0)
            said = log.read()
            if failed:
                sys.stderr.write(said)
    assert "Traceback" not in said.replace("KeyError: 'a bug", ""), said


@dataclass
class Reply:
    """What a client got."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.headers.items()} {self.body[:500]!r}"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """One client: it keeps cookies and connections, and is sent on as by Fly.io's edge. Not for several threads."""

    ports: Mapping[str, int]
    cookies: dict[str, str] = field(default_factory=dict)
    replays: int = 0
    _connections: dict[str, http.client.HTTPConnection] = field(default_factory=dict)

    def ask(self, hostname: str, method: str, path: str, *, follow: bool = True, **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if hostname not in self._connections:
            self._connections[hostname] = http.client.HTTPConnection("127.0.0.1", self.ports[hostname], timeout=60)
        connection = self._connections[hostname]
        connection.request(method, path, headers=sent)
        response = connection.getresponse()
        reply = Reply(response.status, response.headers, response.read())
        for header in reply.headers.get_all("set-cookie", []):
            if (match := re.match("([^=;]+)=([^;]*)", header)) is not None:
                self.cookies[match[1]] = match[2]
        to, state, given = reply.headers.get("fly-replay", "").removeprefix("instance=").partition(";state=")
        if follow and to:
            self.replays += 1
            source = f"instance={hostname};region=ams;t=1{state}{given}"
            return self.ask(to, method, path, follow=False, fly_replay_src=source)
        return reply

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


@dataclass
class Site:
    """The project on some nodes: their ports by hostname, and the replicas' hostnames."""

    ports: Mapping[str, int]
    replicas: list[str]
    position: Callable[[], Position]
    """The primary's."""

    @contextmanager
    def browser(self) -> Iterator[Browser]:
        browser = Browser(self.ports)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def simulated_site(server: str, *, lag: float, **settings: Any) -> Iterator[Site]:
    """Three simulated nodes, whose replicas lag by ``lag`` seconds."""
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(size=3, lag=0.001))
        migrate(cluster.primary)
        cluster.wait_until_replicated()
        cluster.lag = lag
        port = stack.enter_context(publisher(cluster))
        ports = {
            node.hostname: stack.enter_context(serve(server, environment(node, port, **settings))) for node in cluster.nodes
        }
        yield Site(ports, [node.hostname for node in cluster.replicas], cluster.primary.position)


@contextmanager
def real_site(server: str, directory: Path) -> Iterator[Site]:
    """Two real nodes, of the binary that ``LITEFS_BIN`` names."""
    with ExitStack() as stack:
        pair = stack.enter_context(RealPair(directory))
        migrate(pair.primary)
        nodes = (pair.primary, pair.replica)
        ports = {node.hostname: stack.enter_context(serve(server, environment(node))) for node in nodes}
        yield Site(ports, [pair.replica.hostname], pair.primary.position)


def migrate(node: Node) -> None:
    done = manage(node, "migrate", "--verbosity", "0")
    assert done.returncode == 0, done.stderr
