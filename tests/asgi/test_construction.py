"""What can't work is said where it is made, with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import litefs_watch.wsgi
from litefs_watch import BlockingWatcher, ConfigError, Position, Settings, Watcher
from litefs_watch.asgi import LifespanMiddleware, LiteFSMiddleware
from litefs_watch.watchers.bridge import AwaitableWatcher
from tests.asgi.fakes import FakeWatcher, Handler, call

STANDALONE = Settings(standalone=True)


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize("middleware", [LiteFSMiddleware, LifespanMiddleware])
def test_an_event_loop_s_watcher(middleware: Any) -> None:
    """A blocking one would block the loop; a path, the settings, the class, or the application is none."""
    for watcher in (Watcher(STANDALONE), AwaitableWatcher(BlockingWatcher(STANDALONE))):
        middleware(Handler(), watcher)
    with pytest.raises(ConfigError, match=r"Write watcher = Watcher\(settings\).*litefs_watch.wsgi.LiteFSMiddleware"):
        middleware(Handler(), BlockingWatcher(STANDALONE))
    for wrong in ("/litefs", STANDALONE, Watcher, Handler(), None):
        with pytest.raises(ConfigError, match=rf"{middleware.__name__}\(app, watcher=Watcher\(settings\)\)"):
            middleware(Handler(), wrong)


def test_a_watcher_of_threads() -> None:
    """That of an event loop would know nothing, and the reads would be stale."""
    middleware: Any = litefs_watch.wsgi.LiteFSMiddleware
    blocking = BlockingWatcher(STANDALONE)
    middleware(wsgi_app, blocking)
    for watcher in (Watcher(STANDALONE), AwaitableWatcher(blocking)):
        with pytest.raises(ConfigError, match=r"Write BlockingWatcher\(settings\).*litefs_watch.asgi.LiteFSMiddleware"):
            middleware(wsgi_app, watcher)
    for wrong in ("/litefs", STANDALONE, BlockingWatcher, wsgi_app, None):
        with pytest.raises(ConfigError, match=r"LiteFSMiddleware\(app, watcher=BlockingWatcher\(settings\)\)"):
            middleware(wsgi_app, wrong)


@pytest.mark.parametrize("kind", [Watcher, BlockingWatcher])
def test_a_watcher_takes_settings(kind: Any) -> None:
    """A path is not enough: which database?"""
    name = kind.__name__
    for path in ("/litefs", Path("/litefs")):
        with pytest.raises(ConfigError, match=rf"{name}\(Settings\('/litefs', database='app.db'\)\)"):
            kind(path)
    for wrong in ({"litefs_dir": "/litefs"}, 1, Settings):
        with pytest.raises(ConfigError, match=rf"{name}\(Settings\(...\)\)"):
            kind(wrong)


def test_a_misspelt_option() -> None:
    """As Python says it, and which one is meant."""
    middlewares: list[tuple[Any, Any, Any]] = [
        (LiteFSMiddleware, Handler(), Watcher(STANDALONE)),
        (litefs_watch.wsgi.LiteFSMiddleware, wsgi_app, BlockingWatcher(STANDALONE)),
    ]
    for middleware, app, watcher in middlewares:
        for wrong, meant in (("time_out", "timeout"), ("hold_write", "hold_writes"), ("databse", "database")):
            with pytest.raises(TypeError, match=rf"argument {wrong!r}; did you mean {meant!r}\?"):
                middleware(app, watcher, **{wrong: 1})
        with pytest.raises(TypeError, match=r"argument 'zzz'$"):
            middleware(app, watcher, zzz=1)


def test_a_misspelt_setting() -> None:
    """Likewise."""
    with pytest.raises(ConfigError, match=r"there is no setting 'litefs_dri'; did you mean 'litefs_dir'\?"):
        Settings(litefs_dri="/litefs", standalone=True)
    with pytest.raises(ConfigError, match=r"there is no setting 'zzz'$"):
        Settings(zzz=1, standalone=True)


# A cookie that nobody sends back.


async def set_cookie(
    *headers: tuple[str, str], scheme: str = "http", method: str = "POST", **options: Any
) -> LiteFSMiddleware:
    watcher = FakeWatcher()
    middleware = LiteFSMiddleware(Handler(lambda scope: watcher.commit()), watcher.watcher, **options)
    await call(middleware, method, "/", headers, scheme=scheme)
    return middleware


SAID = "a cookie that is Secure was set over HTTP, for shop.example.com: browsers and test clients don't send it back"
HOST = ("host", "shop.example.com")


async def test_secure_over_http_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what to do, for each middleware."""
    middleware = await set_cookie(HOST)
    (said,) = caplog.messages
    assert said.startswith(SAID)
    for remedy in ("HTTPS", "x-forwarded-proto", "base_url='https://...'", "secure=False"):
        assert remedy in said
    await call(middleware, "POST", "/", [HOST])
    assert len(caplog.messages) == 1
    await set_cookie(("host", "testserver"))
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "shop.localhost", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
)
async def test_browsers_trust_localhost(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """They send it there over HTTP, too."""
    await set_cookie(("host", host))
    assert caplog.messages == []


async def test_where_it_is_sent_back_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """HTTPS, here or at the proxy in front; a cookie that is not Secure; no cookie."""
    await set_cookie(HOST, scheme="https")
    await set_cookie(HOST, ("x-forwarded-proto", "https"))
    await set_cookie(HOST, ("x-forwarded-proto", "https,http"))
    await set_cookie(HOST, ("forwarded", "for=192.0.2.1;Proto=https"))
    await set_cookie(HOST, secure=False)
    await set_cookie(HOST, cookie=None)
    await set_cookie(HOST, method="GET")
    await set_cookie()
    assert caplog.messages == []


async def test_a_host_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It is the client's."""
    await set_cookie(("host", "evil\nERROR root"))
    assert "evil\\nERROR root" in caplog.messages[0]


async def test_secure_over_http_is_said_of_reads_that_set_it(caplog: pytest.LogCaptureFixture) -> None:
    """A pin that is replaced, for one."""
    await call(LiteFSMiddleware(Handler(), FakeWatcher().watcher), "GET", "/", [HOST, ("cookie", "litefs_pos=pin")])
    assert caplog.messages[0].startswith(SAID)


def test_secure_over_http_in_wsgi(caplog: pytest.LogCaptureFixture) -> None:
    """Likewise."""
    from werkzeug.test import Client

    from litefs_watch.testing import SimulatedNode

    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_tx(Position.parse(str(node.position())), timeout=10)
        app: Any = litefs_watch.wsgi.LiteFSMiddleware(started, watcher)
        Client(app).post("/", base_url="https://shop.example.com")
        assert caplog.messages == []
        Client(app).post("/", base_url="http://shop.example.com")
        assert caplog.messages[0].startswith(SAID)


def started(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return []
