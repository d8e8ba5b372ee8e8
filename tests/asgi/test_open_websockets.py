"""WebSockets that are open on a node which ceases to be the primary: they are closed with 1012, and their handlers told."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from litefs_watch import ConfigError, Role
from litefs_watch.asgi import LiteFSMiddleware, open_websockets
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, replica
from tests.asgi.websocket_clients import LONG, SOON, Client, Echo, around, client, echoes, ends


async def test_they_are_closed_with_1012_where_another_primary_is_named() -> None:
    """At once, however long the grace; and nothing is left behind."""
    watcher, echo = FakeWatcher(), Echo()
    async with client(around(echo, watcher)) as one:
        watcher.become(Role.REPLICA, "node-b")
        assert await one.hear() == "1012"
        await ends(one)
    assert (echo.told, one.error, one.unheard, watcher.callbacks) == ([1012], None, 0, [])


@pytest.mark.parametrize(
    ("options", "path", "closed"),
    [
        ({}, "/live", True),
        ({}, "/feed", False),
        ({"close_websockets": "all"}, "/feed", True),
        ({"close_websockets": "none"}, "/live", False),
        ({"close_websockets": "all", "passthrough_paths": ["/feed"]}, "/feed", False),
        ({"close_websockets": "all", "monotonic": True}, "/feed", True),
        ({"close_websockets": "all", "databases": ["app.db", "more.db"]}, "/feed", True),
        ({"databases": ["app.db", "more.db"]}, "/live", True),
    ],
)
async def test_which_ones(options: dict[str, Any], path: str, closed: bool) -> None:
    """Those whose path only the primary takes; all; or none."""
    watcher = FakeWatcher()
    async with client(around(Echo(), watcher, **options), path) as one:
        watcher.become(Role.REPLICA, "node-b")
        if closed:
            assert await one.hear() == "1012"
        else:
            await anyio.wait_all_tasks_blocked()
            await echoes(one)
            assert watcher.callbacks == []


async def test_those_of_a_replica_stay() -> None:
    """Whatever becomes of it: they never were on the primary."""
    watcher = replica()
    async with client(around(Echo(), watcher, close_websockets="all", websocket_grace=0), "/feed") as one:
        for role, primary in ((Role.UNKNOWN, None), (Role.PRIMARY, None), (Role.REPLICA, "node-c")):
            watcher.become(role, primary)
            await anyio.wait_all_tasks_blocked()
            await echoes(one)


async def test_unknown_for_a_moment_closes_none() -> None:
    """LiteFS was restarted, or a hand-over broken off: it is the primary again within the grace, more than once."""
    watcher = FakeWatcher()
    async with client(around(Echo(), watcher)) as one:
        for _ in range(3):
            watcher.become(Role.UNKNOWN)
            await anyio.wait_all_tasks_blocked()
            await echoes(one)
            watcher.become(Role.PRIMARY)
            await echoes(one)
        watcher.become(Role.UNKNOWN)
        watcher.become(Role.REPLICA, "node-b")
        assert await one.hear() == "1012"


async def test_there_and_back_in_one_step_closes_none() -> None:
    """What is true when it is looked at counts."""
    watcher = FakeWatcher()
    async with client(around(Echo(), watcher)) as one:
        for role, primary in ((Role.UNKNOWN, None), (Role.REPLICA, "node-b"), (Role.UNKNOWN, None), (Role.PRIMARY, None)):
            watcher.become(role, primary)
        await anyio.wait_all_tasks_blocked()
        await echoes(one)


async def test_after_the_grace_they_are_closed() -> None:
    """Though no other primary is known: there is none here."""
    watcher = FakeWatcher()
    async with client(around(Echo(), watcher, websocket_grace=0.01)) as one:
        watcher.become(Role.UNKNOWN)
        assert await one.hear() == "1012"


async def test_whoever_is_the_primary_again_in_that_very_moment_keeps_them() -> None:
    """Nobody has said so yet, and the grace is over."""
    watcher = FakeWatcher()
    middleware = around(Echo(), watcher, websocket_grace=0.01)
    async with client(middleware) as one:
        watcher.become(Role.UNKNOWN)
        (loop,) = middleware._websockets._loops.values()
        with anyio.fail_after(SOON):
            while loop._waiting is None:
                await anyio.lowlevel.checkpoint()
            watcher.role = Role.PRIMARY
            while loop._waiting is not None:  # noqa: ASYNC110 - of this process's own state
                await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        await echoes(one)


async def test_the_grace_begins_anew() -> None:
    """The time of one interruption does not count for the next."""
    watcher = FakeWatcher()
    middleware = around(Echo(), watcher)
    async with client(middleware) as one:
        watcher.become(Role.UNKNOWN)
        await anyio.wait_all_tasks_blocked()
        (loop,) = middleware._websockets._loops.values()
        first = loop._waiting
        watcher.become(Role.PRIMARY)
        watcher.become(Role.UNKNOWN)
        await anyio.wait_all_tasks_blocked()
        watcher.become(Role.PRIMARY)
        await anyio.wait_all_tasks_blocked()
        assert loop._waiting is None
        watcher.become(Role.UNKNOWN)
        await anyio.wait_all_tasks_blocked()
        assert loop._waiting not in (None, first)
        await echoes(one)


async def test_one_that_is_accepted_too_late_is_closed_then() -> None:
    """It was let in on the primary; while it was accepted, that ceased to be one."""
    watcher, accepting, go_on = FakeWatcher(), anyio.Event(), anyio.Event()

    async def slowly(message: Message) -> None:
        if message["type"] == "websocket.accept":
            accepting.set()
            await go_on.wait()

    async with client(around(Echo(), watcher), opened=False) as one:
        one.sending = slowly
        with anyio.fail_after(SOON):
            await accepting.wait()
        watcher.become(Role.REPLICA, "node-b")
        await anyio.wait_all_tasks_blocked()
        assert one.unheard == 0
        go_on.set()
        assert [await one.hear(), await one.hear()] == ["websocket.accept", "1012"]
        await ends(one)


async def test_a_handler_that_only_sends_is_told_by_the_error() -> None:
    """An `OSError`, as for a client that has left. It goes into no log; no more does what Starlette makes of it."""
    watcher = FakeWatcher()

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await anyio.lowlevel.checkpoint()

    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("tick")
            await anyio.lowlevel.checkpoint()

    for app in (raw, Starlette(routes=[WebSocketRoute("/live", live)])):
        watcher.become(Role.PRIMARY)
        async with client(around(app, watcher), opened=False) as one:
            assert [await one.hear(), await one.hear()] == ["websocket.accept", "tick"]
            watcher.become(Role.REPLICA, "node-b")
            heard = "tick"
            while heard == "tick":
                heard = await one.hear()
            assert heard == "1012"
            await ends(one)
        assert (one.error, one.unheard) == (None, 0)


async def test_a_handler_that_heeds_nothing_harms_nobody() -> None:
    """It sends and receives on, and on: nothing reaches the client, others have their turn, and closing is nothing."""
    watcher, stop, quiet, failed = FakeWatcher(), anyio.Event(), anyio.Event(), 0

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal failed
        await send({"type": "websocket.accept"})
        while not stop.is_set():
            try:
                await send({"type": "websocket.send", "text": "tick"})
                await anyio.lowlevel.checkpoint()
            except OSError:
                failed += 1
        await send({"type": "websocket.close", "code": 1000})
        quiet.set()

    async with client(around(deaf, watcher), opened=False) as one:
        assert await one.hear() == "websocket.accept"
        watcher.become(Role.REPLICA, "node-b")
        with anyio.fail_after(SOON):
            while failed < 100:
                await anyio.lowlevel.checkpoint()
        stop.set()
        await ends(one)
        heard = [await one.hear() for _ in range(one.unheard)]
    assert (heard[-1], heard.count("1012"), one.error, quiet.is_set()) == ("1012", 1, None, True)


async def test_receiving_on_is_the_server_s_matter() -> None:
    """It is told once; whoever asks again waits for what the server has, and does not spin."""
    watcher = FakeWatcher()
    told: list[Message] = []

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while len(told) < 4:
            told.append(await receive())

    async with client(around(deaf, watcher), opened=False) as one:
        assert await one.hear() == "websocket.accept"
        watcher.become(Role.REPLICA, "node-b")
        await anyio.wait_all_tasks_blocked()
        assert [each.get("code") for each in told] == [None, 1012]
        one.leave()
        await anyio.wait_all_tasks_blocked()
        assert [each.get("code") for each in told] == [None, 1012, 1001]


async def test_whose_client_has_left_is_not_closed() -> None:
    """While its handler tidies up; nor is one that the handler has closed."""
    watcher, tidy = FakeWatcher(), anyio.Event()

    async def tidies(scope: Scope, receive: Receive, send: Send) -> None:
        await Echo()(scope, receive, send)
        await tidy.wait()

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})
        await tidy.wait()

    async with client(around(tidies, watcher)) as one, client(around(closes, watcher), opened=False) as other:
        assert [await other.hear(), await other.hear()] == ["websocket.accept", "4000"]
        one.leave()
        await anyio.wait_all_tasks_blocked()
        watcher.become(Role.REPLICA, "node-b")
        await anyio.wait_all_tasks_blocked()
        assert (one.unheard, other.unheard, watcher.callbacks) == (0, 0, [])
        tidy.set()
        await ends(one)


@pytest.mark.parametrize("refused", [(1012,), (1012, 4012)])
async def test_a_server_that_cannot_close_it(refused: tuple[int, ...]) -> None:
    """It knows other codes; or the client has left, or it is being stopped: the handler is told all the same, and the others
    are closed."""
    watcher, echo, unstuck = FakeWatcher(), Echo(), anyio.Event()
    middleware = around(echo, watcher)

    async def fails(message: Message) -> None:
        if message["code"] in refused:
            raise RuntimeError("Unexpected ASGI message 'websocket.close'")

    async def is_stuck(message: Message) -> None:
        await unstuck.wait()

    async with client(middleware) as one, client(middleware) as stuck, client(middleware) as other:
        one.sending, stuck.sending = fails, is_stuck
        watcher.become(Role.REPLICA, "node-b")
        assert await other.hear() == "1012"
        for each in (one, other):
            await ends(each)
        assert (echo.told, one.error, stuck.done.is_set()) == ([1012, 1012], None, False)
        assert [await one.hear() for _ in range(one.unheard)] == ([] if 4012 in refused else ["4012"])
        unstuck.set()
        await ends(stuck)


async def test_whose_handler_returns_meanwhile_has_the_code_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server would close it with another one, once the application has returned."""
    monkeypatch.setattr(open_websockets, "_LAST_WORD", LONG)
    watcher, closing, go_on, returned = FakeWatcher(), anyio.Event(), anyio.Event(), anyio.Event()

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await closing.wait()
        returned.set()

    async def slowly(message: Message) -> None:
        closing.set()
        await go_on.wait()

    async with client(around(returns, watcher), opened=False) as one:
        assert await one.hear() == "websocket.accept"
        one.sending = slowly
        watcher.become(Role.REPLICA, "node-b")
        await returned.wait()
        await anyio.wait_all_tasks_blocked()
        assert not one.done.is_set()
        go_on.set()
        await ends(one)
        assert await one.hear() == "1012"


async def test_hundreds_have_one_subscription() -> None:
    """And all are closed; it ends with the last of them."""
    watcher, echo = FakeWatcher(), Echo()
    middleware, many = around(echo, watcher), [Client(LiteFSMiddleware(echo, watcher.watcher)) for _ in range(300)]
    async with anyio.create_task_group() as tasks:
        for one in many:
            one._app = middleware
            tasks.start_soon(one.run)
        for one in many:
            assert await one.hear() == "websocket.accept"
        assert len(watcher.callbacks) == 1
        many[0].leave()
        await ends(many[0])
        watcher.become(Role.REPLICA, "node-b")
        for one in many[1:]:
            assert await one.hear() == "1012"
            await ends(one)
    for one in many:
        one.end()
    assert (echo.told, watcher.callbacks) == ([1001] + [1012] * 299, [])


async def test_a_stop_at_the_same_moment() -> None:
    """The handlers are cancelled while they are told: nothing hangs, and nothing is left."""
    watcher = FakeWatcher()
    middleware = around(Echo(), watcher)
    async with client(middleware), client(middleware):
        watcher.become(Role.REPLICA, "node-b")
    await anyio.wait_all_tasks_blocked()
    assert (watcher.callbacks, middleware._websockets._loops) == ([], {})


@pytest.mark.parametrize(
    ("option", "value"), [("close_websockets", "some"), ("close_websockets", True), ("websocket_grace", -1.0)]
)
def test_options_that_cannot_work(option: str, value: object) -> None:
    """Are refused where they are given."""
    with pytest.raises(ConfigError, match=option):
        around(Echo(), FakeWatcher(), **{option: value})
