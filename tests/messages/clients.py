"""What is said by the client of the primary, and by those that hand tokens on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from litefs_watch import BlockingWatcher, Position, Settings
from litefs_watch.client import BlockingPrimaryClient
from litefs_watch.testing import SimulatedNode
from tests.messages.provoking import Case, calling, case

ADDRESS = "http://{hostname}:8080"
AHEAD = str(Position(50, 1 << 63))
REPLAY = httpx2.Response(409, headers={"fly-replay": "instance=node-c"})


def made(address: Any = ADDRESS, **options: Any) -> Callable[[], None]:
    return calling(BlockingPrimaryClient, BlockingWatcher(Settings("/nowhere", "app.db")), address, **options)


def asked(
    response: httpx2.Response | None = None,
    url: str = "/orders",
    *,
    primary: str = "node-b",
    content: Any = None,
    **options: Any,
) -> Callable[[], None]:
    """A request to a primary that answers so."""

    def provoke() -> None:
        answers = httpx2.MockTransport(lambda request: response or httpx2.Response(200))
        with SimulatedNode(primary=primary) as node, BlockingWatcher(node.settings()) as watcher:
            given: dict[str, Any] = {"wait": 0.01, "transport": answers, "patience": 1.0, **options}
            with BlockingPrimaryClient(watcher, ADDRESS, **given) as client:
                client.post(url, content=content)

    return provoke


def answer(token: str) -> httpx2.Response:
    return httpx2.Response(201, headers=[(b"litefs-txid", token.encode())])


def pieces() -> Iterator[bytes]:
    yield b"piece"


def bad_token() -> None:
    with BlockingPrimaryClient(BlockingWatcher(Settings("/nowhere", "app.db")), ADDRESS) as client:
        client.token = "nonsense"


CASES: list[Case] = [
    case(made(5), "BlockingPrimaryClient"),
    case(made("node-b:8080"), "'node-b:8080'"),
    case(made(patience=None), "patience"),
    case(made(proxy="http://proxy:3128"), "proxy="),
    case(made(verify=False, transport=httpx2.MockTransport(lambda request: httpx2.Response(200))), "verify="),
    case(bad_token, "'nonsense'"),
    case(asked(url="http://node-b:8080/orders"), "http://node-b:8080/orders"),
    case(asked(primary=""), "lease.hostname"),
    case(asked(primary="node+b"), "'node+b'"),
    case(asked(REPLAY, content=pieces())),
    case(asked(REPLAY, patience=0.0)),
    case(asked(answer(AHEAD)), "201", AHEAD),
    case(asked(answer("pin")), "201"),
    case(asked(answer("nonsense")), "201", "token"),
]
