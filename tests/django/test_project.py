"""A Django project with ATOMIC_REQUESTS and sessions in the database, under gunicorn (WSGI) and uvicorn (ASGI)."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.django.serving import Site, real_site, simulated_site

CLIENTS = 4
WRITES = 240
OURS = "litefs_watch.django.LiteFSMiddleware"
BARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


@pytest.fixture(scope="module", params=["gunicorn", "uvicorn"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with simulated_site(request.param, lag=0.01) as site:
        yield site


_numbers = iter(range(1, 1_000_000))


def write_and_read(site: Site, times: int, path: str = "/notes") -> tuple[int, int, list[str]]:
    """``CLIENTS`` at once write, wherever they happen to be sent, and each reads back on a random replica: the note, and
    what the session says. Returns how many saw both, how many were replayed, and what else came. A replica answers by itself
    but for a few: those that are pinned, where nobody can tell whose commit was whose, and those of a busy machine."""
    seen, replays, elsewhere, other, lock = 0, 0, list[str](), list[str](), threading.Lock()

    def client(index: int) -> None:
        nonlocal seen, replays
        chance = random.Random(index)
        with site.browser() as browser:
            for _ in range(times // CLIENTS):
                with lock:
                    number = next(_numbers)
                try:
                    written = browser.ask(chance.choice([*site.ports]), "POST", f"{path}/{number}")
                    replica = chance.choice(site.replicas)
                    token = browser.cookies.get("litefs_pos", "")
                    read = browser.ask(replica, "GET", f"{path}/{number}")
                    good = written.status == 200 and read.status == 200
                    outcome: Any = read.json if good else f"{written.status}, {read}"
                    sent_on = good and outcome["node"] == "node-a"
                except Exception as error:  # noqa: BLE001 - it is an outcome, too
                    outcome, sent_on = repr(error), False
                with lock:
                    if sent_on:
                        elsewhere.append(token)
                    if outcome == {"seen": True, "session": number, "node": "node-a" if sent_on else replica}:
                        seen += 1
                    else:
                        other.append(str(outcome))
            with lock:
                replays += browser.replays

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, replays, [*other, f"on the primary: {elsewhere}"] if len(elsewhere) > times * 0.05 else other


def test_writes_are_each_read_on_a_random_replica(site: Site) -> None:
    """The note, and the session, which Django reads and writes by itself."""
    seen, replays, other = write_and_read(site, WRITES)
    assert (seen, other) == (WRITES, [])
    assert replays > WRITES * 0.4


@pytest.mark.parametrize("middleware", [BARE, [OURS, *BARE]], ids=["alone", "with Django's own"])
def test_wrapped_as_a_whole(middleware: list[str]) -> None:
    """Django in `litefs_watch.wsgi.LiteFSMiddleware`, which Django's own tells of sessions: writes, refused ones, bugs."""
    with simulated_site("gunicorn, wrapped", lag=0.01, MIDDLEWARE=middleware) as site:
        seen, replays, other = write_and_read(site, WRITES)
        assert (seen, other) == (WRITES, [])
        assert replays > WRITES * 0.4
        with site.browser() as browser:
            assert browser.ask("node-b", "GET", f"/touch/{next(_numbers)}").body == b"written"
            assert browser.replays == 1
            assert browser.cookies["litefs_pos"] == str(site.position())
            assert browser.ask("node-b", "GET", "/broken").status == 500
        if OURS in middleware:
            write_the_session(site)


@pytest.mark.litefs
@pytest.mark.skipif(not os.environ.get("LITEFS_BIN"), reason="LITEFS_BIN names no LiteFS binary")
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_real_litefs(server: str, tmp_path: Path) -> None:
    """The same on two real nodes."""
    with real_site(server, tmp_path) as site:
        seen, replays, other = write_and_read(site, 200)
        assert (seen, other) == (200, [])
        assert replays > 50
        with site.browser() as browser:
            for visits in range(1, 6):
                assert browser.ask("node-b", "GET", "/visit").json == {"visits": visits}
            assert browser.replays == 5


def test_async_views_see_their_writes_too(site: Site) -> None:
    """Under ASGI on the event loop, under WSGI each in a loop of its own."""
    seen, _, other = write_and_read(site, 100, "/async/notes")
    assert (seen, other) == (100, [])


def test_without_the_middleware_they_do_not() -> None:
    """What the test above would find."""
    with simulated_site("gunicorn", lag=0.05, MIDDLEWARE=BARE) as site:
        seen, replays, other = write_and_read(site, 60)
    assert seen < 30
    assert replays == 0
    assert any("'seen': False" in outcome for outcome in other)  # stale
    assert any(outcome.startswith("500") for outcome in other)  # refused


def test_a_write_on_a_replica_is_replayed(site: Site) -> None:
    """409 and nothing else; the application does not run."""
    with site.browser() as browser:
        reply = browser.ask("node-b", "POST", f"/notes/{next(_numbers)}", follow=False)
    assert (reply.status, reply.body) == (409, b"")
    assert reply.headers["fly-replay"] == "instance=node-a"
    assert reply.headers["cache-control"] == "no-store"
    assert "content-type" not in reply.headers
    assert "set-cookie" not in reply.headers


def test_the_cookie_is_set_after_a_write_only(site: Site) -> None:
    """With the position that has what the request's transaction and its session have committed."""
    with site.browser() as browser:
        written = browser.ask("node-a", "POST", f"/notes/{next(_numbers)}")
        assert browser.cookies["litefs_pos"] == str(site.position())
        assert written.headers["cache-control"] == "private"
        assert written.headers["litefs-txid"] == browser.cookies["litefs_pos"]
        assert "litefs_pos" not in browser.ask("node-a", "GET", "/notes/1").headers.get("set-cookie", "")
        assert "litefs_pos=pin; " in browser.ask("node-a", "POST", "/nothing").headers["set-cookie"]  # it may yet commit


def test_a_get_that_writes(site: Site) -> None:
    """On the primary it is marked; on a replica SQLite refuses it, and that becomes the replay, and no error."""
    with site.browser() as browser:
        assert browser.ask("node-c", "GET", f"/touch/{next(_numbers)}").body == b"written"
        assert browser.replays == 1
        assert browser.cookies["litefs_pos"] == str(site.position())


def test_a_get_that_writes_its_session(site: Site) -> None:
    """Its middleware saves it when the view is done: that is refused on a replica, and a write on the primary."""
    write_the_session(site)


def write_the_session(site: Site) -> None:
    with site.browser() as browser:
        for visits in range(1, 6):
            assert browser.ask(random.choice([*site.ports]), "GET", "/visit").json == {"visits": visits}
        assert browser.ask("node-a", "GET", "/visit").headers["litefs-txid"] == browser.cookies["litefs_pos"]
        assert browser.ask("node-b", "GET", "/visit", follow=False).headers["fly-replay"] == "instance=node-a"


def test_a_session_that_is_written_where_there_is_no_view() -> None:
    """By each request, also one for an address that does not exist; and by a middleware that answers by itself."""
    middleware = [OURS, "django.contrib.sessions.middleware.SessionMiddleware", "shop.middleware.remember"]
    always = simulated_site("gunicorn", lag=0.01, MIDDLEWARE=middleware, SESSION_SAVE_EVERY_REQUEST=True)
    with always as site, site.browser() as browser:
        assert browser.ask("node-a", "GET", "/visit").status == 200
        for path, status in (("/nowhere", 404), ("/remember", 204)):
            assert browser.ask("node-b", "GET", path, follow=False).headers["fly-replay"] == "instance=node-a"
            assert browser.ask("node-b", "GET", path).status == status
        assert browser.ask("node-a", "GET", "/bad").status == 400  # a view's own


def test_a_view_that_belongs_on_the_primary(site: Site) -> None:
    """`ensure_primary` in it."""
    with site.browser() as browser:
        assert browser.ask("node-b", "GET", "/primary").json == "node-a"
        assert browser.replays == 1


def test_a_view_that_waits_by_itself(site: Site) -> None:
    """For a transaction that comes while it does."""
    txid = site.position().txid + 1
    found: list[int] = []
    with site.browser() as browser, site.browser() as writer:
        thread = threading.Thread(target=lambda: found.append(browser.ask("node-b", "GET", f"/here/{txid}").json))
        thread.start()
        writer.ask("node-a", "POST", f"/notes/{next(_numbers)}")
        thread.join(20)
    assert found
    assert found[0] >= txid


def test_an_error_of_the_application_stays_one(site: Site) -> None:
    """On each node."""
    with site.browser() as browser:
        for hostname in site.ports:
            reply = browser.ask(hostname, "GET", "/broken")
            assert reply.status == 500
            assert b"Server Error" in reply.body


def test_a_replayed_write_on_a_replica_is_sent_on_but_not_back(site: Site) -> None:
    """No loops: it is counted, or 503 at once."""
    with site.browser() as browser:
        sent = {"fly_replay_src": "instance=node-x;region=ams;t=1"}
        reply = browser.ask("node-b", "POST", "/nothing", follow=False, **sent)
        assert reply.headers["fly-replay"] == "instance=node-a;state=litefs.2.0"
        reply = browser.ask("node-b", "POST", "/nothing", fly_replay_src="instance=node-a;region=ams;t=1")
    assert reply.status == 503
    assert "fly-replay" not in reply.headers
    assert reply.headers["retry-after"] == "1"
