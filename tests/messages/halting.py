"""What is said of LiteFS's HALT lock. What LiteFS answers is the process's that holds the lock, which these stand in for."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from litefs_watch.core.readings import Mount
from litefs_watch.halt import halted
from litefs_watch.halt.holder import EXPIRED, HELD, LOST
from tests.messages.provoking import Case, case

DIRECTORY = Path("/litefs")


def holder(*words: str, complaint: str = "", ends: bool = True) -> Callable[..., Any]:
    """One that says those words to who has started it."""

    def launch(lock: Path, lifetime: float, theirs: socket.socket) -> Any:
        theirs.sendall("".join(f"{word}\n" for word in (*words, *complaint.split("\n"))).encode())
        if not ends:
            launch.__dict__["kept"] = theirs.dup()
        return SimpleNamespace(wait=lambda patience: 1, poll=lambda: None)

    return launch


def halting(launch: Callable[..., Any], timeout: float = 5.0) -> Callable[[], None]:
    def provoke() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("litefs_watch.halt.client.mount_kind", lambda directory, mountinfo: Mount.LITEFS)
            patch.setattr("litefs_watch.halt.client.launch", launch)
            try:
                with halted("app.db", litefs_dir=DIRECTORY, timeout=timeout):
                    pass
            finally:
                if (kept := launch.__dict__.pop("kept", None)) is not None:
                    kept.close()

    return provoke


def no_python(*_: object) -> NoReturn:
    raise OSError(errno.ENOENT, "No such file or directory", "/usr/bin/python3")


def no_descriptors() -> None:
    def read(**_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.halt.client.Path", lambda path: SimpleNamespace(read_text=read))
        with halted("app.db", litefs_dir=DIRECTORY):
            pass


def on_a_directory() -> None:
    with halted("app.db", litefs_dir="/tmp"):
        pass


CASES: list[Case] = [
    case(on_a_directory, "/tmp", "LITEFS_STANDALONE=1"),
    case(no_descriptors, "/litefs", "Too many open files"),
    case(halting(no_python), "/usr/bin/python3"),
    case(halting(holder(str(errno.ENOENT))), "app.db", "/litefs"),
    case(halting(holder(str(errno.EIO))), "app.db"),
    case(halting(holder(str(errno.EACCES))), "app.db", "Permission denied"),
    case(halting(holder(complaint="Fatal Python error: no memory")), "status 1", "no memory"),
    case(halting(holder(ends=False), 0.01), "app.db", "0.0 s"),
    case(halting(holder(HELD, EXPIRED)), "app.db", "30 s"),
    case(halting(holder(HELD, LOST)), "app.db"),
    case(halting(holder(HELD)), "app.db", "killed"),
]
