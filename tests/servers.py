"""Any application on the servers that people use, each in a process of its own, over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]

_SERVERS = {
    "uvicorn": ["uvicorn", "--log-level", "warning", "--ws", "wsproto", "--timeout-graceful-shutdown", "1", "--fd", "{fd}"],
    "hypercorn": ["hypercorn", "--graceful-timeout", "1", "-b", "fd://{fd}"],
    "hypercorn-trio": ["hypercorn", "-k", "trio", "--graceful-timeout", "1", "-b", "127.0.0.1:{port}"],
    "granian": ["granian", "--interface", "asgi", "--no-log", "--workers-kill-timeout", "1", "--port", "{port}"],
    "daphne": ["daphne", "-v", "0", "--fd", "{fd}"],
    "gunicorn": ["gunicorn", "-k", "gthread", "-w", "1", "--threads", "8", "--graceful-timeout", "1", "-b", "fd://{fd}"],
}

ASGI_SERVERS = ("uvicorn", "hypercorn", "hypercorn-trio", "granian", "daphne")


@contextmanager
def serve(server: str, app: str, *options: str, **environment: str) -> Iterator[int]:
    """Serve ``app`` (as ``module:name``) with the server's ``options``; gives the port, which takes connections."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as log, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port, inherits = sock.getsockname()[1], "{fd}" in " ".join(_SERVERS[server])
        if inherits:
            sock.listen(512)
        else:
            sock.close()
        words = [word.format(fd=sock.fileno(), port=port) for word in _SERVERS[server]]
        process = subprocess.Popen(
            [sys.executable, "-m", *words, *options, app],
            cwd=ROOT,
            env=env | {"HOME": home},
            pass_fds=[sock.fileno()] if inherits else [],
            stdout=log,
            stderr=log,
        )
        try:
            if not inherits:
                _wait_until_it_listens(process, port)
            yield port
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """For those that take no open socket: they say when they have started, not when they listen."""
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError("the server did not start")
