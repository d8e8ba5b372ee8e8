"""``primary_paths`` and ``passthrough_paths`` mean the same on every server, and behind every prefix."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from litefs_watch.consistency.options import route_of
from litefs_watch.testing import SimulatedNode
from tests.servers import serve

SERVERS = {
    "uvicorn": ("--root-path", "/api"),
    "hypercorn": ("--root-path", "/api"),
    "granian": ("--url-path-prefix", "/api"),
    "daphne": ("--root-path", "/api"),
}
PLACES = [
    *((server, (), "mounted") for server in SERVERS),
    *((server, options, "starlette") for server, options in SERVERS.items()),
    ("uvicorn", (), "fastapi"),
    ("uvicorn", SERVERS["uvicorn"], "mounted"),
    ("hypercorn", SERVERS["hypercorn"], "plain"),
    ("gunicorn", (), "wsgi"),
    ("gunicorn", ("-e", "SCRIPT_NAME=/api"), "wsgi"),
]


@contextmanager
def running(server: str, options: tuple[str, ...], app: str) -> Iterator[int]:
    with ExitStack() as stack:
        env = {"PATHS_APP": app}
        if server == "gunicorn":
            node = stack.enter_context(SimulatedNode(hostname="node-b", primary="node-a"))
            env |= {"LITEFS_DIR": str(node.litefs_dir), "LITEFS_API_URL": node.api_url or "none"}
            env |= {"FLY_MACHINE_ID": "node-b", "DATABASE_FILENAME": "app.db"}
        yield stack.enter_context(serve(server, "tests.paths_app:app", *options, **env))


@pytest.mark.parametrize(("server", "options", "app"), PLACES)
def test_the_same_everywhere(server: str, options: tuple[str, ...], app: str) -> None:
    """No spelling gets a GET of ``/admin/*`` to run here, and ``/healthz`` is left alone, a POST, too; no other path is."""
    prefix = "/sub" if app == "mounted" else "/api" if "SCRIPT_NAME=/api" in options else ""
    with running(server, options, app) as port:
        for path in ("/admin/x", "/%61dmin/x", "/admin%2Fx", "//admin/x", "/admin//x/", "/admin/", "/admin/%C3%A9%00"):
            assert (path, ask(port, "GET", prefix + path)) == (path, 409)
        for path in ("/healthz", "/healthz/", "/%68ealthz"):
            assert (path, ask(port, "POST", prefix + path)) == (path, 200)
        for path in ("/admi", "/adminx/", "/x/admin/x", "/admin"):
            assert (path, ask(port, "GET", prefix + path)) == (path, 200)
        for path in ("/healthz/x", "/x/healthz", "/admin/healthz", "/Healthz"):
            assert (path, ask(port, "POST", prefix + path)) == (path, 409)


def ask(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "root", "route"),
    [
        ("/api/x", "/api", "/x"),
        ("/api/x", "/api/", "/x"),
        ("/api", "/api", "/"),
        ("/apix", "/api", "/apix"),
        ("/x", "/api", "/x"),
        ("/api/api/x", "/api", "/api/x"),
        ("/x", "", "/x"),
        ("/x", "/", "/x"),
    ],
)
def test_the_path_that_is_routed_by(path: Any, root: str, route: str) -> None:
    """Without the root path, where it has it."""
    assert route_of(path, root) == route
