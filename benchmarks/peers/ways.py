"""The servers on the replica, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.real import RealPair, free_port

PROXY = """\
proxy:
  addr: "127.0.0.1:{port}"
  target: "127.0.0.1:{target}"
  db: "app.db"
"""


@dataclass(frozen=True)
class Way:
    name: str
    port: int
    process: int
    """The server's."""
    header: Callable[[int], str]
    """What a client sends that has seen a TXID."""
    litefs_waits: bool = False
    """Whether it is LiteFS itself that waits."""


def _txid(txid: int) -> str:
    return f"litefs-txid: {txid:016x}"


def _proxy(txid: int) -> str:
    return f"cookie: __txid={txid:016x}"


def _number(txid: int) -> str:
    return f"cookie: txnum={txid}"


def _nothing(txid: int) -> str:
    return ""


BARE = "a request that waits for nothing"
OURS = "litefs_watch"
LOOP = "litefs-js's loop put right, in Python"
PROXIED = "LiteFS's proxy"
JS = "litefs-js under node"


@contextmanager
def pair_with_proxy(directory: Path) -> Iterator[tuple[RealPair, int, int]]:
    """Two nodes, the replica's proxy, and the port of the application behind that."""
    pair = RealPair(directory)
    target, port = free_port(), free_port()
    config = pair.replica._config
    config.write_text(config.read_text() + PROXY.format(port=port, target=target))
    with pair:
        yield pair, port, target


@contextmanager
def ways(pair: RealPair, proxy: int, target: int, directory: Path) -> Iterator[list[Way]]:
    """All that can be had."""
    replica = pair.replica
    environment = os.environ | {
        "LITEFS_DIR": str(replica.litefs_dir),
        "DATABASE_FILENAME": "app.db",
        "LITEFS_API_URL": replica.api_url,
        "LITEFS_DATA_DIR": str(replica.data_dir),
        "FLY_MACHINE_ID": replica.hostname,
    }
    with ExitStack() as stack:

        def start(command: list[str], port: int) -> int:
            process = subprocess.Popen(command, env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            _until_it_answers(port)
            return process.pid

        def python(name: str, port: int) -> int:
            return start([sys.executable, "-m", "benchmarks.peers.serving", name, str(port)], port)

        litefs = replica._process
        assert litefs is not None
        found = [Way(BARE, target, python("bare", target), _nothing)]
        found.append(Way(OURS, port := free_port(), python("ours", port), _txid))
        found.append(Way(PROXIED, proxy, litefs.pid, _proxy, litefs_waits=True))
        found.append(Way(LOOP, port := free_port(), python("loop", port), _number))
        if (installed := install(directory)) is not None:
            script = str(Path(__file__).with_name("litefs_js.mjs"))
            found.append(Way(JS, port := free_port(), start(["node", script, installed, str(port)], port), _number))
        yield found


def install(directory: Path) -> str | None:
    """litefs-js, from the registry that npm knows. None, and why, where it can't be had."""
    if shutil.which("npm") is None:
        print("\n(no litefs-js: npm is not here)")
        return None
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory), "litefs-js@2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"\n(no litefs-js: {done.stderr.strip()[-200:]})")
        return None
    return str(directory)


def _until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
