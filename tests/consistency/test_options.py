"""Options are checked where they are given."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest

from litefs_watch import ConfigError, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.consistency import OptionKeywords, Options, Policy
from litefs_watch.replay import FlyReplay, Forward, Redirect
from tests.asgi.fakes import Handler, call
from tests.docs.pages import PAGES, ROOT


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cookie": "a b"}, "cookie"),
        ({"cookie": "a;b"}, "cookie"),
        ({"cookie": ""}, "cookie"),
        ({"cookie": None, "header": None}, "cookie"),
        ({"header": "a: b"}, "header"),
        ({"cookie_format": "octal"}, "cookie_format"),
        ({"on_timeout": "shrug"}, "on_timeout"),
        ({"same_site": "none", "secure": False}, "same_site"),
        ({"same_site": "Lax; Domain=x"}, "same_site"),
        ({"domain": "x; Secure"}, "domain"),
        ({"path": "shop"}, "path"),
        ({"path": "/;x"}, "path"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": "0.5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"hold_writes": None}, "hold_writes"),
        ({"max_age": 0}, "max_age"),
        ({"max_age": 1.5}, "max_age"),
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_ahead": "many"}, "max_ahead"),
        ({"secret": ""}, "secret"),
        ({"secret": []}, "secret"),
        ({"secret": ["a", b""]}, "secret"),
        ({"secret": [42]}, "secret"),
        ({"primary_paths": "/reports"}, "primary_paths"),
        ({"primary_paths": ["reports"]}, "primary_paths"),
        ({"read_paths": "/search"}, "read_paths"),
        ({"passthrough_paths": [42]}, "passthrough_paths"),
    ],
)
def test_what_cannot_work_is_named(wrong: dict[str, Any], named: str) -> None:
    """`ConfigError`, which says which option it is."""
    with pytest.raises(ConfigError, match=named):
        Options(**wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Redirect("example.com"),
        lambda: Redirect("https://{host}.example.com"),
        lambda: Redirect("https://{hostname}.example.com/"),
        lambda: Redirect("https://{hostname}\r\nx: y"),
        lambda: Redirect("ftp://{hostname}"),
        lambda: Forward("http://{hostname}:99999"),
        lambda: Forward("http://{hostname}:8080?x=1"),
        lambda: Forward("http://{hostname"),
        lambda: Forward("http://{hostname}", timeout=0),
        lambda: Forward(None),  # type: ignore[arg-type]
        lambda: FlyReplay(timeout=0),
        lambda: FlyReplay(fallback="me"),  # type: ignore[arg-type]
    ],
)
def test_a_strategy_that_cannot_work_is_refused(make: Any) -> None:
    """`ConfigError`, at once and not with the first request."""
    with pytest.raises(ConfigError):
        make()


def test_the_keywords_are_the_options() -> None:
    """What the middlewares' signatures promise is what there is."""
    assert get_type_hints(OptionKeywords).keys() == Options.__dataclass_fields__.keys()


def test_a_secret_is_not_printed() -> None:
    """Not even where the options are."""
    assert "hunter2" not in repr(Options(secret="hunter2"))


@pytest.mark.parametrize(
    ("patterns", "path", "matches"),
    [
        (["/admin/*"], "/admin/users/7", True),
        (["/admin/*"], "/admin", False),
        (["/admin/*"], "/x/admin/users", False),
        (["*.png"], "/images/a.png", True),
        (["*.png"], "/images/a.png/b", False),
        (["/a.b"], "/aXb", False),
        (["/a", "/b"], "/b", True),
        (["/line*"], "/line\nbreak", True),
        ([re.compile(r"/item/\d+")], "/item/7", True),
        ([re.compile(r"/item/\d+")], "/item/7/edit", False),
        (lambda path: path.startswith("/x"), "/xy", True),
        (lambda path: path.startswith("/x"), "/yx", False),
        (["/admin/*"], "//admin///users", True),
        (["/report"], "/report/", True),
        (["/report/"], "/report", True),
        (["/report/"], "/report//", True),
        (["/report"], "/reports", False),
        (["/"], "//", True),
        (["/"], "/x", False),
        ([re.compile(r"/item/\d+")], "//item/7/", True),
        (lambda path: path == "/x", "//x/", True),
    ],
)
def test_paths(patterns: Any, path: str, matches: bool) -> None:
    """``*`` is anything, as in LiteFS's proxy; compiled patterns match the whole path; a function decides itself."""
    exchange = Policy(Options(primary_paths=patterns)).begin("GET", path, ())
    assert exchange is not None
    assert exchange.writes is matches
    assert (Policy(Options(passthrough_paths=patterns)).begin("POST", path, ()) is None) is matches


async def test_standalone_needs_no_database() -> None:
    """Development without LiteFS: everything runs here, at once."""
    async with Watcher(Settings(standalone=True)) as watcher:
        for method in ("GET", "POST"):
            reply = await call(LiteFSMiddleware(Handler(), watcher, cookie="txnum"), method, "/", [("cookie", "txnum=5")])
            assert reply.status == 200


def test_each_row_of_the_table_has_its_test() -> None:
    """What a client may send, in the documents: beside each row stands one that is there."""
    table = PAGES["options.md"].partition("## What a client may send")[2]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    named = [row[2].strip().strip("`") for row in rows if row[2].strip() not in ("test", "---")]
    assert len(named) > 30
    for path, _, name in (each.partition("::") for each in named):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE), (path, name)
