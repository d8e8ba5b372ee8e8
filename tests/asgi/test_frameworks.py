"""Each framework itself, served by uvicorn over a real socket, and a client that keeps its cookies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import pytest

from litefs_watch import Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster
from tests.asgi.apps import FRAMEWORKS, Shop
from tests.asgi.serving import serve


@dataclass
class Site:
    """A primary and a replica that lags; the cookie is allowed over plain HTTP."""

    cluster: SimulatedCluster
    urls: dict[str, str]
    shops: dict[str, Shop]
    client: httpx2.Client

    def ask(self, node: str, method: str, path: str) -> httpx2.Response:
        return self.client.request(method, self.urls[node] + path)


def open_site(stack: ExitStack, make: Callable[[Shop], Any], **options: Any) -> Site:
    cluster = stack.enter_context(SimulatedCluster(size=2, lag=0.02))
    cluster.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    cluster.wait_until_replicated()
    urls, shops = {}, {}
    for node in cluster.nodes:
        watcher = Watcher(node.settings())
        shop = shops[node.hostname] = Shop(watcher, partial(cluster.connect, node.hostname))
        app = LiteFSMiddleware(make(shop), watcher, secure=False, timeout=5, **options)
        urls[node.hostname] = stack.enter_context(serve(app))
    return Site(cluster, urls, shops, stack.enter_context(httpx2.Client(timeout=20)))


@pytest.fixture(params=FRAMEWORKS, scope="module")
def open_sites(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield open_site(stack, FRAMEWORKS[request.param])


@pytest.fixture
def site(open_sites: Site) -> Site:
    """No orders, no cookies, no lag to speak of."""
    open_sites.cluster.lag = 0.02
    open_sites.cluster.execute("DELETE FROM orders")
    open_sites.cluster.wait_until_replicated()
    open_sites.client.cookies.clear()
    return open_sites


def test_a_client_reads_its_own_write_on_a_lagging_replica(site: Site) -> None:
    """The read waits until the write is there, time after time; the cookie stays after it has been met."""
    for number in range(1, 6):
        written = site.ask("node-a", "POST", "/orders")
        assert written.json() == number
        assert written.headers["cache-control"] == "private"
        for _ in range(2):
            read = site.ask("node-b", "GET", "/orders")
            assert read.json() == number
            assert "set-cookie" not in read.headers
    assert site.client.cookies["litefs_pos"] == str(site.cluster.primary.position())


def test_without_its_cookie_a_client_reads_what_is_there(site: Site) -> None:
    """Which shows that the replica lags, and that the cookie is what makes the difference."""
    site.cluster.lag = 60.0
    site.ask("node-a", "POST", "/orders")
    site.client.cookies.clear()
    assert site.ask("node-b", "GET", "/orders").json() == 0


def test_a_write_on_a_replica_is_replayed(site: Site) -> None:
    """409, the header, an empty body; nothing is written."""
    reply = site.ask("node-b", "POST", "/orders")
    assert (reply.status_code, reply.headers["fly-replay"], reply.content) == (409, "instance=node-a", b"")
    assert reply.headers["cache-control"] == "no-store"
    assert site.ask("node-a", "GET", "/orders").json() == 0


def test_a_get_that_writes_says_so(site: Site) -> None:
    """`mark_written` with the framework's own request."""
    assert "litefs_pos" in site.ask("node-a", "GET", "/add").cookies
    assert site.ask("node-b", "GET", "/orders").json() == 1


def test_a_get_that_writes_on_a_replica_is_replayed(site: Site) -> None:
    """SQLite refuses the write, and the framework's error page never leaves the node."""
    reply = site.ask("node-b", "GET", "/sneak")
    assert (reply.status_code, reply.headers.get("fly-replay"), reply.content) == (409, "instance=node-a", b"")
    assert site.ask("node-a", "GET", "/sneak").json() == 1


def test_a_handler_may_ask_for_the_primary(site: Site) -> None:
    """``ensure_primary`` in the handler (in FastAPI, as a dependency) is answered with the replay."""
    assert site.ask("node-a", "GET", "/primary").text.strip().strip('"') == "here"
    reply = site.ask("node-b", "GET", "/primary")
    assert (reply.status_code, reply.headers.get("fly-replay"), reply.content) == (409, "instance=node-a", b"")


def test_a_handler_may_ask_for_an_instance(site: Site) -> None:
    """``ensure_instance``, from the primary too."""
    assert site.ask("node-a", "GET", "/on/node-a").text.strip().strip('"') == "here"
    assert site.ask("node-a", "GET", "/on/node-b").headers.get("fly-replay") == "instance=node-b"
    assert site.ask("node-b", "GET", "/on/node-a").headers.get("fly-replay") == "instance=node-a"
    assert site.ask("node-b", "GET", "/on/node-b").text.strip().strip('"') == "here"


def test_a_stream_is_streamed(site: Site) -> None:
    """The second piece is made when the client has the first: nothing is buffered."""
    site.ask("node-a", "POST", "/orders")
    with site.client.stream("GET", site.urls["node-b"] + "/stream") as reply:
        pieces = reply.iter_raw()
        assert next(pieces) == b"first"
        site.shops["node-b"].first_piece_is_there.set()
        assert b"".join(pieces) == b"second"


def test_a_bug_stays_a_bug(site: Site) -> None:
    """500, from the framework, on the replica too."""
    for node in ("node-a", "node-b"):
        reply = site.ask(node, "GET", "/bug")
        assert (reply.status_code, "fly-replay" in reply.headers) == (500, False)
