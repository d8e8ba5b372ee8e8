"""The event stream against a server that says whatever a test wants, byte by byte."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from litefs_watch import Position
from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.sources import stream as stream_module
from litefs_watch.sources.connection import keep_alive
from litefs_watch.sources.stream import EventStream
from litefs_watch.sources.wire import LINE_LIMIT

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
INIT = b'{"type":"init","data":{"isPrimary":false,"hostname":"node-a"}}\n'
TX = b'{"type":"tx","db":"app.db","data":{"txID":"%016x","postApplyChecksum":"8000000000000001"}}\n'

Answer = Callable[[SocketStream], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Harness:
    """An EventStream, its reports, and a server whose answers a test gives one by one."""

    def __init__(self, url: str) -> None:
        self.reports: list[Reading] = []
        self.looks = 0
        self.data_dirs: list[Path] = []
        self.requests: list[bytes] = []
        self.answers: list[Answer] = []
        self.otherwise: Answer = hang
        self.info = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        self.hangs = False  # asked for /info
        self._news = anyio.Event()
        self.stream = EventStream(url, report=self._report, look=self._look, on_data_dir=self._data_dir)

    def _report(self, reading: Reading) -> None:
        self.reports.append(reading)
        self._news.set()

    def _look(self) -> None:
        self.looks += 1
        self._news.set()

    def _data_dir(self, path: Path) -> None:
        self.data_dirs.append(path)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not condition():
                self._news = anyio.Event()
                await self._news.wait()

    async def serve(self, connection: SocketStream) -> None:
        async with connection:
            try:
                request = await connection.receive()
                if request.startswith(b"GET /info") and self.hangs:
                    await anyio.sleep_forever()
                if request.startswith(b"GET /info"):
                    await connection.send(self.info)
                    return
                self.requests.append(request)
                answer = self.answers.pop(0) if self.answers else self.otherwise
                await answer(connection)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return


async def hang(connection: SocketStream) -> None:
    await anyio.sleep_forever()


def say(*pieces: bytes, then: Answer | None = hang) -> Answer:
    async def answer(connection: SocketStream) -> None:
        for piece in pieces:
            await connection.send(piece)
        if then is not None:
            await then(connection)

    return answer


@asynccontextmanager
async def watching(*answers: Answer) -> AsyncIterator[Harness]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        harness = Harness(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
        harness.answers = list(answers)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, harness.serve)
            async with anyio.create_task_group() as client:  # ends first: nobody connects while the listener goes
                client.start_soon(harness.stream.run)
                yield harness
                client.cancel_scope.cancel()
            tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stream_module, "LAST_PAUSE", 0.002)


def txids(harness: Harness) -> list[int]:
    return [reading.position.txid for reading in harness.reports if isinstance(reading, TxEvent)]


async def test_init_is_reported_and_a_look_asked_for() -> None:
    """init carries no positions: they are read after it; from there on tx is trusted."""
    async with watching(say(HEAD, chunk(INIT), chunk(TX % 2))) as harness:
        await harness.until(lambda: bool(txids(harness)))
        role, tx = harness.reports
        assert isinstance(role, RoleEvent)
        assert (role.is_primary, role.hostname, role.first) == (False, "node-a", True)
        assert isinstance(tx, TxEvent)
        assert (tx.database, tx.position) == ("app.db", Position(2, 2**63 + 1))
        assert harness.looks == 1
        assert harness.stream.health.alive
        assert harness.stream.events == 2
        assert harness.requests[0].startswith(b"GET /events HTTP/1.1\r\n")


async def test_primary_changes_are_reported() -> None:
    """Each, as it comes: the state debounces them."""
    change = b'{"type":"primaryChange","data":{"isPrimary":true}}\n'
    async with watching(say(HEAD, chunk(INIT + change + change))) as harness:
        await harness.until(lambda: len(harness.reports) == 3)
        assert [(r.is_primary, r.first) for r in harness.reports if isinstance(r, RoleEvent)] == [
            (False, True),
            (True, False),
            (True, False),
        ]


async def test_events_in_any_pieces() -> None:
    """Lines are cut by the network wherever it likes, and many come in one piece."""
    body = INIT + b"".join(TX % number for number in range(1, 50))
    async with watching(say(HEAD, *(chunk(body[at : at + 7]) for at in range(0, len(body), 7)))) as harness:
        await harness.until(lambda: len(txids(harness)) == 49)
        assert txids(harness) == list(range(1, 50))


async def test_a_stream_that_ends_is_opened_again() -> None:
    """And the state hears of the end."""
    async with watching(
        say(HEAD, chunk(INIT), chunk(b"")[:0] + b"0\r\n\r\n", then=None), say(HEAD, chunk(INIT), chunk(TX % 7))
    ) as harness:
        await harness.until(lambda: txids(harness) == [7])
        assert [type(reading) for reading in harness.reports] == [RoleEvent, StreamEnded, RoleEvent, TxEvent]
        assert harness.stream.connections == 2


async def test_a_stream_cut_in_the_middle_of_a_line_is_opened_again() -> None:
    """LiteFS was killed."""
    async with watching(say(HEAD, chunk(INIT), chunk(TX[:20]), then=None), say(HEAD, chunk(INIT))) as harness:
        await harness.until(lambda: harness.stream.connections == 2)
        assert txids(harness) == []


NOT_LITEFS = {
    "404": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
    "500": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500"),
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n",
        "302 to 'https://example.com/'",
    ),
    "HTML": (b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n<html>\n<body>\n</body>\n", "not an event of LiteFS: '<html>'"),
    "another protocol": (b"-ERR unknown command\r\n\r\n", "illegal status line"),
    "nothing": (b"", "closed the connection without a response"),
    "no init": (HEAD + chunk(TX % 1), "began with 'tx' instead of 'init'"),
    "unknown first": (HEAD + chunk(b'{"type":"hello"}\n'), "began with 'hello'"),
    "a 100 KB line": (HEAD + chunk(b"x" * (LINE_LIMIT + 1)), "a line longer than 65,536 bytes"),
    "an endless header": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000, "does not speak HTTP/1.1: "),
    "bad chunking": (HEAD + b"zz\r\n", "illegal chunk header"),
}


@pytest.mark.parametrize(("answer", "reason"), NOT_LITEFS.values(), ids=NOT_LITEFS)
async def test_what_is_not_litefs_is_health_and_is_tried_again(answer: bytes, reason: str) -> None:
    """Health shows what was seen and where; the next good stream heals it."""
    async with watching(say(answer, then=None)) as harness:
        await harness.until(lambda: harness.looks == 1)
        assert not harness.stream.health.alive
        assert reason in harness.stream.health.status.detail
        assert len(harness.stream.health.status.detail) < 600
        assert harness.reports == []
        assert harness.stream.attempted
        harness.answers.append(say(HEAD, chunk(INIT)))
        await harness.until(lambda: harness.stream.health.alive)
        assert harness.stream.health.status.fault is None


async def test_garbage_in_an_open_stream_is_a_fault_and_a_look(caplog: pytest.LogCaptureFixture) -> None:
    """The stream stays open, the last true state stays, and the next good line heals."""
    bad = TX.replace(b"%016x", b"garbage")
    async with watching(say(HEAD, chunk(INIT), chunk(TX % 1), chunk(bad))) as harness:
        await harness.until(lambda: harness.looks == 2)
        status = harness.stream.health.status
        assert status.alive
        assert status.fault is not None
        assert "garbage" in status.fault
        assert txids(harness) == [1]
    async with watching(say(HEAD, chunk(INIT), chunk(bad), chunk(TX % 2))) as harness:
        await harness.until(lambda: txids(harness) == [2])
        assert harness.stream.health.status.fault is None


async def test_an_unknown_event_is_look_again() -> None:
    """A later LiteFS may know more."""
    async with watching(say(HEAD, chunk(INIT), chunk(b'{"type":"vacuum"}\n'))) as harness:
        await harness.until(lambda: harness.looks == 2)
        assert harness.stream.health.alive
        assert harness.stream.health.status.fault is None


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", HEAD, HEAD + b'5\r\n{"typ'])
async def test_an_answer_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """A frozen LiteFS, or half a line for ever, before init: the attempt ends, and counts as one."""
    monkeypatch.setattr(stream_module, "ANSWER_TIMEOUT", 0.05)
    async with watching(say(start)) as harness:
        await harness.until(lambda: harness.looks >= 1)
        assert "within 0.05 s" in harness.stream.health.status.detail
        assert harness.stream.attempted


async def test_nobody_listens() -> None:
    """LiteFS is down: one line says where it was looked for."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        harness = Harness(f"http://127.0.0.1:{unused.getsockname()[1]}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.stream.run)
            await harness.until(lambda: harness.looks >= 3)
            tasks.cancel_scope.cancel()
    assert "no connection to http://127.0.0.1:" in harness.stream.health.status.detail


async def test_pauses_grow_and_begin_anew_only_after_a_steady_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 ms to 2 s, with jitter; a server that accepts and hangs up is not reconnected to in a spin."""
    pauses: list[float] = []
    monkeypatch.setattr(stream_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(stream_module, "LAST_PAUSE", 2.0)
    monkeypatch.setattr(stream_module._jitter, "uniform", lambda low, high: high if (low, high) == (0.5, 1.0) else None)
    lives = iter([0.0, 0.4, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 1.5, 0.0])

    async def session(self: EventStream, url: str) -> float:
        return next(lives)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            raise KeyError

    monkeypatch.setattr(EventStream, "_session", session)
    monkeypatch.setattr("anyio.sleep", pause)
    with pytest.raises(BaseExceptionGroup) as caught:
        await Harness("http://127.0.0.1:1").stream.run()
    assert caught.group_contains(KeyError)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 0.05, 0.1]


async def test_info_tells_the_data_directory() -> None:
    """The second choice for when the stream is away."""
    async with watching() as harness:
        body = b'{"isPrimary":false,"path":"/data"}\n'
        harness.info = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        harness.answers.append(say(HEAD, chunk(INIT)))
        await harness.until(lambda: bool(harness.data_dirs))
        assert harness.data_dirs == [Path("/data")]


@pytest.mark.parametrize(
    "info", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000]
)
async def test_a_bad_info_is_no_harm(info: bytes) -> None:
    """Without it the data directory stays unknown, and the stream goes on."""
    async with watching() as harness:
        harness.info = info
        harness.answers.append(say(HEAD, chunk(INIT), chunk(TX % 1)))
        await harness.until(lambda: txids(harness) == [1])
        await anyio.wait_all_tasks_blocked()
        assert harness.data_dirs == []


async def test_an_info_that_never_comes_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteFS was frozen, or its connections were used up, when the stream was just open: that one goes on."""
    monkeypatch.setattr(stream_module, "ANSWER_TIMEOUT", 0.05)
    async with watching() as harness:
        asked, over = anyio.Event(), anyio.Event()

        async def stop_asking(api_url: str) -> None:
            asked.set()
            await ask(api_url)
            over.set()

        ask = harness.stream._ask_more
        monkeypatch.setattr(harness.stream, "_ask_more", stop_asking)
        harness.hangs = True
        harness.answers.append(say(HEAD, chunk(INIT), chunk(TX % 1)))
        with anyio.fail_after(5):
            await asked.wait()
            await over.wait()
        assert harness.stream.health.alive
        assert len(harness.requests) == 1


async def test_no_thread_to_look_up_infos_host_in_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream, which has its connection, goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async with watching() as harness:
        monkeypatch.setattr(stream_module, "request", refuse)
        harness.answers.append(say(HEAD, chunk(INIT), chunk(TX % 1)))
        await harness.until(lambda: txids(harness) == [1])
        await anyio.wait_all_tasks_blocked()
        assert harness.stream.health.alive


async def test_the_stream_can_be_turned_off() -> None:
    """api_url=None."""
    stream = EventStream(None, report=lambda _: None, look=lambda: None, on_data_dir=lambda _: None)
    await stream.run()
    assert stream.attempted
    assert "api_url=None" in stream.health.status.detail


def test_tcp_keep_alive_is_on() -> None:
    """Nothing else would tell that the other end has vanished: the stream has no heartbeat."""
    with socket.socket() as sock:
        keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


async def test_the_stream_keeps_its_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the very connection it uses."""
    seen: list[int] = []
    monkeypatch.setattr("litefs_watch.sources.connection.keep_alive", lambda sock: seen.append(sock.type))
    async with watching(say(HEAD, chunk(INIT))) as harness:
        await harness.until(lambda: harness.stream.health.alive)
    assert seen
