"""Real LiteFS nodes under chaos, each a candidate for the lease that a stand-in for Consul gives."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from litefs_watch import Position
from tests.chaos.app import Connect, Maintenance, Store, create, newest
from tests.chaos.client import Record
from tests.chaos.runs import Machine, Run, Scene
from tests.contract.consul import Consul
from tests.contract.real import RealNode, free_port, until

TTL = 3
"""Seconds that a lease lasts. With Consul itself it is 10 or more; `SILENCE` is as much less than the default."""
SILENCE = 1.0
"""Seconds: `Settings.silence`."""
LOCKED = 0.5
"""Seconds that the application waits for SQLite's lock."""
SOON = 30.0
"""Seconds after which a cluster that has not healed is a failure."""

LEASE = f"""\
lease:
  type: "consul"
  hostname: "%s"
  advertise-url: "%s"
  candidate: true
  reconnect-delay: "0.2s"
  demote-delay: "1s"
  consul:
    url: "%s"
    key: "chaos"
    ttl: "{TTL}s"
    lock-delay: "0s"
"""


class LeasedNode(RealNode):
    """A node that any other can take the lease from."""

    def __init__(self, binary: str, directory: Path, hostname: str, consul: Consul) -> None:
        port = free_port()
        super().__init__(binary, directory, hostname, port, primary=hostname, primary_port=port)
        fixed, _, _ = self._config.read_text().partition("lease:")
        self._config.write_text(fixed + LEASE % (hostname, self.api_url, consul.url))

    def start(self) -> None:
        """Mount anew, also where a dead process has left its mount. Returns at once."""
        subprocess.run(["umount", "-l", str(self.litefs_dir)], check=False, capture_output=True)
        with self._log.open("ab") as log:
            command = [self._binary, "mount", "-config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def running(self) -> bool:
        """LiteFS ends itself where a transaction loses its write access."""
        return self._process is not None and self._process.poll() is None

    def info(self) -> dict[str, Any]:
        """What LiteFS says of itself. Raises `OSError`."""
        with urllib.request.urlopen(f"{self.api_url}/info", timeout=1) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def leads(self) -> bool:
        """Whether it says that it is the primary."""
        try:
            return bool(self.info()["isPrimary"])
        except OSError:
            return False

    def promote(self) -> None:
        """Ask for the primary's role. Raises `OSError`."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.api_url}/promote", method="POST"), timeout=2):
            pass

    def stop(self) -> None:
        """As `RealNode.stop`, and by force where the mount is busy."""
        self._signal(signal.SIGTERM)
        try:
            self._reap()
        except subprocess.TimeoutExpired:
            self.kill()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=3)
            self._process = None

    def log(self) -> str:
        return self._log.read_text()


class RealFaults:
    """What goes wrong, one thing after the other, until ``seconds`` are over; then the record is."""

    def __init__(
        self, nodes: list[LeasedNode], consul: Consul, chance: random.Random, record: Record, seconds: float
    ) -> None:
        self.done: Counter[str] = Counter()
        self.in_vain: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._nodes = nodes
        self._consul = consul
        self._chance = chance
        self._record = record
        self._until = time.monotonic() + seconds
        self._over = threading.Event()
        faults: dict[Callable[[], object], int] = {
            self.hand_over: 3,
            self.kill_primary: 3,
            self.freeze_primary: 2,
            self.stop_primary: 1,
            self.kill_replica: 1,
            self.freeze_replica: 1,
            self.block_replica: 2,
        }
        self._faults = faults

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                (fault,) = self._chance.choices(list(self._faults), list(self._faults.values()))
                try:
                    fault()
                    self.done[fault.__name__] += 1
                except (OSError, TimeoutError) as error:
                    self.in_vain[f"{fault.__name__}: {error}"] += 1
                self._mend()
                self._last(0.5)
            self._record.finish()
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self.failure = error
            self._record.finish()

    def end(self) -> None:
        if self.failure is not None:
            raise self.failure
        self._mend()
        until(self._in_step, "all nodes are in step", SOON)

    def _in_step(self) -> bool:
        self._mend()
        try:
            positions = {node.position() for node in self._nodes}
        except (OSError, ValueError):
            return False
        return len(positions) == 1 and any(node.leads() for node in self._nodes)

    def _mend(self) -> None:
        for node in self._nodes:
            node.thaw()
            if not node.running:
                node.start()

    def _last(self, average: float) -> None:
        """Let a state last some seconds."""
        self._over.wait(self._chance.uniform(0.2, 1.8) * average)

    def _primary(self) -> LeasedNode:
        """Raises `TimeoutError` where there is none for too long."""
        until(lambda: any(node.leads() for node in self._nodes), "there is a primary", 3 * TTL)
        return next((node for node in self._nodes if node.leads()), self._nodes[0])

    def _replica(self) -> LeasedNode:
        primary = self._primary()
        return self._chance.choice([node for node in self._nodes if node is not primary])

    def hand_over(self) -> None:
        replica = self._replica()
        replica.promote()
        until(replica.leads, f"{replica.hostname} is the primary", 5)

    def kill_primary(self) -> None:
        """With what nobody else has: its replicas are down for a while. (What one was sent, it would still apply.)"""
        primary = self._primary()
        replicas = [node for node in self._nodes if node is not primary]
        for replica in replicas:
            replica.kill()
        self._last(0.4)
        primary.kill()
        self._consul.end_all()
        for replica in replicas:
            replica.start()
        self._last(0.5)
        primary.start()

    def freeze_primary(self) -> None:
        """Its lease ends, and another one takes it.

        No process may be started meanwhile: its copies of open files are closed, and on a frozen mount that waits.
        """
        primary = self._primary()
        primary.freeze()
        self._over.wait(TTL + 1.0)
        self._last(1.0)
        primary.thaw()

    def stop_primary(self) -> None:
        primary = self._primary()
        primary.stop()
        self._last(0.5)
        primary.start()

    def kill_replica(self) -> None:
        replica = self._replica()
        replica.kill()
        self._last(0.5)
        replica.start()

    def freeze_replica(self) -> None:
        replica = self._replica()
        replica.freeze()
        self._last(0.5)
        replica.thaw()

    def block_replica(self) -> None:
        """As by an open read transaction."""
        with closing(self._block(self._replica())):
            self._last(0.5)

    def _block(self, node: LeasedNode) -> sqlite3.Connection:
        blocker = sqlite3.connect(
            f"file:{node.litefs_dir}/app.db?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        with suppress(sqlite3.Error):
            blocker.execute("BEGIN")
            blocker.execute("SELECT count(*) FROM writes").fetchone()
        return blocker


class Real(Scene):
    """``size`` nodes in ``directory``, for ``seconds``."""

    def __init__(self, run: Run, directory: Path, *, size: int, seconds: float) -> None:
        super().__init__(run)
        self._directory = directory
        self._size = size
        self._seconds = seconds
        self._nodes: list[LeasedNode] = []

    def prepare(self) -> None:
        self._consul = self.stack.enter_context(Consul().running())
        for number in range(self._size):
            name = f"node-{chr(ord('a') + number)}"
            node = LeasedNode(os.environ["LITEFS_BIN"], self._directory / name, name, self._consul)
            self._nodes.append(node)
            self.stack.callback(node.close)
            node.start()
            settings = node.settings(idle_interval=SILENCE / 3, silence=SILENCE)
            self.machines[name] = Machine(settings, Store(name, connector(node), Maintenance()))
        until(lambda: any(node.leads() for node in self._nodes), "there is a primary")
        primary = next(node for node in self._nodes if node.leads())
        with closing(sqlite3.connect(primary.litefs_dir / "app.db", isolation_level=None)) as connection:
            create(connection, [])
        until(lambda: len({position_of(node) for node in self._nodes}) == 1, "all have the table")

    def make_faults(self) -> RealFaults:
        chance = random.Random(f"{self.run.seed}/faults")
        return RealFaults(self._nodes, self._consul, chance, self.run.record, self._seconds)

    def log(self) -> list[str]:
        primary = next(node for node in self._nodes if node.leads())
        with closing(connector(primary)(writing=False)) as connection:
            return newest(connection, -1)[::-1]


def position_of(node: LeasedNode) -> Position | None:
    try:
        return node.position()
    except OSError:
        return None


def connector(node: LeasedNode) -> Connect:
    def connect(*, writing: bool) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{node.litefs_dir}/app.db?mode=rw", uri=True, timeout=LOCKED, isolation_level=None)

    return connect
