"""``/events``: what follows, what is come back to, what is missed, and whose slowness costs whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from litefs_watch.serve import streams
from litefs_watch.serve.events import BATCH
from litefs_watch.serve.options import Options
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import Connection, asked, until
from tests.serve.conftest import Served, served


async def opened(connection: Connection) -> dict[str, Any]:
    """The first event."""
    await connection.start()
    (first,) = await connection.events()
    return first


async def committed(here: Served, times: int) -> None:
    """Each is an event of its own."""
    for _ in range(times):
        before = here.sidecar.events.memory.newest
        here.node.commit()
        await until(lambda before=before: here.sidecar.events.memory.newest > before)


async def test_it_begins_with_what_is_true_and_goes_on_with_what_changes(here: Served) -> None:
    """Transactions, the role; each with an id, and as `litefs-watch watch --json` has it."""
    async with asked(here.app, "/events") as connection:
        first = await opened(connection)
        assert connection.headers["content-type"] == "text/event-stream"
        assert first["type"] == "status"
        assert first["positions"]["app.db"]["position"] == str(here.node.position())
        was, position = here.node.position(), here.node.commit()
        (event,) = await connection.events()
        assert event.items() >= {"type": "tx", "database": "app.db", "position": str(position)}.items()
        assert event["previous"]["position"] == str(was)
        here.node.set_primary("node-b")
        (event,) = await connection.events()
        assert event.items() >= {"type": "primaryChange", "role": "replica", "primary": "node-b"}.items()


async def test_who_comes_back_is_told_what_it_missed(here: Served) -> None:
    """All of it, in order, and nothing twice; in lines as well."""
    async with asked(here.app, "/events") as connection:
        last = (await opened(connection))["id"]
    await committed(here, 3)
    async with asked(here.app, "/events", {"last-event-id": last}) as connection:
        await connection.start()
        told = await connection.events()
        assert [event["type"] for event in told] == ["tx"] * 3
        assert told[-1]["position"] == str(here.node.position())
    headers = {"last-event-id": told[0]["id"], "accept": "application/x-ndjson"}
    async with asked(here.app, "/events", headers) as connection:
        await connection.start()
        assert connection.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line)["id"] for line in (await connection.take()).splitlines()] == [
            event["id"] for event in told[1:]
        ]


@pytest.mark.parametrize("last", ["another-1", "", "nonsense\x00", "{epoch}-99", "{epoch}--1", "{epoch}-1e3"])
async def test_an_id_of_nobody_knows_what_is_missed_and_begins_anew(here: Served, last: str) -> None:
    """Of another start of the sidecar, of the future, or of a liar."""
    epoch = here.sidecar.events.memory.id_of(0).partition("-")[0]
    async with asked(here.app, "/events", {"last-event-id": last.format(epoch=epoch)}) as connection:
        await connection.start()
        missed, status = await connection.events()
        assert (missed["type"], missed["count"], status["type"]) == ("missed", None, "status")
        assert "id" not in missed


async def test_who_is_too_slow_is_told_how_many_it_missed(node: SimulatedNode) -> None:
    """Nothing is kept for it but its number; then it knows what is true, and goes on from there."""
    async with served(node, Options(kept=4)) as here, asked(here.app, "/events") as connection:
        await opened(connection)
        await committed(here, 1)  # on its way, and not taken
        await until(lambda: connection.messages.statistics().tasks_waiting_send)
        await committed(here, 9)
        (tx,) = await connection.events()
        missed, status = await connection.events()
        assert (tx["type"], missed["type"], missed["count"]) == ("tx", "missed", 9)
        assert status["positions"]["app.db"]["position"] == str(node.position())
        position = node.commit()
        (tx,) = await connection.events()
        assert tx["position"] == str(position)


async def test_a_batch_is_bounded(here: Served) -> None:
    """What is on its way to a slow one is not all that there is."""
    async with asked(here.app, "/events") as connection:
        await opened(connection)
        await committed(here, 1)
        await until(lambda: connection.messages.statistics().tasks_waiting_send)
        await committed(here, BATCH + 1)
        assert [len(await connection.events()) for _ in range(3)] == [1, BATCH, 1]


@pytest.mark.parametrize(("accept", "said"), [("*/*", b": still here\n\n"), ("application/x-ndjson", b'{"type":"alive"}\n')])
async def test_a_silent_stream_says_that_it_lives(
    here: Served, monkeypatch: pytest.MonkeyPatch, accept: str, said: bytes
) -> None:
    """Proxies, and clients whose network is gone, take silence for an end."""
    monkeypatch.setattr(streams, "ALIVE", 0.01)
    async with asked(here.app, "/events", {"accept": accept}) as connection:
        await connection.start()
        await connection.take()
        assert await connection.take() == said


async def test_the_end_is_an_event(here: Served) -> None:
    """The last; and the answer is whole."""
    async with asked(here.app, "/events") as connection:
        await opened(connection)
        await here.watcher.stop()
        (last,) = await connection.events()
        assert last["type"] == "closing"
        await connection.ended()


async def test_one_that_does_not_read_is_cut_off_at_the_end(here: Served) -> None:
    """It would keep the sidecar from ending."""
    async with asked(here.app, "/events") as connection:
        await opened(connection)
        await here.watcher.stop()
        await connection.ended()
        assert here.sidecar.subscribers.taken == 0


async def test_only_so_many_follow(node: SimulatedNode) -> None:
    """The next is told to come back, and finds a place when one has left."""
    async with served(node, Options(max_subscribers=1)) as small:
        async with asked(small.app, "/events") as connection:
            await opened(connection)
            full = await small.ask("/events")
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            connection.leave()
            await connection.ended()
        async with asked(small.app, "/events") as connection:
            assert (await opened(connection))["type"] == "status"


async def test_the_events_of_a_fault_end(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be told ends the streams, and so the sidecar: it is loud, and started anew."""

    def fail(change: object) -> None:
        raise OSError("of a test")

    async with asked(here.app, "/events") as connection:
        await opened(connection)
        monkeypatch.setattr("litefs_watch.serve.events.change_record", fail)
        here.node.commit()
        (last,) = await connection.events()
        assert last["type"] == "closing"
    assert here.sidecar.events.ended.is_set()
