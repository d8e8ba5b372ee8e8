"""The code of all other pages is run: each block on a simulated node, and each test that it defines."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure
from tests.docs.pages import PAGES, blocks, execute
from tests.environment import environment_of
from tests.jobs.signals import unwatch

ELSEWHERE = {"watcher.md", "middleware.md", "howto/applications.md"}
"""Their blocks are run by tests/test_readme.py, and by tests/applications."""
BLOCKS = [
    pytest.param(page, code, id=f"{page}-{number}")
    for page in PAGES
    if not page.startswith("start/") and page not in ELSEWHERE
    for number, code in enumerate(blocks(page), start=1)
]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNode]:
    """The node that the environment tells of."""
    with SimulatedNode() as node:
        for name, value in environment_of(node).items():
            monkeypatch.setenv(name, value)
        yield node


def check(module: dict[str, Any], node: SimulatedNode) -> None:
    """Its tests pass, and its application starts."""
    for name, test in [item for item in module.items() if item[0].startswith("test_")]:
        arguments = [node] if "litefs_node" in inspect.signature(test).parameters else []
        if inspect.iscoroutinefunction(test):
            anyio.run(test, *arguments, backend_options={})
        else:
            assert test(*arguments) is None, name
    if (app := module.get("app")) is not None:
        with TestClient(app, base_url="https://testserver") as client:
            assert client.get("/nowhere").status_code == 404


@pytest.fixture(autouse=True)
def logger_stays() -> Iterator[None]:
    """A page may set it up."""
    logger = logging.getLogger("litefs_watch")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_a_block_runs(page: str, code: str, node: SimulatedNode) -> None:
    """As a module; an application in it starts, and answers."""
    configure()  # Django's tasks ask for their settings
    module = execute(code, page)
    check(module, node)
    if (celery := module.get("celery")) is not None:
        unwatch(celery)


def test_a_session_with_the_scope_of_its_function_is_in_the_cookie(node: SimulatedNode) -> None:
    """FastAPI's remedy for late commits, with a commit where the page has one."""
    code = blocks("howto/late-commits.md")[0].replace("# session.commit()", "commit()")
    module = execute(code, "howto/late-commits.md")
    module["commit"] = node.commit
    with TestClient(module["app"], base_url="https://testserver") as client:
        assert client.post("/orders").cookies["litefs_pos"].startswith("0000000000000002/")


def test_the_lifespan_of_one_s_own_gives_both(node: SimulatedNode) -> None:
    """The watcher's state, and the application's."""
    module = execute(blocks("howto/order.md")[0], "howto/order.md")

    async def states() -> None:
        async with module["lifespan"](module["app"]) as state:
            assert state == {"litefs": module["watcher"], "greeting": "hello"}
            assert module["watcher"].is_primary

    anyio.run(states)


def test_a_websocket_writes_on_the_primary_and_hears_positions(node: SimulatedNode) -> None:
    """Both handlers of the page, and the denial on a replica."""
    app = execute(blocks("howto/websockets.md")[0], "howto/websockets.md")["app"]
    with TestClient(app) as client, client.websocket_connect("/chat") as chat:
        chat.send_text("hello")
        assert chat.receive_text() == "hello"
