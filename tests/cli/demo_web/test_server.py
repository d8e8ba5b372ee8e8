"""The demo's page, without a browser: its nodes do what real ones do, and what nobody should send does nothing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import httpx2
import pytest

from litefs_watch.cli.demo_web import nodes as nodes_module
from litefs_watch.cli.demo_web import server
from litefs_watch.cli.demo_web.edge import Edge
from litefs_watch.cli.demo_web.feed import BEHIND, SUBSCRIBERS, Feed
from litefs_watch.cli.demo_web.nodes import ACTIONS, Nodes
from litefs_watch.cli.demo_web.server import LARGEST, application, listen, serve
from litefs_watch.testing import SimulatedCluster

SOON = 20.0


class Page:
    """A browser, as far as the nodes can see one: it keeps its cookie."""

    def __init__(self, nodes: Nodes, client: httpx2.AsyncClient) -> None:
        self.nodes = nodes
        self.client = client

    async def write(self, lane: str, hostname: str, text: str = "milk") -> httpx2.Response:
        return await self.client.post(f"/{lane}/{hostname}/notes", json={"text": text})

    async def read(self, lane: str, hostname: str) -> httpx2.Response:
        return await self.client.get(f"/{lane}/{hostname}/notes")

    async def do(self, action: str, **wanted: object) -> httpx2.Response:
        return await self.client.post(f"/do/{action}", json=wanted)

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(SOON):
            async with aclosing(self.nodes.feed.subscribe()) as feed:  # type: ignore[type-var]
                while not condition():
                    await anext(feed)

    async def until_said(self, text: str) -> None:
        with anyio.fail_after(SOON):
            async with aclosing(self.nodes.feed.subscribe()) as feed:  # type: ignore[type-var]
                while text not in await anext(feed):
                    pass

    def node(self, hostname: str) -> dict[str, Any]:
        state: Any = self.nodes.state()
        return next(node for node in state["nodes"] if node["hostname"] == hostname)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def page(nodes: Nodes) -> AsyncIterator[Page]:
    app = application(nodes)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Page(nodes, client)


def texts(response: httpx2.Response) -> list[str]:
    return [note["text"] for note in response.json()["notes"]]


async def test_with_it_a_note_is_read_and_without_it_is_not(page: Page) -> None:
    """Written at a replica, which sends it on; read there at once."""
    await page.do("lag", node="iad", seconds=5)
    wrote = await page.write("with", "iad")
    assert (wrote.status_code, wrote.headers["demo-trail"]) == (201, "iad ams")
    assert texts(await page.read("without", "iad")) == []
    await page.do("lag", node="iad", seconds=0)
    waited = await page.read("with", "iad")
    assert texts(waited) == ["milk"]
    assert waited.headers["demo-trail"] == "iad"
    assert (await page.write("without", "iad")).status_code == 500  # 'attempt to write a readonly database'


async def test_a_read_that_waited_in_vain_is_answered_by_the_primary(page: Page) -> None:
    """After half a second, where the lag is longer."""
    await page.do("lag", node="syd", seconds=5)
    await page.write("with", "ams")
    read = await page.read("with", "syd")
    assert (texts(read), read.headers["demo-trail"]) == (["milk"], "syd ams")


async def test_a_write_that_dies_with_its_primary_is_told(page: Page) -> None:
    """Another node takes the lease by itself; what was not sent yet is lost, and litefs_watch says so."""
    for hostname in ("iad", "syd"):
        await page.do("lag", node=hostname, seconds=5)
    wrote = await page.write("with", "ams")
    await page.do("kill", node="ams")
    assert (await page.read("with", "ams")).status_code == 502
    await page.until(lambda: page.node("iad")["role"] == "primary")
    read = await page.read("with", "iad")
    assert texts(read) == []
    assert read.headers["litefs-lost"] == wrote.headers["litefs-txid"].partition("/")[0]
    await page.do("restart", node="ams")
    await page.until(lambda: page.node("ams")["primary"] == "iad")


async def test_a_hand_over_and_a_freeze(page: Page) -> None:
    """By the buttons; what can't be is refused, with the reason."""
    assert (await page.do("promote", node="syd")).status_code == 204
    await page.until(lambda: (page.node("syd")["role"], page.node("ams")["primary"]) == ("primary", "syd"))
    assert (await page.do("freeze", node="ams")).status_code == 204
    assert page.node("ams")["frozen"] is True
    refused = await page.do("promote", node="ams")
    assert (refused.status_code, "frozen" in refused.text) == (409, True)
    assert (await page.do("thaw", node="ams")).status_code == 204
    assert (await page.do("restart", node="ams")).status_code == 409


async def test_what_happens_is_told(page: Page) -> None:
    """A page that opens is told all there is, then each transaction, at the primary first, and each change of role."""
    async with aclosing(page.nodes.feed.subscribe()) as feed:  # type: ignore[type-var]
        assert (await anext(feed)).startswith("event: state\ndata: {")
        await page.write("with", "ams")
        seen: list[tuple[str, bool]] = []
        with anyio.fail_after(SOON):
            while len(seen) < 3:
                kind, data = re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", await anext(feed)).groups()  # type: ignore[union-attr]
                if kind == "tx":
                    told = json.loads(data)
                    seen.append((told["node"], told["commit"]))
        assert seen == [("ams", True), ("iad", False), ("syd", False)]


async def test_visitors_write_until_they_leave(page: Page) -> None:
    """By the checkbox."""
    await page.do("visitors", on=True)
    await page.until(lambda: page.node("ams")["txid"] >= 4)
    await page.do("visitors", on=False)
    assert page.nodes.visitors is False


@pytest.mark.parametrize("fault", [OSError(28, "no space left on device"), sqlite3.OperationalError("disk I/O error")])
async def test_what_can_t_be_done_ends_nothing(page: Page, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    """Asked for by a button, or by the lease that nobody holds, or a visitor's write: it is said, and the demo goes on."""

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setitem(ACTIONS, "elect", fail)
    monkeypatch.setattr(nodes_module, "LEASE", 0.0)
    refused = await page.do("elect", node="iad")
    assert (refused.status_code, str(fault) in refused.text) == (409, True)
    monkeypatch.setattr(SimulatedCluster, "execute", fail)
    await page.do("visitors", on=True)
    await page.until_said(f"a visitor could not write: {fault}")
    await page.do("kill", node="ams")
    await page.until_said(f"iad could not take the lease: {fault}")
    assert (await page.do("freeze", node="syd")).status_code == 204


async def test_the_lag_that_was_asked_for_last_counts(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slider asks often, and the threads that do it may overtake each other."""
    told: list[float] = []
    threads: list[anyio.Event] = []

    async def in_a_thread(function: Callable[..., object], *args: object) -> None:
        threads.append(anyio.Event())
        await threads[-1].wait()
        function(*args)

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedCluster, "set_lag", lambda cluster, hostname, seconds: told.append(seconds))
        patch.setattr(anyio.to_thread, "run_sync", in_a_thread)
        async with anyio.create_task_group() as tasks:
            for seconds in (1.0, 2.0):
                tasks.start_soon(page.nodes.set_lag, "iad", seconds)
                await anyio.wait_all_tasks_blocked()
            for thread in reversed(threads):
                thread.set()
                await anyio.wait_all_tasks_blocked()
    assert told[-1] == 2.0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_does_not_go_on_without_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours ends the process, too: the page says that nobody answers, and the status is 1."""

    class Broken(Nodes):
        async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            await ready.wait()
            raise KeyError("a fault of ours")

    ready = anyio.Event()
    monkeypatch.setattr(server, "Nodes", Broken)
    with listen(0) as listener, anyio.fail_after(SOON):
        assert await serve(listener, ready.set) is False


@pytest.mark.parametrize(
    ("method", "url", "content", "headers", "status"),
    [
        ("POST", "/do/kill", b'{"node":"ams"}', {"content-type": "text/plain"}, 415),  # what another site's form can send
        ("POST", "/with/ams/notes", b'{"text":"x"}', {}, 415),
        ("POST", "/do/kill", b'{"node":"ams"}', {"host": "example.com"}, 400),  # a name that somebody made ours
        ("POST", "/do/kill", b"{", None, 422),
        ("POST", "/do/kill", b"[]", None, 422),
        ("POST", "/do/kill", b"[" * 4000, None, 422),
        ("POST", "/do/kill", b'{"node":"mars"}', None, 404),
        ("POST", "/do/kill", b'{"node":{}}', None, 404),
        ("POST", "/do/explode", b'{"node":"ams"}', None, 404),
        ("POST", "/do/elect", b'{"node":"ams"}', None, 409),
        ("POST", "/do/lag", b'{"node":"ams","seconds":NaN}', None, 422),
        ("POST", "/do/lag", b'{"node":"ams","seconds":-1}', None, 422),
        ("POST", "/do/lag", b'{"node":"ams","seconds":true}', None, 422),
        ("POST", "/do/lag", b'{"node":"ams","seconds":1e9}', None, 422),
        ("POST", "/with/ams/notes", b" " * (LARGEST + 1), None, 413),
        ("POST", "/with/ams/notes", b'{"text":""}', None, 422),
        ("POST", "/with/ams/notes", b'{"text":"\\u0000"}', None, 422),
        ("POST", "/with/ams/notes", b'{"text":["x"]}', None, 422),
        ("GET", "/maybe/ams/notes", b"", None, 404),
        ("GET", "/with/mars/notes", b"", None, 404),
        ("GET", "/do/kill", b"", None, 405),
        ("GET", "/page/../server.py", b"", None, 404),
    ],
)
async def test_what_nobody_should_send(
    page: Page, method: str, url: str, content: bytes, headers: dict[str, str] | None, status: int
) -> None:
    """It is refused, and nothing has changed."""
    before = page.nodes.state()
    given = {"content-type": "application/json"} if headers is None or "host" in headers else {}
    response = await page.client.request(method, url, content=content, headers=given | (headers or {}))
    assert response.status_code == status, response.text
    assert page.nodes.state() == before


async def test_the_page_asks_for_nothing_from_elsewhere(page: Page) -> None:
    """Its own three files, and a policy that allows no others."""
    for url, kind in (("/", "text/html"), ("/style.css", "text/css"), ("/demo.js", "text/javascript")):
        response = await page.client.get(url)
        assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, kind)
        assert response.headers["content-security-policy"].startswith("default-src 'self'")
        assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", response.text) == []


async def test_a_feed_is_bounded() -> None:
    """A page that does not read is cut off, and more than so many are turned away; the others are told all the same."""
    feed = Feed(lambda: "event: state\ndata: {}\n\n")
    async with aclosing(feed.subscribe()) as slow, aclosing(feed.subscribe()) as quick:  # type: ignore[type-var]
        await anext(slow)
        await anext(quick)
        for number in range(BEHIND + 1):
            feed.publish(str(number))
            assert await anext(quick) == str(number)
        assert [event async for event in slow] == [str(number) for number in range(BEHIND)]
        more = [feed.subscribe() for _ in range(SUBSCRIBERS)]
        for stream in more[1:]:
            await anext(stream)
        assert feed.full
        feed.close()
        assert [event async for event in quick] == []
        for stream in more:
            await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("replay", "status", "trail"),
    [
        ("instance=b;state=2", 200, ["a", "b"]),
        ("instance=a", 508, ["a"] * 4),
        ("instance=mars", 502, ["a"]),
        ("nonsense", 502, ["a"]),
        ("instance=down", 502, ["a", "down"]),
    ],
)
async def test_the_edge(replay: str, status: int, trail: list[str]) -> None:
    """It heeds ``fly-replay``, tells who has sent it on, and goes round in no circle."""
    sources: list[bytes] = []

    async def first(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request", "body": b"x"}
        await send({"type": "http.response.start", "status": 409, "headers": [(b"fly-replay", replay.encode())]})
        await send({"type": "http.response.body", "body": b"thrown away"})

    async def second(scope: Any, receive: Any, send: Any) -> None:
        sources.extend(value for name, value in scope["headers"] if name == b"fly-replay-src")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    edge = Edge({"a": first, "b": second, "down": second}, lambda hostname: hostname != "down")
    answer = await edge.fetch("a", {"type": "http", "headers": []}, b"x", receive)
    assert (answer.status, answer.trail) == (status, trail)
    if status == 200:
        assert answer.body == b"x"
        assert [re.sub(rb"t=\d+", b"t=", source) for source in sources] == [b"instance=a;t=;state=2"]


async def test_an_application_that_raises_is_a_500() -> None:
    """As under any server; the error is said."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("of the application")

    answer = await Edge({"a": app}, lambda hostname: True).fetch("a", {"headers": []}, b"", anyio.sleep_forever)  # type: ignore[arg-type]
    assert (answer.status, answer.body) == (500, b"ValueError: of the application")
