"""``/wait`` and ``/position``: what is answered, when, and to how many."""

from __future__ import annotations

import json

import anyio
import pytest

from litefs_watch import Position
from litefs_watch.serve import questions
from litefs_watch.serve.options import Options
from litefs_watch.serve.questions import LARGEST_BODY
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import SOON, asked, until
from tests.serve.conftest import Served, served

JSON = {"content-type": "application/json"}


async def test_what_is_here_is_answered_at_once(here: Served) -> None:
    """By number and by position, of the database that is meant or named; with where the database is, and nobody waits."""
    position = here.node.position()
    for query in (f"txid={position.txid}", f"txid={position.txid:#x}", f"position={position}", "txid=0&db=app.db"):
        response = await here.ask(f"/wait?{query}&timeout=10s")
        assert response.status_code == 200
        assert response.json() == {"database": "app.db", "txid": position.txid, "position": str(position)}
        assert response.headers["cache-control"] == "no-store"
    assert here.watcher.statistics().wakes == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_waits_is_answered_when_it_comes(here: Served, method: str) -> None:
    """With the position that it then has."""
    wanted = here.node.position().txid + 1
    query = f"?txid={wanted}&timeout=20" if method == "GET" else ""
    body = [json.dumps({"txid": wanted, "timeout": 20}).encode()] if method == "POST" else None
    async with asked(here.app, f"/wait{query}", JSON, method=method, body=body) as connection:
        await until(lambda: here.watcher.statistics().waiters)
        position = here.node.commit()
        assert (await connection.json())["position"] == str(position)
        assert connection.status == 200
    assert here.sidecar.waits.waiting.taken == 0


async def test_what_does_not_come_is_408_with_where_it_is(here: Served) -> None:
    """And for how long it was waited: no longer than the sidecar's own limit."""
    response = await here.ask("/wait?txid=99&timeout=0")
    assert response.status_code == 408
    position = here.node.position()
    record = response.json()
    assert record.pop("error").startswith(f"app.db did not reach transaction 99 within 0 s: it is at {position.txid}")
    assert record == {
        "database": "app.db",
        "txid": position.txid,
        "position": str(position),
        "role": "primary",
        "primary": None,
    }
    async with served(here.node, Options(max_timeout=0.01)) as limited:
        assert "within 0.01 s" in await limited.refused("/wait?txid=99&timeout=1h", 408)


async def test_a_database_that_is_not_there_is_said_with_those_that_are(here: Served) -> None:
    """It may be created yet: 408 for who waits for it, and 404 for who wants its position."""
    words = "(there are app.db; did you mean 'app.db'?)"
    assert words in await here.refused("/wait?db=ap.db&txid=1&timeout=0", 408)
    assert words in await here.refused("/position?db=ap.db", 404)


async def test_why_no_database_is_there_is_said(node: SimulatedNode) -> None:
    """A directory that is not there has none: what is wrong is not the database's name."""
    async with served(node, litefs_dir=node.litefs_dir / "nowhere", api_url=None) as here:
        assert "nowhere: No such file or directory" in await here.refused("/position", 404)


async def test_a_lost_transaction_is_410(here: Served) -> None:
    """Where it is on the primary that it is asked for: it will not come, and nobody waits for it."""
    elsewhere = Position(here.node.position().txid, 0x8000000000000BAD)
    response = await here.ask(f"/wait?position={elsewhere}&timeout=20")
    assert response.status_code == 410
    assert "is in no history any more" in response.json()["error"]
    assert response.json()["position"] == str(here.node.position())


@pytest.mark.parametrize(("role", "status"), [("primary", 410), ("replica", 408)])
async def test_of_what_the_watcher_does_not_remember_litefs_s_files_tell(
    node: SimulatedNode, role: str, status: int
) -> None:
    """They have each transaction of ten minutes: what is in them is here, and another one of that number is not."""
    old = node.commit()
    node.commit()
    if role == "replica":
        node.set_primary("node-b")
    async with served(node) as here:
        await here.watcher.wait_for_role(role, timeout=20)
        await until(lambda: here.watcher.run.view("app.db").data_dir)
        assert (await here.ask(f"/wait?position={old}&timeout=20")).status_code == 200
        words = await here.refused(f"/wait?position={Position(old.txid, 0x8000000000000BAD)}&timeout=20", status)
        assert ("is in no history any more" if status == 410 else "ask the primary") in words
        for path in node.data_dir.glob("dbs/app.db/ltx/*"):
            path.unlink()
        assert (await here.ask(f"/wait?position={old}&timeout=20")).status_code == 200  # nothing has come between


async def test_what_a_fail_over_may_have_dropped_is_not_said_to_be_here(node: SimulatedNode) -> None:
    """A replica is reset to a history that has gone on: the TXID is reached, and nothing tells of that position. Its new
    primary is to be asked; once this node is that, nobody knows more than it does."""
    node.set_primary("node-b")
    async with served(node) as here:
        await here.watcher.wait_for_role("replica", timeout=20)
        wanted = Position(node.position().txid + 2, 0x8000000000000BAD)
        async with asked(here.app, f"/wait?position={wanted}&timeout=20") as connection:
            await until(lambda: here.watcher.statistics().waiters)
            node.set_primary("node-c")
            await until(lambda: here.watcher.primary == "node-c")
            node.commit(txid=wanted.txid + 2)
            record = await connection.json()
            assert (connection.status, record["txid"]) == (408, wanted.txid + 2)
            assert "ask the primary" in record["error"]
        node.become_primary()
        await here.watcher.wait_for_role("primary", timeout=20)
        assert (await here.ask(f"/wait?position={wanted}&timeout=20")).status_code == 200


async def test_a_position_is_that_of_the_file(here: Served) -> None:
    """Whatever the watcher has heard: a commit's mark is never older than the commit."""
    position = here.node.commit(notify=False)
    response = await here.ask("/position")
    expected = {"database": "app.db", "txid": position.txid, "position": str(position), "role": "primary", "primary": None}
    assert response.json() == expected


async def test_a_position_that_can_t_be_read_is_503(here: Served) -> None:
    """What is in the file is no position; and where LiteFS stands still, nobody waits for ever."""
    here.node.path("app.db-pos").write_text("nonsense")
    assert "LiteFS's files can't be read: app.db-pos" in await here.refused("/position", 503)

    async def frozen(database: str | None = None) -> None:
        await anyio.sleep_forever()

    here.watcher.read_position = frozen  # type: ignore[method-assign]
    assert "did not let its file be read within 0.01 s" in await here.refused("/position?timeout=10ms", 503)


async def test_a_directory_that_is_not_litefs_s_is_503(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it is another's: nobody hears of it from here."""
    monkeypatch.setattr("litefs_watch.watchers.run.Run.misplaced", "/x is not LiteFS's mount")
    for path in ("/position", "/wait?txid=1"):
        assert await here.refused(path, 503) == "/x is not LiteFS's mount"


async def test_who_leaves_makes_room_at_once(node: SimulatedNode) -> None:
    """While the place is taken, others are told to come back; nothing of who has left stays."""
    async with served(node, Options(max_waiting=1)) as small, asked(small.app, "/wait?txid=99&timeout=60") as connection:
        await until(lambda: small.watcher.statistics().waiters)
        full = await small.ask("/wait?txid=99&timeout=60")
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        assert full.json()["error"] == "1 requests wait already: come back in a second"
        assert (await small.ask("/wait?txid=1")).status_code == 200  # nobody waits for it
        assert (await small.ask("/position")).status_code == 200
        connection.leave()
        await until(lambda: not small.sidecar.waits.waiting.taken)
        assert small.watcher.statistics().waiters == 0


async def test_when_the_watcher_ends_who_waits_gets_503(here: Served) -> None:
    """And so does whoever comes later."""
    async with asked(here.app, "/wait?txid=99&timeout=60") as connection:
        await until(lambda: here.watcher.statistics().waiters)
        await here.watcher.stop()
        assert "the watcher was stopped while" in (await connection.json())["error"]
        assert (connection.status, connection.headers["retry-after"]) == (503, "1")
    for path in ("/wait?txid=1", "/position", "/status", "/events"):
        response = await here.ask(path)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await here.ask("/primary")).status_code == 503


async def test_a_crowd_waits_and_is_woken(node: SimulatedNode) -> None:
    """And nothing of them is left."""
    async with served(node) as here:
        answers: list[int] = []

        async def wait(number: int) -> None:
            async with asked(here.app, f"/wait?txid={4 + number % 2}&timeout=20") as connection:
                await connection.start()
                answers.append(connection.status)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(wait, number)
            await until(lambda: here.watcher.statistics().waiters == 100)
            for _ in range(3):
                position = node.commit()
        assert position.txid == 5
        assert answers == [200] * 100
        assert (here.sidecar.waits.waiting.taken, here.watcher.statistics().waiters) == (0, 0)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        ([b'{"txid": 1}'], {}, 415, "application/json, not nothing that is named"),
        ([b'{"txid": 1}'], {"content-type": "text/plain"}, 415, "not text/plain"),
        ([b"{" * (LARGEST_BODY + 1)], JSON, 413, "larger than 4096 bytes"),
        ([b" " * 4000, b" " * 4000, b'{"txid": 1}'], JSON, 413, "larger than 4096 bytes"),
        ([b"[" * 4000], JSON, 400, "no JSON"),
        ([b"[1]"], JSON, 400, "a JSON object"),
        ([b'{"txid": 1', b".5}"], JSON, 400, "a whole number"),
        ([b'{"txid": true}'], JSON, 400, "not True"),
        ([b'{"txid": 1, "timeout": NaN}'], JSON, 400, "no JSON"),
        ([b'{"txid": 1, "timeout": -1}'], JSON, 400, "not -1"),
        ([b'{"txid": 1, "timeuot": 1}'], JSON, 400, "did you mean 'timeout'?"),
        ([b'{"position": {"txid": 1}}'], JSON, 400, "not 'dict'"),
        ([b'{"txid": 1, "db": 7}'], JSON, 400, "not 7"),
    ],
)
async def test_a_body_that_can_t_be_meant(
    here: Served, body: list[bytes], headers: dict[str, str], status: int, words: str
) -> None:
    """What was seen is said, and nobody waits."""
    async with asked(here.app, "/wait", headers, method="POST", body=body) as connection:
        assert words in (await connection.json())["error"]
        assert connection.status == status


@pytest.mark.parametrize(("pieces", "status"), [(0, 400), (1, 400), (LARGEST_BODY // 1000 + 1, 413)])
async def test_a_body_that_does_not_end(here: Served, monkeypatch: pytest.MonkeyPatch, pieces: int, status: int) -> None:
    """It is not waited for, for long; and no more of it is read than is needed to tell that it is too large."""
    monkeypatch.setattr(questions, "BODY_TIMEOUT", 0.01)
    scope = {"type": "http", "method": "POST", "path": "/wait", "query_string": b"", "root_path": "", "scheme": "http"}
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    sent = []

    async def receive() -> dict[str, object]:
        nonlocal pieces
        if not pieces:
            assert status == 400
            await anyio.sleep_forever()
        pieces -= 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    with anyio.fail_after(SOON):
        await here.app({**scope, "headers": headers}, receive, send)
    assert sent[0]["status"] == status


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "what is to be waited for? position=, or txid="),
        ("txid=1&position=0000000000000001/0000000000000001", "not both"),
        ("txid=1&txid=2", "a parameter stands there twice"),
        ("txid=000000000000002a", "write 0x000000000000002a for LiteFS's hexadecimal"),
        ("txid=18446744073709551616", "a TXID is a whole number from 0 to 2^64-1"),
        ("position=1/1", "not '1/1'"),
        ("txid=1&timeout=soon", "a number of seconds, or 500ms, 10s, 1m, not 'soon'"),
        ("txid=1&timeout=-1", "not '-1'"),
        ("txid=1&timeout=inf", "not 'inf'"),
        ("txid=1&db=..%2Fapp.db", "without a path, not '../app.db'"),
        ("txid=1&db=", "without a path, not ''"),
        ("a=1&b=1&c=1&d=1&e=1&f=1&g=1&h=1&i=1", "more than 8 parameters"),
    ],
)
async def test_a_query_that_can_t_be_meant(here: Served, query: str, words: str) -> None:
    """What was seen is said, and nobody waits."""
    assert words in await here.refused(f"/wait?{query}", 400)


async def test_without_a_database_of_its_own_one_has_to_be_named(node: SimulatedNode) -> None:
    """Those that there are are said."""
    async with served(node, database=None) as nameless:
        await nameless.watcher.wait_for_tx(1, database="app.db", timeout=20)
        assert "which database? db=NAME" in await nameless.refused("/wait?txid=1", 400)
        assert "there are app.db" in await nameless.refused("/position", 400)
        assert (await nameless.ask("/wait?txid=1&db=app.db")).status_code == 200


async def test_while_no_primary_is_known_who_waits_waits(here: Served) -> None:
    """For what is here, too: nothing tells whether it will stay. That is said."""
    here.node.lose_primary()
    await here.watcher.wait_for_role("unknown", timeout=20)
    assert "role is unknown" in await here.refused(f"/wait?txid={here.node.position().txid}&timeout=10ms", 408)
    assert (await here.ask("/position")).json()["role"] == "unknown"


async def test_standalone_everything_is_here(node: SimulatedNode) -> None:
    """On a laptop without LiteFS an application finds the same answers."""
    async with served(node, litefs_dir=None, api_url=None, standalone=True) as alone:
        marked = (await alone.ask("/position")).json()
        assert (marked["role"], marked["txid"]) == ("primary", 0)
        for wanted in (f"position={marked['position']}", "txid=99"):
            assert (await alone.ask(f"/wait?{wanted}")).status_code == 200
