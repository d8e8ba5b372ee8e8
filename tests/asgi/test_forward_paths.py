"""`Forward` asks the primary for what the client has asked for, byte for byte, whatever a server makes of its root path."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.asgi.wire_path import wire_path
from litefs_watch.replay import as_it_came
from tests.asgi.fakes import Handler, replica, scope_of
from tests.asgi.serving import serve as serve_here
from tests.asgi.test_forward import Primary
from tests.asgi.test_forward_uploads import replica as served

ROOT_PATH = {
    "uvicorn": ("--root-path", "/api"),
    "hypercorn": ("--root-path", "/api"),
    "granian": ("--url-path-prefix", "/api"),
    "daphne": ("--root-path", "/api"),
    "gunicorn": (),
}
TARGETS = ["/a%2Fb//c;d=%C3%A9?y[]=1&z=%zz&{}|^`", "/", "/api/x", "/apix", "/x?", "/~a:@!$&'()*+,=-._%7e?/?:@'"]


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    with serve_here(Primary()) as url:
        yield url


def asked_for(port: int, target: str) -> str:
    """What the primary was asked for."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"POST %s HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % target.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    body = answer.partition(b"\r\n\r\n")[2]
    return str(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["target"]).removesuffix("?")


@pytest.mark.parametrize("server", ROOT_PATH)
def test_through_real_servers(server: str, primary: str) -> None:
    """With a root path, which the primary will put before it itself."""
    with served(server, primary, arguments=ROOT_PATH[server]) as port:
        for target in TARGETS:
            assert asked_for(port, target) == target.removesuffix("?"), target


def test_from_a_mounted_application(primary: str) -> None:
    """Whose root path is no server's: its own application's routes are below it."""
    inner = LiteFSMiddleware(Handler(), replica().watcher, replay=Forward(primary))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # Starlette's mounts get none
        yield
        await inner._responder.aclose()

    with serve_here(Starlette(routes=[Mount("/sub", inner)], lifespan=lifespan)) as url:
        assert asked_for(int(url.rpartition(":")[2]), "/sub/x%20y") == "/sub/x%20y"


class Server:
    """Someone whose ``receive`` is handed on."""

    async def receive(self) -> dict[str, Any]:
        raise AssertionError


def test_the_path_by_server() -> None:
    """uvicorn's root path is taken off, and that of one who may be uvicorn; nobody else's is."""
    uvicorn, other = type("Cycle", (Server,), {"__module__": "uvicorn.protocols"})(), Server()

    async def wrapped() -> dict[str, Any]:
        raise AssertionError

    def path(receive: Any, raw: bytes | None, path: str = "/api/é x", root: str = "/api") -> bytes:
        return wire_path(scope_of(raw_path=raw, root_path=root) | {"path": path}, receive)

    for receive in (uvicorn.receive, wrapped):
        assert path(receive, b"/api/x") == b"/x"
        assert path(receive, b"/api") == b"/"
        assert path(receive, b"/apix") == b"/apix"
        assert path(receive, None) == b"/%C3%A9%20x"
        assert path(receive, b"/api/x", root="") == b"/api/x"
    assert path(other.receive, b"/api/x") == b"/api/x"
    assert path(other.receive, None) == b"/api/%C3%A9%20x"


def test_what_cannot_stand_in_a_request_line() -> None:
    """It is encoded; all else stays."""
    assert as_it_came(b"/a b\xe9\x00\r\n?[]{}|%zz") == b"/a%20b%E9%00%0D%0A?[]{}|%zz"
