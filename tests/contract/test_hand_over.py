"""A hand-over of real LiteFS, seen by a client of our middleware: a WebSocket that is closed in time, a write that hops."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from litefs_watch import Watcher
from litefs_watch.asgi import LiteFSMiddleware
from tests.applications.sites import Reply, Visitor
from tests.asgi.serving import serve
from tests.chaos.litefs import LeasedNode
from tests.contract.consul import Consul
from tests.contract.real import reason_against_real, until

pytestmark = [pytest.mark.litefs, pytest.mark.skipif(reason_against_real() is not None, reason=str(reason_against_real()))]
SOON = 20.0
FIRST, SECOND = "node-a", "node-b"
WRITERS = 2
"""At each node."""
HAND_OVERS = 4
"""To each node, at most."""


def site(node: LeasedNode) -> Any:
    """Each POST, and each message to ``/live``, is a row."""

    def write() -> None:
        with closing(sqlite3.connect(node.litefs_dir / "app.db")) as connection, connection:
            connection.execute("INSERT INTO t VALUES (1)")

    def post(request: Request) -> Response:
        write()
        return Response(status_code=201)

    def primary(request: Request) -> Response:
        return Response(node.hostname if watcher.is_primary else watcher.primary or "")

    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await anyio.to_thread.run_sync(write)
            await websocket.send_text("written")

    watcher = Watcher(node.settings())
    app = Starlette(
        routes=[Route("/", post, methods=["POST"]), Route("/primary", primary), WebSocketRoute("/live", live)],
        lifespan=watcher.lifespan,
    )
    return LiteFSMiddleware(app, watcher, primary_paths=["/live"])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, LeasedNode]]:
    """Two that follow each other, the first being the primary; with a table."""
    with ExitStack() as stack:
        consul = stack.enter_context(Consul().running())
        made = {}
        for name in (FIRST, SECOND):
            made[name] = LeasedNode(os.environ["LITEFS_BIN"], tmp_path / name, name, consul)
            stack.callback(made[name].close)
            made[name].start()
            until(lambda name=name: made[name].leads() or name == SECOND, f"{name} has the lease")  # type: ignore[misc]
        with closing(sqlite3.connect(made[FIRST].litefs_dir / "app.db")) as connection, connection:
            connection.execute("CREATE TABLE t (x)")
        until(lambda: has_table(made[SECOND]), "the second has the table")
        yield made


def has_table(node: LeasedNode) -> bool:
    try:
        return node.position().txid > 0
    except OSError:
        return False


def rows(node: LeasedNode) -> int:
    with closing(sqlite3.connect(node.litefs_dir / "app.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])


class Edge(Visitor):
    """Fly's, which counts how often it sends a request on."""

    def post(self, hostname: str) -> tuple[Reply, int]:
        before = self.replays
        return self.ask(hostname, "POST", "/"), self.replays - before

    def leads(self, hostname: str, nodes: Iterable[str]) -> bool:
        """Whether all nodes take that one for the primary."""
        return all(self.ask(name, "GET", "/primary").text == hostname for name in nodes)


def write_at(hostname: str, edge: Edge, over: threading.Event) -> list[tuple[bool, int]]:
    """Write there until it is over. Returns of each write whether it was done, and how often it was sent on. Raises
    `AssertionError` where one failed that may be tried again."""
    answers = []
    while not over.is_set():
        reply, hops = edge.post(hostname)
        assert reply.status == 201 or "litefs-committed" in reply.headers, reply.text
        answers.append((reply.status == 201, hops))
    return answers


@pytest.fixture
def edge(nodes: dict[str, LeasedNode]) -> Iterator[Edge]:
    """In front of both, once both know the first."""
    with ExitStack() as stack:
        addresses = {name: stack.enter_context(serve(site(node))) for name, node in nodes.items()}
        edge = Edge({name: int(address.rpartition(":")[2]) for name, address in addresses.items()})
        until(lambda: edge.leads(FIRST, nodes), "both know the primary")
        yield edge


def test_writes_go_on_through_a_hand_over(nodes: dict[str, LeasedNode], edge: Edge) -> None:
    """At both nodes, while they hand over to each other: none is refused or runs twice, and what comes to the new primary
    before it knows goes to the old one, and back."""
    written, seen, answers = rows(nodes[FIRST]), 0, []
    for new in [SECOND, FIRST] * HAND_OVERS:
        over = threading.Event()
        with ThreadPoolExecutor(2 * WRITERS) as pool:
            writers = [pool.submit(write_at, name, Edge(edge.ports), over) for name in (FIRST, SECOND) * WRITERS]
            nodes[new].promote()
            until(lambda new=new: edge.leads(new, nodes), f"both know {new}")  # type: ignore[misc]
            over.set()
            answers += [answer for writer in writers for answer in writer.result()]
        if (seen := max(hops for _, hops in answers)) > 1:
            break
    assert seen == 2
    until(lambda: nodes[FIRST].position() == nodes[SECOND].position(), "both have the same")
    assert written + sum(done for done, _ in answers) <= rows(nodes[FIRST]) <= written + len(answers)


def test_a_websocket_is_closed_in_a_hand_over(nodes: dict[str, LeasedNode], edge: Edge) -> None:
    """With 1012, where it was let in on the primary; its client is sent on, and what it then writes is written."""
    first, second = (f"ws://127.0.0.1:{edge.ports[name]}/live" for name in (FIRST, SECOND))
    with connect(first) as websocket:
        websocket.send("x")
        assert websocket.recv(SOON) == "written"
        nodes[SECOND].promote()
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(SOON)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    until(lambda: edge.leads(SECOND, nodes), "both know the new one")
    with pytest.raises(InvalidHandshake):  # before it is accepted
        connect(first)
    with connect(second) as again:
        again.send("x")
        assert again.recv(SOON) == "written"
    assert rows(nodes[SECOND]) == 2
