"""A client of LiteFS's event stream that hides nothing, and a way to wait for what nobody announces."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import SimulatedCluster, SimulatedNode

PATIENCE = 10.0
"""Seconds, before a test fails instead of waiting on."""


class Stream:
    """``GET /events``, chunk by chunk."""

    def __init__(self, node: SimulatedNode) -> None:
        host, _, port = node.api_url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.socket.sendall(b"GET /events HTTP/1.1\r\nHost: litefs\r\n\r\n")
        self.file = self.socket.makefile("rb")
        self.head = b""
        """The status line and the headers; empty where the server closed the connection instead."""
        while (line := self.file.readline()) not in (b"", b"\r\n"):
            self.head += line

    def chunk(self) -> bytes:
        """The next chunk's data; empty for the one that ends a stream properly. Raises `EOFError` where it just stops."""
        size = self.file.readline()
        if not size:
            raise EOFError
        data = self.file.read(int(size, 16))
        self.file.read(2)
        return data

    def event(self) -> dict[str, Any]:
        line = self.chunk()
        assert line.endswith(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def role(self) -> tuple[str, bool, str | None]:
        """The next event, which is about the role."""
        event = self.event()
        return event["type"], event["data"]["isPrimary"], event["data"].get("hostname")

    def txid(self) -> int:
        """The TXID of the next event, which is a transaction."""
        event = self.event()
        assert event["type"] == "tx"
        return int(event["data"]["txID"], 16)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def open_stream() -> Iterator[Callable[[SimulatedNode], Stream]]:
    """Open event streams; ``init`` is still to be read from them."""
    streams = []

    def open_one(node: SimulatedNode) -> Stream:
        streams.append(Stream(node))
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition that nobody announces, such as a file's content."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            pause.wait(0.001)

    return wait


@pytest.fixture(params=["delete", "wal"])
def mode(request: pytest.FixtureRequest) -> str:
    """SQLite's journal mode."""
    return str(request.param)


@pytest.fixture
def cluster(tmp_path: Path, mode: str) -> Iterator[SimulatedCluster]:
    """Three nodes with a table of one column, in either journal mode, and no lag."""
    with SimulatedCluster(directory=tmp_path, lag=0, regions=("ams", "iad")) as cluster:
        with closing(cluster.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("CREATE TABLE t (x)")
        cluster.wait_until_replicated()
        yield cluster
