"""What is asked: whatever comes, it is a question that can be meant, or a refusal that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from hypothesis import example, given, settings, strategies
from starlette.requests import Request

from litefs_watch import Position
from litefs_watch.serve.endpoints import Refusal
from litefs_watch.serve.memory import Memory
from litefs_watch.serve.questions import WaitQuestion, in_body, in_query

TXIDS = strategies.integers(0, 2**64 - 1)
POSITIONS = strategies.builds(Position, TXIDS, TXIDS)
NAMES = strategies.text("abc.-_ é\U0001f984%&=+", min_size=1, max_size=60).filter(lambda name: name not in (".", ".."))
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(max_size=20),
    lambda values: (
        strategies.lists(values, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), values, max_size=3)
    ),
    max_leaves=5,
)


def of_query(query: bytes) -> WaitQuestion:
    return in_query(WaitQuestion, Request({"type": "http", "query_string": query, "headers": []}))


def of_body(body: bytes) -> WaitQuestion:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "query_string": b"", "headers": [(b"content-type", b"application/json; charset=utf-8")]}

    async def ask() -> WaitQuestion:
        return await in_body(WaitQuestion, Request(scope, receive))

    return anyio.run(ask)


def check(ask: Callable[[], WaitQuestion]) -> None:
    """It is understood, or refused with words."""
    refusal = None
    try:
        asked = ask()
    except Refusal as error:
        refusal = error
    if refusal is None:
        assert 0 <= asked.timeout < 1e13  # of the longest duration that can be written
    else:
        assert refusal.status == 400
        assert str(refusal).isprintable()


@settings(max_examples=50)
@given(wanted=TXIDS | POSITIONS, db=strategies.none() | NAMES, timeout=strategies.floats(0, 1e8))
def test_what_is_asked_is_what_is_understood(wanted: int | Position, db: str | None, timeout: float) -> None:
    """In a query and in a body: the same, to the last digit."""
    text = "txid" if isinstance(wanted, int) else "position"
    value: Any = wanted if isinstance(wanted, int) else str(wanted)
    fields = {text: value, **({"db": db} if db is not None else {})}
    from_query = of_query(urlencode({**fields, "timeout": f"{timeout:.9f}"}).encode())
    from_body = of_body(json.dumps({**fields, "timeout": timeout}).encode())
    assert (from_query.wanted, from_query.db) == (from_body.wanted, from_body.db) == (wanted, db)
    assert from_query.timeout == pytest.approx(from_body.timeout, abs=1e-8)


@given(
    query=strategies.binary(max_size=80)
    | strategies.text("txidposionmeu=&%0123456789abcdef/-.+", max_size=60).map(str.encode)
)
@example(b"txid=%ff&db=%ff")
@example(b"txid=1&db=" + b"%c3%a9" * 200)
@example(b"txid=\xd9\xa1")
@example(b"timeout=1e3&txid=1")
def test_no_query_is_a_fault(query: bytes) -> None:
    """It is understood, or refused with words."""
    check(partial(of_query, query))


@settings(max_examples=60)
@given(body=strategies.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
       | strategies.dictionaries(strategies.sampled_from(["txid", "position", "db", "timeout"]), JSON).map(
           lambda value: json.dumps(value).encode()))  # fmt: skip
@example(b"[" * 4096)
@example(b'{"txid": 1e400}')
@example(b'{"txid": 1, "timeout": 1e400}')
@example(b'{"db": "\\ud800", "txid": 1}')
@example(b'{"txid": ' + b"9" * 4000 + b"}")
def test_no_body_is_a_fault(body: bytes) -> None:
    """Likewise."""
    check(partial(of_body, body))


@given(
    size=strategies.integers(1, 5),
    added=strategies.integers(0, 20),
    most=strategies.integers(1, 7),
    after=strategies.integers(0, 20),
)
def test_a_memory_gives_all_that_follow_or_says_that_it_can_t(size: int, added: int, most: int, after: int) -> None:
    """In order, without a gap, and never more than so many."""
    memory = Memory(size, "e")
    for number in range(1, added + 1):
        memory.add({"n": number})
    found = memory.number_of(f"e-{after}")
    if after > added:
        assert found is None
        return
    assert found == after
    events = memory.after(after, most)
    if added - after > size:
        assert events is None
    else:
        assert events is not None
        assert [event.record["n"] for event in events] == list(range(after + 1, min(added, after + most) + 1))
        assert [event.id for event in events] == [f"e-{event.record['n']}" for event in events]
