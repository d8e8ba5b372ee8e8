"""Who is let in: by name and place on loopback, by token elsewhere. And what paths answer that nobody should ask so."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from litefs_watch import ConfigError
from litefs_watch.serve.endpoints import Refusal
from litefs_watch.serve.guard import Guard
from litefs_watch.serve.options import Options, check_token, find_token
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import asked
from tests.serve.conftest import Served, served

TOKEN = "a-token-of-the-tests"
PAGE = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost"}, 200),
        ({"host": "LocalHost:20203"}, 200),
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "[::1]:20203"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:20203"}, 403),
        ({"host": "[::1].evil.example"}, 403),
        ({"host": "evil.example:localhost"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", **PAGE}, 200),
    ],
)
async def test_a_page_of_elsewhere_may_not_ask(here: Served, headers: dict[str, str], status: int) -> None:
    """Not by a name of its own (DNS rebinding), not for an image or a frame; a link that somebody follows may."""
    for path in ("/status", "/primary", "/nowhere"):
        async with asked(here.app, path, headers) as connection:
            await connection.start()
            assert (connection.status == 403) == (status == 403), connection.status
            assert not any(name.startswith("access-control") for name in connection.headers)


def test_its_own_name_is_one_of_loopback_s() -> None:
    """Where it listens on another address of this machine's."""
    guard = Guard(None, None, "127.8.8.8")  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": [(b"host", b"127.8.8.8:20203")]}
    guard._check(scope)
    with pytest.raises(Refusal):
        guard._check({**scope, "headers": [(b"host", b"127.9.9.9:20203")]})


async def test_a_check_without_a_host_is_answered(here: Served) -> None:
    """HAProxy's are HTTP/1.0; a browser always says whom it asks."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "OPTIONS", "path": "/primary", "query_string": b"", "headers": [], "root_path": ""}
    await here.app(scope, None, send)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        ("Bearer \xff", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
    ],
)
async def test_with_a_token_each_path_asks_for_it(node: SimulatedNode, authorization: str | None, status: int) -> None:
    """By whatever name and from wherever it is asked; a refusal says how to ask."""
    headers = {"host": "db.example", "origin": "https://app.example"}
    async with served(node, Options(TOKEN)) as here:
        for path in ("/status", "/livez", "/", "/nowhere"):
            given = headers | ({"authorization": authorization} if authorization is not None else {})
            async with asked(here.app, path, given) as connection:
                await connection.start()
                assert (connection.status == 401) == (status == 401), connection.status
                assert connection.headers.get("www-authenticate", "").startswith("Bearer") == (status == 401)


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library that does so."""
    seen = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    Guard(None, TOKEN)._check_token(f"Bearer {TOKEN}")  # type: ignore[arg-type]
    assert seen == [(TOKEN.encode(), TOKEN.encode())]


def test_a_token_is_not_shown() -> None:
    """In a traceback, or a log."""
    assert TOKEN not in repr(Options(TOKEN))


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a space in it!", "täglich-ein-geheimnis", "x" * 5000])
def test_what_is_no_token(token: str) -> None:
    """Too short to be none, or nothing for a header; and it is not repeated in a log."""
    with pytest.raises(ConfigError, match="a token is 16 printable ASCII characters or more") as refused:
        check_token(token, "HERE")
    assert not token or token not in str(refused.value).replace("openssl rand -hex 32", "")


def test_a_token_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file that is named, without its newline; else in the environment, where an empty one is none."""
    monkeypatch.setenv("LITEFS_WATCH_TOKEN", "")
    assert find_token(None) is None
    monkeypatch.setenv("LITEFS_WATCH_TOKEN", TOKEN)
    assert find_token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-of-the-file\n")
    assert find_token(tmp_path / "token") == f"{TOKEN}-of-the-file"


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/statsu", 404, "there is no /statsu; did you mean '/status'?"),
        ("GET", "/status/", 404, "there is no /status/"),
        ("GET", "/a\nb", 404, "there is no /a\\nb"),
        ("DELETE", "/nowhere", 404, "there is no /nowhere"),
        ("DELETE", "/wait", 405, "DELETE is not answered here: GET, POST"),
        ("HEAD", "/wait", 405, "HEAD is not answered here"),
        ("HEAD", "/events", 405, "HEAD is not answered here"),
        ("OPTIONS", "/wait", 405, "OPTIONS is not answered here"),
        ("POST", "/primary", 405, "POST is not answered here: GET, HEAD, OPTIONS"),
        ("GET", "/status?x=1", 400, "x is no parameter of this path"),
        ("GET", "/events?since=1", 400, "since is no parameter of this path"),
        ("GET", f"/wait?db={'x' * 2000}", 414, "longer than 2000 bytes"),
    ],
)
async def test_what_nobody_should_ask(here: Served, method: str, path: str, status: int, words: str) -> None:
    """JSON says what was seen."""
    async with asked(here.app, path, method=method) as connection:
        assert words in (await connection.json())["error"]
        assert connection.status == status


async def test_a_fault_of_ours_is_500_and_in_the_log(
    here: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a traceback there, and none for the client."""

    def fail(*_: object) -> None:
        raise OSError("of a test")

    monkeypatch.setattr("litefs_watch.serve.app.status_record", fail)
    assert "its log tells more" in await here.refused("/status", 500)
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.message.startswith("/status failed")


async def test_a_websocket_is_closed(here: Served) -> None:
    """There is nobody."""
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    await here.app({"type": "websocket", "path": "/events", "headers": []}, None, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
