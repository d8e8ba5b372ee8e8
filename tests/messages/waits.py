"""What is said of calls of a watcher: waits that end in vain, what a node is not, what was stopped, what can't be meant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from litefs_watch import BlockingWatcher, Position, Settings, Watcher
from litefs_watch.litefs_js import handle_transactional_consistency
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.messages.provoking import Case, Provoke, case

GONE = Position(50, 1 << 63)
SOON = 10.0


def watching(
    call: Callable[[Watcher], Awaitable[Any]], *, settings: Settings | None = None, **node: Any
) -> Callable[[], Awaitable[Any]]:
    """A call, with the watcher of a simulated node that was made so."""

    async def provoke() -> object:
        with SimulatedNode(**node) as made:
            async with Watcher(settings or made.settings()) as watcher:
                return await call(watcher)

    return provoke


def at_once(call: Callable[[Watcher], Any], **node: Any) -> Callable[[], Awaitable[Any]]:
    async def called(watcher: Watcher) -> None:
        call(watcher)

    return watching(called, **node)


async def no_callback(change: object) -> None:
    """One that nobody would await."""


async def stopped_amid(watcher: Watcher) -> None:
    async with anyio.create_task_group() as tasks:

        async def stop() -> None:
            await anyio.wait_all_tasks_blocked()
            await watcher.stop()

        tasks.start_soon(stop)
        await watcher.wait_for_tx(50)


async def from_a_thread(watcher: Watcher) -> None:
    await anyio.to_thread.run_sync(watcher.changes)


async def from_another_loop(watcher: Watcher) -> None:
    await anyio.to_thread.run_sync(partial(anyio.run, partial(watcher.wait_for_tx, 50, timeout=0)))


async def no_change(watcher: Watcher) -> None:
    with watcher.changes() as changes:
        await changes.take(0.01)


async def closed_changes(watcher: Watcher) -> None:
    await watcher.stop()
    watcher.changes()


async def stopped_amid_a_read(watcher: Watcher) -> None:
    async def frozen(*_: object) -> None:
        await anyio.sleep_forever()

    async def stop() -> None:
        await anyio.wait_all_tasks_blocked()
        await watcher.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.sources.reread.Reread._look", frozen)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            await watcher.read_position()


def stopped_in_threads() -> None:
    with BlockingWatcher(Settings(standalone=True)) as watcher:
        pass
    watcher.wait_for_tx(5)


async def lost(watcher: Watcher) -> None:
    await watcher.wait_for_tx(GONE, timeout=SOON)


async def replaced() -> None:
    """A fail-over to a primary whose history has gone on past what is waited for."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(node.settings()) as watcher:
            await watcher.wait_for_role("replica", timeout=SOON)
            async with watcher.changes() as changes:
                node.set_primary("node-c")
                while watcher.primary != "node-c":
                    await changes.take(SOON)
            node.commit(txid=GONE.txid + 2)
            await watcher.wait_for_tx(GONE, timeout=SOON)


async def no_job(watcher: Watcher) -> None:
    await watcher.while_primary(5)  # type: ignore[arg-type]


def in_threads(watcher: BlockingWatcher) -> None:
    async def job() -> None: ...

    watcher.while_primary(job)  # type: ignore[arg-type]


def blocking(call: Callable[[BlockingWatcher], Any]) -> Provoke:
    def provoke() -> None:
        with BlockingWatcher(Settings(standalone=True)) as watcher:
            call(watcher)

    return provoke


def without_a_primary(call: Callable[[Watcher], Any]) -> Callable[[], Awaitable[Any]]:
    async def provoke() -> None:
        with SimulatedNode() as node:
            node.lose_primary()
            async with Watcher(node.settings()) as watcher:
                if (waiting := call(watcher)) is not None:
                    await waiting

    return provoke


async def handle_cookie(watcher: Watcher) -> None:
    request = {"type": "http", "method": "GET", "headers": [(b"cookie", b"txnum=50")]}
    await handle_transactional_consistency(request, timeout=0, watcher=watcher)


async def nothing_listens() -> None:
    """LiteFS is down: why nothing is known stands in brackets."""
    async with Watcher(Settings("/nowhere", "app.db", api_url="http://127.0.0.1:1")) as watcher:
        await watcher.wait_for_primary(timeout=0)


async def replicas_in_vain() -> None:
    with SimulatedCluster(2, fuse=False) as cluster:
        peers = [node.api_url for node in cluster]
        async with Watcher(cluster.primary.settings(peers=peers)) as watcher:
            await watcher.wait_for_replicas(GONE, timeout=0)


CASES: list[Case] = [
    case(watching(lambda watcher: watcher.wait_for_tx(50, timeout=0)), "transaction 50", "app.db", "0 s"),
    case(watching(lambda watcher: watcher.wait_for_tx(50, database="ap.db", timeout=0)), "ap.db", "'app.db'"),
    case(watching(lambda watcher: watcher.wait_for_tx(50, database="app.db", timeout=0), databases=()), "app.db"),
    case(watching(lambda watcher: watcher.wait_for_tx(GONE, timeout=0), primary="node-b"), str(GONE), "node-b"),
    case(watching(lambda watcher: watcher.wait_for_role("replica", timeout=0)), "replica"),
    case(nothing_listens, "127.0.0.1:1"),
    case(without_a_primary(lambda watcher: watcher.wait_for_primary(timeout=0))),
    case(watching(lost), str(GONE), "app.db"),
    case(replaced, str(GONE), "app.db", "ask the primary"),
    case(watching(lambda watcher: watcher.wait_for_tx("7"))),  # type: ignore[arg-type]
    case(watching(lambda watcher: watcher.wait_for_tx(5, timeout=float("nan")))),
    case(at_once(lambda watcher: watcher.ensure_primary(), primary="node-b"), "'node-b'"),
    case(at_once(lambda watcher: watcher.ensure_primary(), primary=""), "lease.hostname"),
    case(without_a_primary(lambda watcher: watcher.ensure_primary())),
    case(without_a_primary(handle_cookie)),
    case(at_once(lambda watcher: watcher.ensure_instance("node-z")), "'node-z'"),
    case(watching(stopped_amid), "transaction 50 of app.db"),
    case(watching(no_change), "0.01 s"),
    case(watching(closed_changes)),
    case(watching(stopped_amid_a_read)),
    case(stopped_in_threads),
    case(partial(Watcher(Settings("/nowhere", "app.db")).wait_for_tx, 5)),
    case(watching(from_a_thread), "BlockingWatcher"),
    case(watching(from_another_loop), "another event loop"),
    case(watching(no_job), "while_primary"),
    case(blocking(in_threads), "while_primary"),
    case(at_once(lambda watcher: watcher.on_primary_change(no_callback)), "on_primary_change"),
    case(watching(lambda watcher: watcher.wait_for_replicas(GONE, timeout=0)), "LITEFS_PEERS"),
    case(watching(lambda watcher: watcher.wait_for_replicas("50", timeout=0)), "'50'"),  # type: ignore[arg-type]
    case(watching(lambda watcher: watcher.wait_for_replicas(GONE, 0, timeout=0)), "'0'"),
    case(replicas_in_vain, str(GONE), "http://127.0.0.1:"),
]
