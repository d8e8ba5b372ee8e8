"""Real LiteFS nodes on loopback, with a static lease: a primary and its replica. Needs root, FUSE and ``LITEFS_BIN``."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from litefs_watch import Position, Settings
from litefs_watch.testing import fuse_available

CONFIG = """\
fuse:
  dir: "{mount}"
data:
  dir: "{data}"
http:
  addr: "127.0.0.1:{port}"
lease:
  type: "static"
  hostname: "{primary}"
  advertise-url: "http://127.0.0.1:{primary_port}"
  candidate: {candidate}
"""


def reason_against_real() -> str | None:
    """Why real nodes can't run here; None where they can."""
    return fuse_available() if os.environ.get("LITEFS_BIN") else "LITEFS_BIN does not name a LiteFS binary"


def until(condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Another process gives no other sign: ask it again until it is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RealNode:
    """One node, with the calls of `SimulatedNode` that a test of both needs."""

    def __init__(self, binary: str, directory: Path, hostname: str, port: int, *, primary: str, primary_port: int) -> None:
        self.hostname = hostname
        self.litefs_dir = directory / "mnt"
        self.data_dir = directory / "data"
        self.api_url = f"http://127.0.0.1:{port}"
        self.is_primary = port == primary_port
        self._binary = binary
        self._config = directory / "litefs.yml"
        self._log = directory / "litefs.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.litefs_dir.mkdir(parents=True)
        self.data_dir.mkdir()
        self._config.write_text(
            CONFIG.format(
                mount=self.litefs_dir,
                data=self.data_dir,
                port=port,
                primary=primary,
                primary_port=primary_port,
                candidate=str(self.is_primary).lower(),
            )
        )

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._binary, "mount", "-config", str(self._config)], stdout=log, stderr=log)
        until(self._answers, f"{self.hostname} answers; its log:\n{self._log.read_text()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/info", timeout=1) as response:
                body = response.read()  # a primary-to-be that has not its lease yet answers, and refuses each write
                return bool(json.loads(body)["isPrimary"]) or not self.is_primary
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        self.thaw()
        self._signal(signal.SIGTERM)
        self._reap()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=20)
            self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.thaw()
        self.kill()
        subprocess.run(["umount", "-l", str(self.litefs_dir)], check=False, capture_output=True)

    def position(self, database: str = "app.db") -> Position:
        return Position.parse((self.litefs_dir / f"{database}-pos").read_bytes())

    def settings(self, **overrides: Any) -> Settings:
        known: dict[str, Any] = {"litefs_dir": self.litefs_dir, "database": "app.db", "api_url": self.api_url}
        return Settings(**(known | {"hostname": self.hostname, "data_dir": self.data_dir} | overrides))


class RealPair:
    """A primary, ``node-a``, and its replica."""

    def __init__(self, directory: Path, binary: str | None = None) -> None:
        binary = binary or os.environ["LITEFS_BIN"]
        ports = free_port(), free_port()
        shared = {"primary": "node-a", "primary_port": ports[0]}
        self.primary = RealNode(binary, directory / "a", "node-a", ports[0], **shared)  # type: ignore[arg-type]
        self.replica = RealNode(binary, directory / "b", "node-b", ports[1], **shared)  # type: ignore[arg-type]

    def __enter__(self) -> RealPair:
        try:
            self.primary.start()
            self.replica.start()
            self.commit()
            until(self._in_step, "the replica has the first transaction")
        except BaseException:
            self.close()
            raise
        return self

    def _in_step(self) -> bool:
        try:
            return self.replica.position() == self.primary.position()
        except OSError:
            return False

    def commit(self, database: str = "app.db") -> Position:
        """One transaction on the primary. Returns its position; the replica follows when it does."""
        with closing(sqlite3.connect(self.primary.litefs_dir / database)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
        return self.primary.position(database)

    def drop_database(self, database: str) -> Position:
        (self.primary.litefs_dir / database).unlink()
        return self.primary.position(database)

    def restart(self, node: RealNode) -> None:
        node.start()

    def close(self) -> None:
        self.replica.close()
        self.primary.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
