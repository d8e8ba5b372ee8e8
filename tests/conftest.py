"""Every test runs on asyncio and on trio, with warnings as errors, and fails when the library blocks the loop's thread.

A read of a frozen LiteFS's mount on that thread would freeze the application. The simulator is exempt: it plays the part of
another process.
"""

from __future__ import annotations

import inspect
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

import litefs_watch
from litefs_watch import Settings, Watcher

PACKAGE = str(Path(litefs_watch.__file__).parent)
SIMULATOR = str(Path(PACKAGE) / "testing")

# No test depends on a clock: on a busy machine a first run takes what it takes.
hypothesis_settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("tests")


class BlockingCallError(Exception):
    """The library made a blocking call on trio's thread."""


def _refuse_on_trio(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: blockbuster knows asyncio only, and what blocks there (files, connections, sleep) is audited."""
    if event not in {"open", "os.listdir", "os.scandir", "time.sleep", "socket.getaddrinfo", "subprocess.Popen"}:
        return
    if not trio.lowlevel.in_trio_run():
        return
    frame = inspect.currentframe()
    files = []
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen", "linecache")):
            return  # an import, or a traceback for the log
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    if any(name.startswith(PACKAGE) and not name.startswith(SIMULATOR) for name in files):
        raise BlockingCallError(f"{event}{arguments[:1]} on the event loop's thread")


sys.addaudithook(_refuse_on_trio)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; the commands under test inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup, likewise
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

Watcher(Settings("/nowhere"))  # what the first watcher imports and builds reads files: once, and not in a test


@pytest.fixture(scope="session", autouse=True)
def ordinary_clusters() -> Iterator[None]:
    """A simulated cluster that isn't asked for FUSE mounts does without: they take half a second to start, and more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.testing.cluster.fuse_available", lambda: "it was not asked for")
        yield


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def blocking_calls_fail() -> Iterator[None]:
    with blockbuster_ctx(scanned_modules="litefs_watch", excluded_modules=["litefs_watch.testing"]) as blockbuster:
        for function in blockbuster.functions.values():  # the simulator's, of an earlier test, whenever garbage is collected
            function.can_block_in("weakref.py", "__call__")
        yield


@pytest.fixture(autouse=True)
def package_logger_stays() -> Iterator[None]:
    """The command, run in this process, logs errors to stderr, and nothing else: later tests would see no warning."""
    logger = logging.getLogger("litefs_watch")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def root_logger_stays() -> Iterator[None]:
    """What a test has put there (Litestar does, unless told otherwise) would write all later logs to a closed file."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
