"""A sidecar in this process, of a simulated node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import anyio
import httpx2
import pytest

from litefs_watch import Watcher
from litefs_watch.serve.app import Sidecar
from litefs_watch.serve.options import Options
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import SOON


@dataclass
class Served:
    """What a test has of it."""

    node: SimulatedNode
    watcher: Watcher
    sidecar: Sidecar
    client: httpx2.AsyncClient

    @property
    def app(self) -> Any:
        return self.sidecar.app

    async def ask(self, path: str, **headers: str) -> httpx2.Response:
        with anyio.fail_after(SOON):
            return await self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def refused(self, path: str, status: int, **headers: str) -> str:
        """The words of a refusal."""
        response = await self.ask(path, **headers)
        assert response.status_code == status, response.text
        return cast("str", response.json()["error"])


@asynccontextmanager
async def served(node: SimulatedNode, options: Options | None = None, **settings: Any) -> AsyncIterator[Served]:
    async with Watcher(node.settings(**settings)) as watcher:
        sidecar = Sidecar(watcher, options or Options())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sidecar.events.run, watcher.changes())
            transport = httpx2.ASGITransport(cast("Any", sidecar.app))
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield Served(node, watcher, sidecar, client)
            tasks.cancel_scope.cancel()


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    """The primary, with two transactions."""
    with SimulatedNode() as node:
        node.commit()
        yield node


@pytest.fixture
async def here(node: SimulatedNode) -> AsyncIterator[Served]:
    """With the limits that it has by default."""
    async with served(node) as found:
        await found.watcher.wait_for_tx(1, timeout=20)
        yield found
