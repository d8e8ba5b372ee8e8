"""litefs-js's calls, without a running watcher and with one, and each of its defects that concerns them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from starlette.datastructures import MutableHeaders

from litefs_watch import BlockingWatcher, ConfigError, NoPrimary, NotPrimary, Role, Watcher, WrongInstance
from litefs_watch.litefs_js import (
    Consistency,
    InstanceInfo,
    append_tx_number_cookie,
    check_cookie_for_transactional_consistency,
    ensure_instance,
    ensure_primary,
    get_instance_info,
    get_instance_info_sync,
    get_replay_response,
    get_tx_number,
    get_tx_set_cookie_header,
    handle_transactional_consistency,
    wait_for_up_to_date_tx_number,
)
from litefs_watch.testing import SimulatedNode

SOON = 10.0
BIG = 2**53 + 1


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNode]:
    """A node that the environment tells of, as on Fly."""
    with SimulatedNode() as node:
        monkeypatch.setenv("LITEFS_DIR", str(node.litefs_dir))
        monkeypatch.setenv("DATABASE_FILENAME", "app.db")
        monkeypatch.setenv("LITEFS_API_URL", node.api_url)
        monkeypatch.setenv("FLY_MACHINE_ID", node.hostname)
        yield node


@pytest.fixture(params=["none", "running"])
async def watcher(node: SimulatedNode, request: pytest.FixtureRequest) -> AsyncIterator[Watcher | None]:
    """Without a running watcher, and with the application's."""
    if request.param == "none":
        yield None
        return
    async with Watcher(node.settings()) as watcher:
        yield watcher


async def settled(watcher: Watcher | None, role: Role) -> None:
    if watcher is not None:
        await watcher.wait_for_role(role, timeout=SOON)


async def test_instance_info(node: SimulatedNode, watcher: Watcher | None) -> None:
    """Of the primary, and of a replica."""
    assert await get_instance_info(watcher=watcher) == InstanceInfo("node-a", "node-a", True)
    node.set_primary("node-b")
    await settled(watcher, Role.REPLICA)
    assert await get_instance_info(watcher=watcher) == InstanceInfo("node-b", "node-a", False)


async def test_during_a_fail_over_nobody_is_the_primary(node: SimulatedNode, watcher: Watcher | None) -> None:
    """litefs-js takes the absence of .primary for 'I am the primary', and writes locally."""
    node.lose_primary()
    await settled(watcher, Role.UNKNOWN)
    assert await get_instance_info(watcher=watcher) == InstanceInfo(None, "node-a", False)
    with pytest.raises(NoPrimary):
        await ensure_primary(watcher=watcher)


def test_instance_info_without_an_event_loop(node: SimulatedNode) -> None:
    """getInstanceInfoSync."""
    assert get_instance_info_sync() == InstanceInfo("node-a", "node-a", True)
    with BlockingWatcher(node.settings()) as watcher:
        assert get_instance_info_sync(watcher=watcher) == InstanceInfo("node-a", "node-a", True)


async def test_the_tx_number_is_exact(node: SimulatedNode, watcher: Watcher | None) -> None:
    """Above 2^53, where litefs-js loses precision; straight from the file."""
    node.commit(txid=BIG, notify=False)
    assert await get_tx_number(watcher=watcher) == BIG
    assert await get_tx_number(node.litefs_dir, "none.db", watcher=watcher) == 0


async def test_waiting(node: SimulatedNode, watcher: Watcher | None) -> None:
    """litefs-js gives up after 30 ms when it is behind, and spins to its timeout when it has caught up."""
    assert await wait_for_up_to_date_tx_number(1, watcher=watcher)
    assert not await wait_for_up_to_date_tx_number(9, timeout=0.05, watcher=watcher)
    results: list[bool] = []

    async def wait() -> None:
        results.append(await wait_for_up_to_date_tx_number(2, timeout=SOON, watcher=watcher))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.to_thread.run_sync(node.wait_for_streams)
        node.commit()
    assert results == [True]
    with pytest.raises(ValueError, match="whole number"):
        await wait_for_up_to_date_tx_number(1e300, watcher=watcher)  # type: ignore[arg-type]


async def test_a_wait_heeds_the_directory_and_the_database(node: SimulatedNode) -> None:
    """litefs-js waits for the default ones whatever it is passed."""
    with SimulatedNode(databases=("other.db",)) as other:
        other.commit(txid=7)
        assert await wait_for_up_to_date_tx_number(
            7, litefs_dir=other.litefs_dir, database_filename="other.db", timeout=SOON
        )
        assert not await wait_for_up_to_date_tx_number(7, timeout=0.05)


def test_the_cookie_has_litefs_js_attributes() -> None:
    """Decimal, exact."""
    assert get_tx_set_cookie_header(BIG) == f"txnum={BIG}; Path=/; HttpOnly; SameSite=Lax; Secure"


@pytest.mark.parametrize("value", ["1e300", "-1", "", " 1", "0x1", "1; x=2", str(2**64), b"\xff", "abc"])
async def test_garbage_in_the_cookie_is_deleted(node: SimulatedNode, value: str | bytes) -> None:
    """1e300 forces replays in litefs-js. Nothing is waited for."""
    assert await check_cookie_for_transactional_consistency(value) == Consistency("delete-cookie")


async def test_the_cookie_on_the_primary(node: SimulatedNode, watcher: Watcher | None) -> None:
    """Never waits, and is deleted only where it can never be met."""
    assert await check_cookie_for_transactional_consistency(None, watcher=watcher) == Consistency("ok")
    assert await check_cookie_for_transactional_consistency("1", watcher=watcher) == Consistency("ok")
    assert await check_cookie_for_transactional_consistency(99, watcher=watcher) == Consistency("delete-cookie")


async def test_the_cookie_on_a_replica(node: SimulatedNode, watcher: Watcher | None) -> None:
    """A replica that has caught up keeps it: the next request may reach another one. litefs-js deletes it."""
    node.set_primary("node-b")
    node.heartbeat()  # until node-b is heard, nothing vouches for what is here
    await settled(watcher, Role.REPLICA)
    assert await check_cookie_for_transactional_consistency("1", watcher=watcher) == Consistency("ok")
    late = await check_cookie_for_transactional_consistency("9", timeout=0.05, watcher=watcher)
    assert late == Consistency("replay", "node-b")
    node.lose_primary()
    await settled(watcher, Role.UNKNOWN)
    late = await check_cookie_for_transactional_consistency("9", timeout=0.05, watcher=watcher)
    assert late == Consistency("unavailable")


async def test_a_pin(node: SimulatedNode, watcher: Watcher | None) -> None:
    """Which the middleware sets on another node: the primary keeps it, and a replica sends it there without a wait."""
    assert await check_cookie_for_transactional_consistency(2**64 - 1, watcher=watcher) == Consistency("ok")
    node.set_primary("node-b")
    await settled(watcher, Role.REPLICA)
    with anyio.fail_after(SOON):
        pinned = await check_cookie_for_transactional_consistency(2**64 - 1, timeout=100 * SOON, watcher=watcher)
    assert pinned == Consistency("replay", "node-b")


async def test_ensure(node: SimulatedNode, watcher: Watcher | None) -> None:
    """They raise what the middleware answers."""
    await ensure_primary(watcher=watcher)
    await ensure_instance("node-a", watcher=watcher)
    with pytest.raises(WrongInstance):
        await ensure_instance("node-z", watcher=watcher)
    node.set_primary("node-b")
    await settled(watcher, Role.REPLICA)
    with pytest.raises(NotPrimary) as caught:
        await ensure_primary(watcher=watcher)
    assert caught.value.primary == "node-b"


def test_the_replay_response() -> None:
    """409 and fly-replay."""
    answer = get_replay_response("node-b")
    assert (answer.status, dict(answer.headers)[b"fly-replay"], answer.body) == (409, b"instance=node-b", b"")


REQUESTS: list[Any] = [
    {"type": "http", "method": "GET", "headers": [(b"cookie", b"a=1"), (b"cookie", b"txnum=9")]},
    SimpleNamespace(method="GET", headers={"cookie": "a=1; txnum=9"}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=["scope", "request"])
async def test_handling_a_request(node: SimulatedNode, request_: Any) -> None:
    """From the cookie to ok, delete-cookie, or an exception that is answered with the replay."""
    async with Watcher(node.settings()) as watcher:
        assert (await handle_transactional_consistency(request_, watcher=watcher)).type == "delete-cookie"
        node.set_primary("node-b")
        await settled(watcher, Role.REPLICA)
        with pytest.raises(NotPrimary):
            await handle_transactional_consistency(request_, timeout=0.05, watcher=watcher)
        node.commit(txid=9)
        assert (await handle_transactional_consistency(request_, timeout=SOON, watcher=watcher)).type == "ok"
        node.lose_primary()
        node.commit(txid=5)
        await settled(watcher, Role.UNKNOWN)
        with anyio.fail_after(SOON):
            while watcher.tx_number() != 5:
                await watcher.read_position()
        with pytest.raises(NoPrimary):
            await handle_transactional_consistency(request_, timeout=0.05, watcher=watcher)


async def test_appending_the_cookie(node: SimulatedNode, watcher: Watcher | None) -> None:
    """After a write, on the primary; to a list of pairs, or to a framework's headers."""
    expected = ("set-cookie", get_tx_set_cookie_header(1))
    pairs: list[tuple[str, str]] = []
    await append_tx_number_cookie({"type": "http", "method": "GET"}, pairs, watcher=watcher)
    assert pairs == []
    await append_tx_number_cookie(SimpleNamespace(method="post"), pairs, watcher=watcher)
    assert pairs == [expected]
    headers = MutableHeaders()
    await append_tx_number_cookie(SimpleNamespace(method="DELETE"), headers, watcher=watcher)
    assert headers.items() == [expected]
    node.set_primary("node-b")
    await settled(watcher, Role.REPLICA)
    await append_tx_number_cookie(SimpleNamespace(method="POST"), pairs, watcher=watcher)
    assert pairs == [expected]


async def test_without_a_directory_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """LITEFS_DIR."""
    monkeypatch.delenv("LITEFS_DIR", raising=False)
    with pytest.raises(ConfigError, match="LITEFS_DIR"):
        await get_instance_info()
