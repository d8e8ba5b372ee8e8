"""FastAPI dependencies: the watcher, and 'run this on the primary', 'run this on that instance'.

::

    from litefs_watch.fastapi import LiteFS, ensure_instance, ensure_primary

    @app.get("/checkout", dependencies=[Depends(ensure_primary)])
    async def checkout(): ...

    @app.get("/cache", dependencies=[Depends(ensure_instance("node-a"))])
    async def cache(litefs: LiteFS): ...

With `litefs_watch.asgi.LiteFSMiddleware` around the application, whoever asks the wrong node is sent to the right one. Put
these dependencies first: what has run before them (a database session) has run on the wrong node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from litefs_watch.asgi.types import WATCHER_KEY
from litefs_watch.errors import ConfigError
from litefs_watch.watchers.watcher import Watcher


async def get_watcher(connection: HTTPConnection) -> Watcher:
    """The watcher of the middleware around the application, or that which ``FastAPI(lifespan=watcher.lifespan)`` runs.

    Raises `ConfigError` where there is none.
    """
    watcher = connection.scope.get(WATCHER_KEY) or getattr(connection.state, "litefs", None)
    if not isinstance(watcher, Watcher):
        raise ConfigError(
            "no watcher is known: add litefs_watch.asgi.LiteFSMiddleware to the application, or make it with "
            "FastAPI(lifespan=watcher.lifespan)"
        )
    return watcher


LiteFS = Annotated[Watcher, Depends(get_watcher)]
"""The type of a parameter that is to be the watcher."""


async def ensure_primary(watcher: LiteFS) -> None:
    """Run the handler on the primary only. Raises `NotPrimary` or `NoPrimary`, which the middleware answers."""
    watcher.ensure_primary()


def ensure_instance(hostname: str) -> Callable[[Watcher], object]:
    """A dependency: run the handler on the node ``hostname`` only. Raises `WrongInstance`, which the middleware answers."""

    async def ensure(watcher: LiteFS) -> None:
        watcher.ensure_instance(hostname)

    return ensure
