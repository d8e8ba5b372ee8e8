"""Late commits where other requests write at the same time, and move the position that all of them look at."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from litefs_watch import Position, Role
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, Reply, call
from tests.asgi.test_late import BODY, LONG, START, hear, token_of


class Told(list[Message]):
    """What is sent; it can be waited for."""

    def __init__(self) -> None:
        self.whole = anyio.Event()

    def append(self, message: Message) -> None:
        super().append(message)
        if message is BODY:
            self.whole.set()


class Crowd:
    """An application in which another write is under way, and commits, while each request to ``/orders`` runs."""

    def __init__(self, after: Callable[[], Awaitable[object]] | None = None, **options: Any) -> None:
        """``after``: what the application does when it has sent its response."""
        self.watcher = FakeWatcher()
        self.after = after
        self.sent: Told = Told()
        self.sent_meanwhile = -1
        self.reply = Reply()
        self.middleware = LiteFSMiddleware(self.serve, self.watcher.watcher, **{"late_commits": LONG, **options})
        self._over = anyio.Event()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await self._over.wait()
            return
        self.watcher.commit()  # the other one's, or its own
        await self.respond(send)
        self.sent_meanwhile = len(self.sent)
        if self.after is not None:
            await self.after()

    async def respond(self, send: Send) -> None:
        await send(START)
        await send(BODY)

    async def write(self) -> str | None:
        """One, beside the other. Its token."""
        self.sent, self.reply, self._over = Told(), Reply(), anyio.Event()
        self.reply.messages = self.sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, self.middleware, "POST", "/other")
            await anyio.wait_all_tasks_blocked()
            try:
                await call(self.middleware, "POST", "/orders", reply=self.reply)
            finally:
                self._over.set()
        hear(self.watcher)
        return token_of(self.reply)


async def test_another_one_s_commit_is_not_taken_for_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """The position has moved when the response starts, and the commit is still to come: it is waited for."""

    async def commit() -> None:
        crowd.watcher.commit()

    crowd = Crowd(commit)
    assert await crowd.write() == str(Position(12, 2))
    assert crowd.sent_meanwhile == 0
    assert (crowd.reply.status, crowd.reply.body) == (201, b"done")
    assert caplog.messages == []  # whose commit that was is not known, and need not be


async def test_who_commits_before_its_response_is_held_until_that_is_known() -> None:
    """Once it was seen three times, alone, its response goes at once, whoever else writes."""
    crowd = Crowd()
    for _ in range(3):
        await crowd.write()
        assert crowd.sent_meanwhile == 0
        await call(crowd.middleware, "POST", "/orders")
        hear(crowd.watcher)
    assert await crowd.write() == str(Position(17, 2))
    assert crowd.sent_meanwhile == 2


@pytest.mark.parametrize("late_commits", [0.01, 0])
async def test_what_goes_before_its_application_returns_is_pinned(late_commits: float) -> None:
    """The time is up, or none is given: its commit may still come."""

    async def commit() -> None:
        await crowd.sent.whole.wait()
        crowd.watcher.commit()

    crowd = Crowd(commit, late_commits=late_commits)
    assert await crowd.write() == "pin"


async def test_a_stream_is_pinned_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never held, and another one's commit is not taken for its own."""
    crowd = Crowd()

    async def respond(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        crowd.sent_meanwhile = len(crowd.sent)
        crowd.watcher.commit()
        await send({"type": "http.response.body", "body": b"y"})

    monkeypatch.setattr(crowd, "respond", respond)
    assert await crowd.write() == "pin"
    assert crowd.reply.body == b"xy"


async def test_a_commit_that_is_refused_is_no_success() -> None:
    """Others have committed meanwhile, and so may this one have: it is not sent on."""

    async def refused() -> None:
        crowd.watcher.become(Role.REPLICA, "node-b")
        raise sqlite3.OperationalError("attempt to write a readonly database")

    crowd = Crowd(refused)
    with pytest.raises(ExceptionGroup) as raised:
        await crowd.write()
    assert raised.group_contains(sqlite3.OperationalError)
    assert (crowd.reply.status, crowd.reply.header("litefs-committed")) == (500, f"{11:016x}")
