"""Other nodes' streams: whatever a peer or the DNS does, the others are heard."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import ConfigError, Settings, fly
from litefs_watch.core.peers import DATABASES, TxidsTold
from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.sources import peers as peers_module
from litefs_watch.sources import stream as stream_module
from litefs_watch.sources.peers import PeerStreams, parse_txids
from litefs_watch.sources.wire import LINE_LIMIT
from tests.sources.test_stream import Answer, chunk, hang, say

HEAD = (
    b"HTTP/1.1 200 OK\r\nLitefs-Id: 0F933A0C7141E9EB\r\nLitefs-Cluster-Id: LFSC01\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
INIT = b'{"type":"init","data":{"isPrimary":false,"hostname":"node-a"}}\n'
TX = b'{"type":"tx","db":"app.db","data":{"txID":"%016x","postApplyChecksum":"8000000000000001"}}\n'


class Heard:
    """What was published, and a way to wait for it."""

    def __init__(self) -> None:
        self.readings: dict[str, list[tuple[Reading | TxidsTold, tuple[str, str]]]] = {}
        self.changes = 0
        self._news = anyio.Event()

    def publish(self, url: str, reading: Reading | TxidsTold, identity: tuple[str, str]) -> None:
        self.readings.setdefault(url, []).append((reading, identity))
        self._news.set()

    def changed(self) -> None:
        self.changes += 1
        self._news.set()

    def txids(self, url: str) -> list[int]:
        return [each.position.txid for each, _ in self.readings.get(url, []) if isinstance(each, TxEvent)]

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                self._news = anyio.Event()
                await self._news.wait()


@asynccontextmanager
async def served(*answers: Answer) -> AsyncIterator[list[str]]:
    """A server for each answer, which gives it each time."""
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1")) for _ in answers
        ]
        tasks = await stack.enter_async_context(anyio.create_task_group())
        urls = []
        for listener, answer in zip(listeners, answers, strict=True):
            urls.append(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")

            async def serve(connection: anyio.abc.SocketStream, answer: Answer = answer) -> None:
                async with connection:
                    try:
                        request = await connection.receive()
                        await (METRICS if request.startswith(b"GET /metrics") else answer)(connection)
                    except (anyio.BrokenResourceError, anyio.EndOfStream):
                        return

            tasks.start_soon(listener.serve, serve)
        yield urls
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[tuple[PeerStreams, Heard]]:
    heard = Heard()
    streams = PeerStreams(settings, publish=heard.publish, changed=heard.changed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(streams.run)
        yield streams, heard
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stream_module, peers_module):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
        monkeypatch.setattr(module, "LAST_PAUSE", 0.002)
    monkeypatch.setattr(peers_module, "REFRESH", 0.005)


METRICS_TEXT = (
    b'# TYPE litefs_db_txid gauge\nlitefs_db_txid{db="app.db"} 7\nlitefs_db_txid{db="o\\\\\\"h.db"} 1.234567e+06\n'
)
METRICS = say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(METRICS_TEXT), METRICS_TEXT), then=None)
GOOD = say(HEAD, chunk(INIT), chunk(TX % 7))
BAD = {
    "garbage": say(b"\x00\xff" * 1000, then=None),
    "another program": say(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n<html>\n<body>\n</body>\n", then=None),
    "an endless line": say(HEAD, chunk(INIT), chunk(b"x" * (LINE_LIMIT + 1))),
    "garbage amid events": say(HEAD, chunk(INIT), chunk(b"garbage\n")),
    "1,000 events behind: cut off": say(HEAD, chunk(INIT), *(chunk(TX % n) for n in range(1, 6)), then=None),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_peer_is_tried_again_and_the_others_are_heard(bad: Answer) -> None:
    """Its stream ends, is said to, and begins anew; nobody else's does."""
    async with served(bad, GOOD) as (worse, better), reading(Settings("/litefs", peers=(worse, better))) as (streams, heard):
        await heard.until(lambda: heard.txids(better) == [7])
        ends = 2 * (bad in (BAD["an endless line"], BAD["garbage amid events"]))

        def ended() -> bool:
            return sum(isinstance(each, StreamEnded) for each, _ in heard.readings.get(worse, [])) >= ends

        await heard.until(ended)
        assert streams.by_url[better].health.alive
        assert heard.txids(better) == [7]
        opened, identity = heard.readings[better][0]
        assert isinstance(opened, RoleEvent)
        assert identity == ("0F933A0C7141E9EB", "LFSC01")


async def test_a_peer_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing, and one that is not there."""
    monkeypatch.setattr(stream_module, "ANSWER_TIMEOUT", 0.01)
    async with served(hang, GOOD) as (hanging, good):
        peers = (hanging, "http://127.0.0.1:1", good)
        async with reading(Settings("/litefs", peers=peers)) as (streams, heard):
            await heard.until(lambda: heard.txids(good) == [7])
            with anyio.fail_after(5):
                while not all(streams.by_url[url].attempted for url in peers):
                    await anyio.lowlevel.checkpoint()
            assert "no answer" in streams.by_url[hanging].health.status.detail
            assert "no connection" in streams.by_url[peers[1]].health.status.detail


async def test_a_peer_that_floods_is_cut_off_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the event loop's time from the application."""
    monkeypatch.setattr(peers_module, "RATE", 5)
    flood = say(HEAD, chunk(INIT), b"".join(chunk(TX % number) for number in range(1, 20)))
    async with served(flood, GOOD) as (one, other), reading(Settings("/litefs", peers=(one, other))) as (streams, heard):

        def ends() -> int:
            return sum(isinstance(each, StreamEnded) for each, _ in heard.readings.get(one, []))

        await heard.until(lambda: ends() >= 2 and heard.txids(other) == [7])
        assert streams.by_url[other].health.alive


async def test_a_name_that_is_looked_up_for_ever_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the other peers nor the event loop's own threads, which are the application's."""
    released, asked = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "slow.internal":
            asked.set()
            released.wait(30)
            raise socket.gaierror("too late")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(stream_module, "ANSWER_TIMEOUT", 5.0)
    try:
        async with (
            served(GOOD) as (good,),
            reading(Settings("/litefs", peers=("http://slow.internal:1", good))) as (_, heard),
        ):
            await heard.until(lambda: heard.txids(good) == [7])
            assert await anyio.to_thread.run_sync(asked.wait, 5)
    finally:
        released.set()


async def test_a_fault_of_ours_ends_one_stream_for_a_moment() -> None:
    """It is said to have ended, runs again, whole, and the other one does not notice."""
    async with served(GOOD, GOOD) as (one, other), reading(Settings("/litefs", peers=(one, other))) as (streams, heard):
        failures = iter([True])
        publish = heard.publish

        def fail_once(url: str, reading: Reading | TxidsTold, identity: tuple[str, str]) -> None:
            if url == one and isinstance(reading, TxEvent) and next(failures, False):
                raise ZeroDivisionError
            publish(url, reading, identity)

        for stream in streams.by_url.values():
            stream._publish = fail_once
        await heard.until(lambda: heard.txids(one) == [7] and heard.txids(other) == [7])
        kinds = [[type(each) for each, _ in heard.readings[url] if not isinstance(each, TxidsTold)] for url in (one, other)]
        assert kinds == [[RoleEvent, StreamEnded, RoleEvent, TxEvent], [RoleEvent, TxEvent]]


FLY = Settings("/litefs", peers="fly", app_name="shop", hostname="me", api_url="http://localhost:4321")


async def test_flys_machines_come_and_go_with_the_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """This one is left out, and what is no machine's name; while the DNS is away, those that are known stay."""
    answers: list[list[bytes] | Exception] = [OSError("no server"), [b"me ams,b ams,../x ams,c lhr"]]
    asked = anyio.Event()

    async def resolve(name: str) -> list[bytes]:
        assert name == "vms.shop.internal"
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            asked.set()
            raise answer
        return answer

    monkeypatch.setattr(fly, "resolve_txt", resolve)
    async with reading(FLY) as (streams, heard):
        assert not streams.found
        with anyio.fail_after(5):
            await asked.wait()
        both = {f"http://{name}.vm.shop.internal:4321" for name in "bc"}
        await heard.until(lambda: streams.by_url.keys() == both)
        assert streams.fault is None
        answers[:] = [OSError("gone")]
        await heard.until(lambda: streams.fault is not None)
        assert "gone" in str(streams.fault)
        assert streams.by_url.keys() == both
        answers[:] = [[b"c lhr"]]
        await heard.until(lambda: streams.by_url.keys() == {"http://c.vm.shop.internal:4321"})


async def test_who_is_connected_stays_whatever_the_dns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not whole takes nobody away who is there."""
    answers = [[b"b ams,c ams"]]

    async def resolve(name: str) -> list[bytes]:
        return answers[0]

    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).startswith("c."):
            raise socket.gaierror("no such machine")
        return look_up("127.0.0.1" if str(host).startswith("b.") else host, *arguments, **options)

    monkeypatch.setattr(fly, "resolve_txt", resolve)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with (
        served(GOOD) as (good,),
        reading(Settings("/l", peers="fly", app_name="shop", api_url=good)) as (streams, heard),
    ):
        b, c = (f"http://{name}.vm.shop.internal:{good.rpartition(':')[2]}" for name in "bc")
        await heard.until(lambda: heard.txids(b) == [7] and c in streams.by_url)
        answers[0] = []
        await heard.until(lambda: c not in streams.by_url)
        assert streams.by_url[b].health.alive


async def test_the_dns_can_name_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than `MOST` are watched, and that is said."""

    async def resolve(name: str) -> list[bytes]:
        return [b",".join(b"m%d ams" % number for number in range(1000))]

    monkeypatch.setattr(fly, "resolve_txt", resolve)
    async with reading(FLY) as (streams, heard):
        await heard.until(lambda: streams.fault is not None)
        assert len(streams.by_url) == peers_module.MOST
        assert "968 are not" in str(streams.fault)


def test_flys_dns_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said when the watcher is made."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"litefs-watch\[fly\]"):
        PeerStreams(FLY, publish=lambda *_: None, changed=lambda: None)


async def test_metrics_tell_where_the_databases_are_when_a_stream_is_opened() -> None:
    """Once, for people; the stream itself carries no positions then."""
    async with served(say(HEAD, chunk(INIT))) as (url,), reading(Settings("/litefs", peers=(url,))) as (streams, heard):
        await heard.until(lambda: streams.by_url[url].asked)
        (told,) = [each for each, _ in heard.readings[url] if isinstance(each, TxidsTold)]
        assert told.txids == {"app.db": 7, 'o\\"h.db': 1234567}


@given(st.binary(max_size=200), st.lists(st.tuples(st.text(min_size=1, max_size=20), st.floats())))
def test_whatever_metrics_say_is_no_error(noise: bytes, samples: list[tuple[str, float]]) -> None:
    """What is told are databases' names and whole numbers."""
    lines = [b'litefs_db_txid{db="%b"} %r' % (name.encode("utf-8", "replace"), number) for name, number in samples]
    found = parse_txids(b"\n".join([noise, *lines, b'litefs_db_txid{db="app.db"} 7', noise]))
    assert all(name and "/" not in name and 0 <= txid < 2**53 for name, txid in found.items())
    assert found["app.db"] == 7


def test_metrics_may_name_any_number_of_databases() -> None:
    """No more than are kept in mind are."""
    many = b"".join(b'litefs_db_txid{db="%d.db"} 1\n' % number for number in range(DATABASES + 10))
    assert len(parse_txids(many)) == DATABASES
