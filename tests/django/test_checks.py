"""``manage.py check`` and ``manage.py litefs_status``, run in the project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import SimulatedNode
from tests.django.serving import manage

OURS = "litefs_watch.django.LiteFSMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"


@pytest.fixture(scope="module")
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def complaints(node: SimulatedNode, *words: str, **settings: Any) -> dict[str, str]:
    """What ``manage.py check`` says of us, by id, with the hint."""
    done = manage(node, "check", *words, **settings)
    pieces = re.findall(r"\?: \(litefs_watch\.(\w+)\) (.*)\n\s*HINT: (.*)", done.stderr)
    found: dict[str, str] = {}
    for name, message, hint in pieces:
        found[name] = f"{found.get(name, '')} {message} {hint}"
    assert bool(done.returncode) is any(name.startswith("E") for name in found), done.stderr
    return found


def test_the_project_is_right(node: SimulatedNode) -> None:
    """As it stands, nothing is said."""
    assert complaints(node) == {}


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (["django.middleware.security.SecurityMiddleware", "django.middleware.gzip.GZipMiddleware"], set()),
        ([SESSIONS], {"E003"}),
        ([SESSIONS, AUTHENTICATION], {"E003"}),
        (["shop.middleware.Sessions"], {"E003"}),
        (["django.middleware.cache.FetchFromCacheMiddleware"], {"E003"}),
        (["shop.middleware.atomic"], {"W004"}),
        (["shop.middleware.missing"], {"W004"}),
        ([OURS], {"E006"}),
    ],
)
def test_what_comes_before_it(node: SimulatedNode, before: list[str], expected: set[str]) -> None:
    """A session that is read, or a transaction that is begun, before the TXID has been waited for."""
    found = complaints(node, MIDDLEWARE=[*before, OURS])
    assert set(found) == expected
    for name, text in found.items():
        assert name == "E006" or all(path in text for path in before)


def test_it_is_not_there_at_all(node: SimulatedNode) -> None:
    """The application is installed, and does nothing."""
    assert set(complaints(node, MIDDLEWARE=[SESSIONS])) == {"W005"}


def test_a_subclass_is_it_too(node: SimulatedNode) -> None:
    """A project may make its own of it."""
    assert complaints(node, MIDDLEWARE=["shop.middleware.Ours", SESSIONS]) == {}


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"litefs_dir": "/nowhere/at/all"}, "E002", "/nowhere/at/all: No such file or directory"),
        ({"litefs_dir": __file__}, "E002", "Not a directory"),
        ({"litefs_dir": None}, "E001", "LITEFS_DIR is not set"),
        ({"timout": 1}, "E001", "did you mean 'timeout'?"),
        ({"litefs_dir": str(Path(__file__).parent)}, "W007", "LiteFS does not replicate it"),
        ({"litefs_dir": str(Path(__file__).parent), "database": "b.db"}, "W007", "LiteFS does not replicate it"),
        ({"database": "b.db"}, "W007", "b.db is waited for, and the database is"),
    ],
)
def test_settings(node: SimulatedNode, options: dict[str, Any], name: str, words: str) -> None:
    """Which key is wrong, what was seen, and what to do."""
    found = complaints(node, LITEFS_WATCH=options)
    assert set(found) == {name}
    assert words in found[name]


def test_a_link_to_the_database_is_the_database(node: SimulatedNode, tmp_path: Path) -> None:
    """Where the file that Django opens is a link into LiteFS's directory."""
    (tmp_path / "app.db").symlink_to(node.path())
    engine = {"ENGINE": "django.db.backends.sqlite3"}
    assert complaints(node, DATABASES={"default": engine | {"NAME": str(tmp_path / "app.db")}}) == {}
    assert set(complaints(node, DATABASES={"default": engine | {"NAME": str(tmp_path / "another.db")}})) == {"W007"}


def test_every_request_would_write(node: SimulatedNode) -> None:
    """A session that is saved each time; one in a cookie is no write."""
    assert set(complaints(node, SESSION_SAVE_EVERY_REQUEST=True)) == {"W008"}
    cookies = "django.contrib.sessions.backends.signed_cookies"
    assert complaints(node, SESSION_SAVE_EVERY_REQUEST=True, SESSION_ENGINE=cookies) == {}


@pytest.mark.parametrize("engine", ["cached_db", "cache"])
def test_sessions_in_a_cache_of_one_s_own(node: SimulatedNode, engine: str) -> None:
    """A replica would answer from its own memory, whatever position has come."""
    settings = {"SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}"}
    found = complaints(node, **settings)  # Django's default is in memory
    assert set(found) == {"W013"}
    assert "LocMemCache" in found["W013"]
    shared = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://localhost"}}
    assert complaints(node, CACHES=shared, **settings) == {}
    assert complaints(node, LITEFS_WATCH={"standalone": True}, **settings) == {}


def test_the_deployment(node: SimulatedNode) -> None:
    """What is right for development, and wrong where it is deployed."""
    assert set(complaints(node, "--deploy")) == {"W010"}
    assert set(complaints(node, "--deploy", LITEFS_WATCH={"secure": True})) == {"W010", "W011"}
    assert set(complaints(node, "--deploy", LITEFS_WATCH={"secure": True}, SECURE_SSL_REDIRECT=True)) == {"W010"}
    assert set(complaints(node, "--deploy", LITEFS_WATCH={"standalone": True, "secure": False})) == {"W009"}
    assert complaints(node, LITEFS_WATCH={"standalone": True}) == {}
    memory = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    assert set(complaints(node, "--deploy", DATABASES=memory)) == {"W007", "W010"}
    assert complaints(node, DATABASES=memory) == {}  # the test runner's


def test_the_files_of_the_deployment(node: SimulatedNode, tmp_path: Path) -> None:
    """Those that lie where the command runs: with the code of the doctor."""
    (tmp_path / "fly.toml").write_text("[http_service]\nauto_stop_machines = true\n")
    found = complaints(node, "--deploy", cwd=tmp_path)
    assert set(found) == {"W010", "W012"}
    assert "(auto-stop)" in found["W012"]


def test_litefs_status(node: SimulatedNode) -> None:
    """For people, and as JSON; it needs no check to pass."""
    done = manage(node, "litefs_status", MIDDLEWARE=[SESSIONS, OURS])
    assert done.returncode == 0, done.stderr
    assert re.search(
        rf"^role +primary$.*^app\.db +1  \({node.position()}\)$.*^stream +alive ", done.stdout, re.MULTILINE | re.DOTALL
    )
    record = json.loads(manage(node, "litefs_status", "--json").stdout)
    assert (record["role"], record["hostname"]) == ("primary", node.hostname)
    assert record["positions"]["app.db"]["txid"] == 1


def test_litefs_status_without_a_primary() -> None:
    """Status 1, and why."""
    with SimulatedNode() as node:
        node.stop()
        done = manage(node, "litefs_status")
        assert done.returncode == 1
        assert "CommandError: no primary is known (" in done.stderr
        assert "unknown" in done.stdout
        wrong = manage(node, "litefs_status", LITEFS_WATCH={"litefs_dir": None})
    assert wrong.returncode == 1
    assert "LITEFS_DIR is not set" in wrong.stderr


def test_litefs_status_without_settings(node: SimulatedNode) -> None:
    """One line that says what is wrong, and no traceback."""
    done = manage(node, "litefs_status", LITEFS_WATCH={"api_url": "ftp://x"})
    assert done.returncode == 1
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "'ftp://x' is not an address" in done.stderr
