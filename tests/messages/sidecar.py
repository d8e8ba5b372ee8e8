"""What `litefs-watch serve` answers to applications in other languages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from starlette.requests import Request

from litefs_watch.asgi.types import Message
from litefs_watch.serve.endpoints import Refusal
from litefs_watch.serve.metrics import _none
from litefs_watch.serve.options import Options, check_token
from litefs_watch.serve.server import listen
from litefs_watch.testing import SimulatedNode
from tests.asgi.fakes import Reply, scope_of
from tests.messages.provoking import Case, Provoke, calling, case
from tests.serve.asking import SOON, until
from tests.serve.conftest import Served, served

AHEAD = "0000000000000032/8000000000000000"
PAST = "0000000000000002/8000000000000bad"
TOKEN = "0123456789abcdef"
JSON = {"content-type": "application/json"}
Prepare = Callable[[Served], Awaitable[Any]]


def get(path: str, options: Options | None = None, *, prepare: Prepare | None = None, **headers: str) -> Provoke:
    """The status and the words of the answer."""
    return ask("GET", path, options=options, prepare=prepare, headers=headers)


def post(content: bytes, **headers: str) -> Provoke:
    return ask("POST", "/wait", headers=headers, content=content)


def ask(
    method: str,
    path: str,
    *,
    headers: dict[str, str],
    options: Options | None = None,
    prepare: Prepare | None = None,
    content: bytes | None = None,
    **settings: Any,
) -> Provoke:
    async def provoke() -> str:
        with SimulatedNode() as node:
            async with served(node, options, **settings) as here:
                if prepare is not None:
                    await prepare(here)
                names = {name.replace("_", "-"): value for name, value in headers.items()}
                response = await here.client.request(method, path, headers=names, content=content)
        return f"{response.status_code} {response.json()['error']}"

    return provoke


async def stop(here: Served) -> None:
    await here.watcher.stop()


async def unreadable(here: Served) -> None:
    async def read(database: str | None = None) -> None:
        raise OSError(5, "Input/output error")

    vars(here.watcher)["read_position"] = read


async def frozen(here: Served) -> None:
    async def read(database: str | None = None) -> None:
        await anyio.sleep_forever()

    vars(here.watcher)["read_position"] = read


async def full(here: Served) -> None:
    here.sidecar.waits.waiting.taken = 1000


async def failing(here: Served) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a fault")

    vars(here.watcher)["has_tx"] = fail


async def replaced(here: Served) -> None:
    """It was behind when it got another primary, and is ahead of what is asked for since."""
    for primary in ("node-b", "node-c"):
        here.node.set_primary(primary)
        await until(lambda primary=primary: here.watcher.primary == primary)
    here.node.commit(txid=99)
    await here.watcher.wait_for_tx(99, timeout=SOON)


async def forgetful(here: Served) -> None:
    """It remembers the last transaction alone."""
    for _ in range(2):
        here.node.commit()
    await here.watcher.wait_for_tx(here.node.position(), timeout=SOON)
    await until(lambda: here.watcher.run.view("app.db").data_dir)
    state = here.watcher.run.board.state
    state.histories.by_database["app.db"].trim(1)
    state.here["app.db"] = state.histories.by_database["app.db"].lineage


async def half_a_body() -> str:
    reply, pieces = Reply(), [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> Message:
        if not pieces:
            await anyio.sleep_forever()
        return pieces.pop()

    async def send(message: Message) -> None:
        reply.messages.append(message)

    scope = scope_of("POST", "/wait", [("host", "localhost"), ("content-type", "application/json")])
    with pytest.MonkeyPatch.context() as patch, SimulatedNode() as node:
        patch.setattr("litefs_watch.serve.questions.BODY_TIMEOUT", 0.01)
        async with served(node) as here:
            await here.app(scope, receive, send)
    return f"{reply.status} {json.loads(reply.body)['error']}"


async def without_prometheus() -> str:
    try:
        await _none(Request({"type": "http"}))
    except Refusal as refusal:
        return f"{refusal.status} {refusal}"
    return ""


def of_a_misplaced() -> Provoke:
    async def provoke() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("litefs_watch.watchers.run.Run.misplaced", "/data is not LiteFS's mount, though LiteFS answers")
            provoked: Any = get("/wait?txid=1")
            return str(await provoked())

    return provoke


CASES: list[Case] = [
    case(get("/waitt"), "/waitt", "'/wait'"),
    case(ask("PUT", "/wait", headers={}), "PUT", "GET"),
    case(get("/wait?txid=1", prepare=stop)),
    case(of_a_misplaced()),
    case(get("/wait"), "txid="),
    case(get(f"/wait?txid=1&position={AHEAD}"), "not both"),
    case(get("/wait?txid=nine"), "'nine'"),
    case(get("/wait?txid=0000000000000012"), "0x0000000000000012"),
    case(get("/wait?position=nine"), "'nine'"),
    case(get("/wait?txid=1&timeout=soon"), "'soon'"),
    case(get("/wait?txid=1&db=a/b"), "'a/b'"),
    case(post(b'{"txid": 1, "db": 5}', content_type="application/json"), "not 5"),
    case(get("/wait?txid=1&timout=1"), "timout", "'timeout'"),
    case(get("/wait?txid=1&txid=2")),
    case(get("/wait?" + "&".join(f"a{number}=1" for number in range(9)))),
    case(get("/wait?a=" + "9" * 2000)),
    case(ask("GET", "/wait?txid=1", headers={}, database=None), "app.db"),
    case(get("/wait?txid=50&timeout=0"), "transaction 50", "app.db"),
    case(get(f"/wait?position={AHEAD}&timeout=10"), AHEAD),
    case(get(f"/wait?position={AHEAD}&timeout=10", prepare=replaced), AHEAD, "app.db"),
    case(get(f"/wait?position={PAST}&timeout=10", prepare=forgetful), PAST, "app.db"),
    case(get("/position?db=ap.db"), "'ap.db'", "app.db"),
    case(get("/position", prepare=unreadable), "Input/output error"),
    case(get("/position?timeout=0", prepare=frozen), "0 s"),
    case(get("/wait?txid=50&timeout=1", prepare=full), "1000"),
    case(get("/wait?txid=50&timeout=1", prepare=failing)),
    case(post(b"x", content_type="text/plain"), "text/plain"),
    case(post(b"x", content_type="application/json")),
    case(post(b"[]", content_type="application/json")),
    case(post(b" " * 5000, content_type="application/json"), "4096"),
    case(half_a_body, "0.01 s"),
    case(get("/status", Options(TOKEN)), "Bearer"),
    case(get("/status", Options(TOKEN), authorization="Bearer nonsense")),
    case(get("/status", host="evil.example"), "evil.example"),
    case(get("/status", origin="http://evil.example"), "http://evil.example"),
    case(get("/status", sec_fetch_site="cross-site")),
    case(without_prometheus, "litefs-watch[prometheus]"),
    case(calling(check_token, "short", "LITEFS_WATCH_TOKEN"), "LITEFS_WATCH_TOKEN", "16"),
    case(calling(listen, "0.0.0.0", 0, None), "0.0.0.0", "LITEFS_WATCH_TOKEN"),
]
