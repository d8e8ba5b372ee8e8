"""What the integrations have in common: what a message carries, and what becomes of a job that arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from litefs_watch import BlockingWatcher, ConfigError, Position, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.errors import HaltError, NotPrimary
from litefs_watch.jobs import acurrent_token, current_token, guard
from litefs_watch.jobs.arrival import Arriving, Rules
from litefs_watch.jobs.guard import Guard, JobOptions, pause
from litefs_watch.jobs.tokens import NOTHING, encode, pack
from litefs_watch.testing import SimulatedCluster
from litefs_watch.watchers.bridge import AwaitableWatcher

BEHIND = "00000000000000ff/00000000000000ff"
WRITES = {"litefs_writes": True}


def of(cluster: SimulatedCluster, hostname: str = "node-a") -> str:
    """What a message from that node carries."""
    return f"{cluster[hostname].position()}@app.db"


# Options.


@pytest.mark.parametrize(
    "options",
    [
        {"databases": "app.db"},
        {"databases": ["a/b"]},
        {"secret": ""},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"timeout": True},
        {"on_timeout": "replay"},
        {"on_replica": None},
    ],
)
def test_what_can_t_work_is_said_at_once(options: JobOptions) -> None:
    """By a `ConfigError` that names it."""
    with pytest.raises(ConfigError, match=next(iter(options)) if "a/b" not in str(options) else "database"):
        Guard(BlockingWatcher(Settings(standalone=True)), **options)


def test_without_a_watcher_and_without_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said where the queue is set up, not with the first task."""
    monkeypatch.delenv("LITEFS_DIR", raising=False)
    monkeypatch.delenv("LITEFS_STANDALONE", raising=False)
    with pytest.raises(ConfigError, match="LITEFS_DIR"):
        Guard()


def test_a_task_s_own_options_count_more(cluster: SimulatedCluster) -> None:
    """A misspelt one fails the task, and names the one that is meant."""
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Guard(watcher, timeout=10.0, on_timeout="fail", on_replica="fail")
        assert queue.arrive(f"{BEHIND}@app.db", {"litefs_timeout": 0, "litefs_on_timeout": "run"}).what == "run"
        assert queue.arrive(None, WRITES | {"litefs_on_replica": "requeue"}).what == "requeue"
        assert queue.arrive(None, WRITES).what == "fail"
        arrival = queue.arrive(None, {"litefs_write": True})
        assert (arrival.what, str(arrival.error)) == ("fail", "there is no litefs_write; did you mean 'litefs_writes'?")


# Sending.


def test_a_message_carries_where_its_sender_is(cluster: SimulatedCluster) -> None:
    """With the watcher that is given, that a function gives, or that the application runs already."""
    settings = cluster.primary.settings()
    with BlockingWatcher(settings) as watcher:
        other = BlockingWatcher(settings)
        for each in (watcher, AwaitableWatcher(watcher), lambda: watcher, other):
            cluster.execute("INSERT INTO t VALUES (NULL)")
            assert Guard(each).carry() == of(cluster)
        assert not other.running


def test_of_several_databases_each(cluster: SimulatedCluster) -> None:
    """Signed, where there is a secret, each for its database."""
    cluster.create_database("users.db")
    with BlockingWatcher(cluster.primary.settings()) as watcher:
        carried = Guard(watcher, databases=["app.db", "users.db"], secret=["new", "old"]).carry()
        assert carried == pack(
            {name: encode(cluster.primary.position(name), name, (b"new", b"old")) for name in ("app.db", "users.db")}
        )
        limits = {"litefs_timeout": 10, "litefs_on_timeout": "fail"}
        assert Guard(watcher, secret="new").arrive(carried, limits).what == "run"
        assert Guard(watcher, secret="other").arrive(carried, limits).what == "fail"
        assert Guard(watcher).arrive(carried, limits).what == "fail"


@pytest.mark.parametrize(
    ("carried", "sent"),
    [
        (f"{BEHIND}@app.db", f"{BEHIND}@app.db"),
        ("0000000000000001/0000000000000001@app.db", None),
        ("pin@app.db", None),
        ("1@other.db", "1@other.db "),
        ("untold", "untold"),
        ("forged@app.db", "forged@app.db"),
    ],
)
async def test_what_a_message_carries_never_goes_back(cluster: SimulatedCluster, carried: str, sent: str | None) -> None:
    """A retry's, or one that its sender has put there; what is no token is its worker's to refuse."""
    position = of(cluster)
    expected = position if sent is None else sent + position if sent.endswith(" ") else sent
    async with Watcher(cluster.primary.settings()) as watcher:
        queue = Guard(watcher)
        assert await queue.carry_async(carried) == expected
        assert await anyio.to_thread.run_sync(queue.carry, carried) == expected


def test_what_can_t_be_told_is_pinned(cluster: SimulatedCluster, caplog: pytest.LogCaptureFixture) -> None:
    """A message is never sent as if it had nothing to wait for."""
    watcher = BlockingWatcher(cluster.primary.settings())
    queue = Guard(watcher)
    watcher.stop()
    assert queue.carry() == "pin@app.db"
    assert anyio.run(queue.carry_async) == "pin@app.db"

    def fails() -> BlockingWatcher:
        raise OSError("no watcher")

    assert Guard(fails).carry_or_say() == "untold"
    assert "it will fail" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio's is watched for blocking calls, and this is one
async def test_a_blocking_call_in_an_event_loop_reads_in_another_thread(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``task.delay()`` in an ``async def`` endpoint; for no longer than shortly, then it is pinned."""
    async with Watcher(cluster.primary.settings()) as watcher:
        cluster.execute("INSERT INTO t VALUES (NULL)")
        assert Guard(watcher).carry() == of(cluster)
        monkeypatch.setattr(guard, "LOOP_LIMIT", 0.01)
        frozen = threading.Event()
        monkeypatch.setattr(guard, "token_of", lambda *_: frozen.wait(10) and NOTHING)
        assert Guard(watcher).carry() == "pin@app.db"
        frozen.set()


@pytest.mark.parametrize("signed", [None, "secret"])
def test_in_a_request_it_is_the_middleware_s_watcher(cluster: SimulatedCluster, signed: str | None) -> None:
    """And its secret, where the queue has none of its own; no second watcher is started for that node."""
    watcher, own = Watcher(cluster.primary.settings()), BlockingWatcher(cluster.primary.settings(idle_interval=0.9))
    queue = Guard(own)
    app = FastAPI(lifespan=watcher.lifespan)
    app.add_middleware(LiteFSMiddleware, watcher=watcher, secret=signed)

    @app.post("/")
    def post() -> str:
        cluster.execute("INSERT INTO t VALUES (NULL)")
        return queue.carry()

    with TestClient(app, base_url="https://testserver") as client:
        response = client.post("/")
        assert response.json() == f"{response.headers['litefs-txid']}@app.db"
        assert not own.running


# Arriving.


def down(cluster: SimulatedCluster) -> Settings:
    cluster["node-b"].stop()
    return cluster["node-b"].settings(start_timeout=0.05)


def primary(cluster: SimulatedCluster) -> Settings:
    return cluster.primary.settings()


def replica(cluster: SimulatedCluster) -> Settings:
    return cluster["node-b"].settings()


Case = tuple[Callable[[SimulatedCluster], Settings], str | None, dict[str, Any], str, str | None]
CASES: list[Case] = [
    (replica, None, {}, "run", None),
    (primary, None, WRITES, "run", None),
    # What its message carries.
    (replica, f"{BEHIND}@app.db", {}, "retry", "WaitTimeout"),
    (replica, f"{BEHIND}@app.db", {"litefs_on_timeout": "run"}, "run", "WaitTimeout"),
    (replica, f"{BEHIND}@app.db", {"litefs_on_timeout": "fail"}, "fail", "WaitTimeout"),
    (replica, "pin@app.db", {}, "retry", "WaitTimeout"),
    (primary, "pin@app.db", {}, "run", None),
    (replica, f"{BEHIND}@apq.db", {}, "retry", "WaitTimeout"),
    (replica, "0000000000000001/0000000000000001@app.db", {}, "run", None),
    (replica, "forged@app.db", {"litefs_on_timeout": "run"}, "fail", "TokenError"),
    (replica, f"{BEHIND}.AAAAAAAAAAAAAAAAAAAAAA@app.db", {}, "fail", "TokenError"),
    (replica, "untold", {}, "fail", "TokenError"),
    (primary, f"{BEHIND}@app.db", {"litefs_timeout": 10.0}, "fail", "TransactionLost"),
    (primary, f"{BEHIND}@app.db", {"litefs_timeout": 10.0, "litefs_on_timeout": "run"}, "run", "TransactionLost"),
    (down, f"{BEHIND}@app.db", {}, "retry", "WaitTimeout"),
    (down, f"{BEHIND}@app.db", {"litefs_on_timeout": "run"}, "run", "WaitTimeout"),
    # What it writes.
    (replica, None, WRITES, "requeue", "NotPrimary"),
    (replica, f"{BEHIND}@app.db", WRITES | {"litefs_timeout": 10.0}, "requeue", "NotPrimary"),
    (replica, None, WRITES | {"litefs_on_replica": "fail"}, "fail", "NotPrimary"),
    (replica, None, WRITES | {"litefs_on_replica": "halt"}, "run", None),
    (replica, f"{BEHIND}@app.db", WRITES | {"litefs_on_replica": "halt"}, "retry", "WaitTimeout"),
    (replica, "pin@app.db", WRITES | {"litefs_on_replica": "halt"}, "run", None),
    (replica, "pin@apq.db", WRITES | {"litefs_on_replica": "halt"}, "retry", "WaitTimeout"),
    (down, None, WRITES, "requeue", "WaitTimeout"),
    (down, None, WRITES | {"litefs_on_replica": "fail"}, "fail", "WaitTimeout"),
    (down, None, WRITES | {"litefs_on_replica": "halt"}, "retry", "WaitTimeout"),
]


@pytest.mark.parametrize(("node", "carried", "given", "what", "error"), CASES)
def test_what_becomes_of_a_job(
    cluster: SimulatedCluster,
    node: Callable[[SimulatedCluster], Settings],
    carried: str | None,
    given: dict[str, Any],
    what: str,
    error: str | None,
) -> None:
    """In a thread and in an event loop the same."""
    cluster.execute("INSERT INTO t VALUES (NULL)")
    cluster.wait_until_replicated()
    with BlockingWatcher(node(cluster)) as watcher:
        queue = Guard(watcher, timeout=0.02)
        for arrival in (queue.arrive(carried, given), anyio.run(queue.arrive_async, carried, given)):
            assert (arrival.what, type(arrival.error).__name__) == (what, error or "NoneType")
            assert (arrival.halting is not None) == (what == "run" and given.get("litefs_on_replica") == "halt")
        assert watcher.statistics().waiters == 0


def test_a_watcher_that_is_stopped(cluster: SimulatedCluster) -> None:
    """Is as LiteFS that is down."""
    watcher = BlockingWatcher(cluster["node-b"].settings())
    queue = Guard(watcher)
    watcher.stop()
    assert queue.arrive(None, {}).what == "retry"
    assert queue.arrive(None, {"litefs_on_timeout": "run"}).what == "run"


def test_one_that_writes_waits_for_a_primary(cluster: SimulatedCluster) -> None:
    """A fail-over does not send every job round in circles."""
    cluster["node-b"].lose_primary()
    with BlockingWatcher(cluster["node-b"].settings(settle=0.001)) as watcher:
        watcher.wait_for_role("unknown", timeout=10)
        with ThreadPoolExecutor(1) as threads:
            arriving = threads.submit(Guard(watcher, timeout=10.0).arrive, None, WRITES)
            while not watcher.statistics().waiters and not arriving.done():
                time.sleep(0)
            cluster.hand_over("node-b", seconds=0.0)
            assert arriving.result(10).what == "run"


def test_who_loses_the_role_while_it_waits_does_not_run(cluster: SimulatedCluster) -> None:
    """For its token, on what was the primary: which a fail-over has lost then, or which comes after it."""
    with BlockingWatcher(cluster["node-b"].settings(settle=0.001)) as watcher:
        cluster.pause_replication()
        cluster.execute("INSERT INTO t VALUES (NULL)")
        carried = of(cluster)
        arriving = Arriving((), carried)
        arriving.begin(watcher, Rules(writes=True, on_replica="fail"))
        cluster.resume_replication()
        cluster.hand_over("node-b", seconds=0.0)
        watcher.wait_for_role("primary", timeout=10)
        waits = arriving.waits(watcher.run)
        assert next(waits)[0] == ""
        assert next(waits)[0] == "app.db"
        cluster.hand_over("node-a", seconds=0.0)
        watcher.wait_for_role("replica", timeout=10)
        with pytest.raises(NotPrimary):
            next(waits)


# Running.


def test_within_a_job_its_token_is_known(cluster: SimulatedCluster) -> None:
    """What it sends in turn is not behind what it was sent with, though it ran all the same; afterwards it is forgotten."""
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Guard(watcher, secret="secret", timeout=0.0, on_timeout="run")
        sent = encode(Position(255, 255), "app.db", (b"secret",))
        arrival = queue.arrive(f"{sent}@app.db", {})
        with queue.doing(arrival):
            assert queue.carry() == f"{sent}@app.db"
            assert current_token() == sent

        async def within() -> None:
            async with queue.doing_async(arrival):
                assert await queue.carry_async() == f"{sent}@app.db"
                assert await acurrent_token() == sent

        anyio.run(within)
        assert current_token() == str(cluster["node-b"].position())


def test_what_is_lost_is_not_handed_on(cluster: SimulatedCluster) -> None:
    """Nobody is to wait for it again."""
    with BlockingWatcher(cluster.primary.settings()) as watcher:
        queue = Guard(watcher, timeout=10.0, on_timeout="run")
        with queue.doing(queue.arrive(f"{BEHIND}@app.db", {})):
            assert queue.carry() == of(cluster)


def test_the_halt_lock_is_of_the_node_and_its_database(cluster: SimulatedCluster) -> None:
    """Where there is none to be had, the job fails with an error that says so; of several databases none is meant."""
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Guard(watcher, on_replica="halt")
        arrival = queue.arrive(None, WRITES)

        async def halted() -> None:
            async with queue.doing_async(arrival):
                pytest.fail("there is no lock here")

        with pytest.raises(HaltError, match="is not a mount"), queue.doing(arrival):
            pytest.fail("there is no lock here")
        with pytest.raises(HaltError, match="is not a mount"):
            anyio.run(halted)
        with pytest.raises(ConfigError, match="for one database"), Guard(watcher, databases=["app.db", "b"]).doing(arrival):
            pytest.fail("which one?")


def test_pauses_grow_and_end(cluster: SimulatedCluster) -> None:
    """However often a job is sent back; and no two are alike, or workers stay in step."""
    for times, longest in ((0, 0.1), (1, 0.2), (2, 0.4), (9, 1.0), (10_000, 1.0)):
        pauses = [pause(times) for _ in range(100)]
        assert 0.1 <= min(pauses) <= max(pauses) <= longest
        assert max(pauses) - min(pauses) >= (longest - 0.1) / 2
