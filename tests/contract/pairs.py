"""The same pair of nodes three times: simulated in an ordinary directory, simulated on a FUSE mount, and real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Protocol

from litefs_watch import Position, Settings
from litefs_watch.testing import SimulatedCluster


class Node(Protocol):
    hostname: str

    @property
    def litefs_dir(self) -> Any: ...
    @property
    def data_dir(self) -> Any: ...
    @property
    def api_url(self) -> str: ...
    def settings(self, **overrides: Any) -> Settings: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class Pair(Protocol):
    """A primary named ``node-a`` and its replica ``node-b``, in step, with a database ``app.db`` that has a table."""

    primary: Any
    replica: Any

    def commit(self, database: str = "app.db") -> Position: ...
    def drop_database(self, database: str) -> Position: ...
    def restart(self, node: Any) -> None: ...


class SimulatedPair:
    def __init__(self, *, fuse: bool) -> None:
        self._cluster = SimulatedCluster(size=2, lag=0.001, fuse=fuse)

    def __enter__(self) -> SimulatedPair:
        self._cluster.start()
        self.primary, (self.replica,) = self._cluster.primary, self._cluster.replicas
        self.commit()
        self._cluster.wait_until_replicated()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cluster.stop()

    def commit(self, database: str = "app.db") -> Position:
        if database not in self.primary.databases:
            self._cluster.create_database(database)
        with closing(self._cluster.connect(self.primary.hostname, database)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
        return self.primary.position(database)

    def drop_database(self, database: str) -> Position:
        return self._cluster.drop_database(database)

    def restart(self, node: Any) -> None:
        self._cluster.restart(node.hostname)


@contextmanager
def thawed(node: Node) -> Iterator[None]:
    """Freeze a node; whatever happens, it goes on."""
    node.freeze()
    try:
        yield
    finally:
        node.thaw()
