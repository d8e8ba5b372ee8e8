"""Each framework's own way to commit after the response has started, on a lagging cluster and on LiteFS itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from litefs_watch import Watcher
from litefs_watch.asgi import LifespanMiddleware, LiteFSMiddleware
from tests.asgi.late_apps import BACKGROUND, EXITS, STREAMS, Make, fastapi_dependency
from tests.asgi.serving import serve
from tests.late import SOON, WHERE, Ask, Shop, beside_control, stale_reads, two_nodes


@dataclass
class Site:
    """The application on two nodes; and, as the control, without the middleware on the primary's machine alone."""

    write: Ask
    read: Ask
    shop: Shop
    control: Ask
    beside: Shop
    replays: list[str]


@contextmanager
def site(where: str, directory: Path, make: Make, **options: Any) -> Iterator[Site]:
    with ExitStack() as stack:
        two = stack.enter_context(two_nodes(where, directory))
        urls, shops, replays = {}, {}, []
        for node in (two.primary, two.replica):
            shops[node.hostname] = Shop(partial(two.connect, node.hostname))
            watcher = Watcher(node.settings())
            app: Any = LifespanMiddleware(make(shops[node.hostname]), watcher)
            app = LiteFSMiddleware(app, watcher, secure=False, timeout=SOON, on_timeout="error", **options)
            urls[node.hostname] = stack.enter_context(serve(app))
        beside = Shop(partial(two.connect, two.primary.hostname))
        urls["alone"] = stack.enter_context(serve(make(beside), lifespan="auto"))
        client = stack.enter_context(httpx2.Client(timeout=SOON))
        plain = stack.enter_context(httpx2.Client(timeout=SOON))

        def ask(hostname: str, method: str, path: str) -> Any:
            answer = (plain if hostname == "alone" else client).request(method, urls[hostname] + path)
            if answer.status_code == 409:
                replays.append(path)
                to = answer.headers["fly-replay"].removeprefix("instance=")
                answer = client.request(method, urls[to] + path, headers={"fly-replay-src": f"instance={hostname}"})
            assert answer.status_code in (200, 201), answer
            return json.loads(answer.content)

        write, read = partial(ask, two.primary.hostname), partial(ask, two.replica.hostname)
        yield Site(write, read, shops[two.primary.hostname], partial(ask, "alone"), beside, replays)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("make", EXITS, ids=lambda make: make.__name__)
def test_a_commit_in_a_dependency_s_exit_or_a_teardown_is_read(make: Make, where: str, tmp_path: Path) -> None:
    """On the replica itself, 50 times of 50: the response has waited for the commit, and carries its position."""
    with site(where, tmp_path, make, late_commits=SOON) as here:
        assert stale_reads(here.write, here.read) == 0
        assert here.replays == []


@pytest.mark.parametrize("where", WHERE)
def test_without_holding_they_are_read_on_the_primary(where: str, tmp_path: Path) -> None:
    """The pin sends each read there; how many have come too late even there is a matter of luck, as on one machine."""
    with site(where, tmp_path, fastapi_dependency, late_commits=0) as here:
        stale_reads(here.write, here.read)
        assert len(here.replays) == 50


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("make", BACKGROUND, ids=lambda make: make.__name__)
def test_a_background_task_is_never_staler_than_on_one_machine(make: Make, where: str, tmp_path: Path) -> None:
    """What it has committed is read, and what it has not is not, there as here."""
    with site(where, tmp_path, make, late_commits=0.001) as here:
        seen, expected = beside_control(here.write, here.read, here.shop, here.control, here.beside)
        assert seen == expected
        assert 10 < sum(expected) < 40


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("make", STREAMS, ids=lambda make: make.__name__)
def test_what_a_stream_writes_while_it_streams_is_read(
    make: Make, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """50 times of 50, as on one machine; and the log says what to do."""
    with site(where, tmp_path, make) as here, caplog.at_level(logging.WARNING, "litefs_watch"):
        assert stale_reads(here.write, here.read) == 0
        assert stale_reads(partial(_shifted, here.control), partial(_shifted, here.control)) == 0
    assert len([said for said in caplog.messages if "commits after its response" in said]) == 1


def _shifted(ask: Ask, method: str, path: str) -> Any:
    """The control's orders have numbers of their own."""
    base, _, number = path.rpartition("/")
    return ask(method, f"{base}/{int(number) + 100}")
