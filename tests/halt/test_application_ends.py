"""The lock ends with the application, whatever that has started; and not before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litefs_watch.errors import HaltTimeout
from litefs_watch.halt import halted
from litefs_watch.testing import SimulatedNode
from tests.contract.real import until
from tests.holders import application, says

SOON = 10.0  # seconds: the lock itself would last 30

WITH_A_CHILD = """
import os, signal, sys, warnings
from litefs_watch.halt import halted
warnings.simplefilter('ignore', DeprecationWarning)  # fork with threads
def fork_one_that_lives_on():
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
"""

# What an application finds where it asks for a pidfd of itself.
PIDFD = pytest.mark.parametrize(
    "pidfd",
    [
        pytest.param("", id="pidfd"),
        pytest.param("os.close(2)\n", id="in stderr's place"),
        pytest.param("def refuse(*_): raise PermissionError(1, 'seccomp')\nos.pidfd_open = refuse\n", id="refused"),
        pytest.param("del os.pidfd_open\n", id="missing"),
    ],
)


def waits_for_a_lock(file: Path) -> bool:
    """Whether some process does: proc(5) shows who waits with an arrow."""
    found = os.stat(file)
    place = f" {os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino} "
    return any("->" in line and place in line for line in Path("/proc/locks").read_text().splitlines())


@PIDFD
def test_killed_while_a_forked_child_lives_on(mounted: SimulatedNode, pidfd: str) -> None:
    """The child has a copy of the socket, which therefore does not end; the application has ended all the same."""
    program = WITH_A_CHILD + pidfd
    program += "with halted('app.db', litefs_dir=sys.argv[1]):\n"
    program += "    fork_one_that_lives_on()\n    print('held', flush=True)\n    signal.pause()\n"
    with application(program, mounted.litefs_dir) as process:
        says(process, "held")
        with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
            pass
        process.kill()
        with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=SOON / 2):
            pass


@PIDFD
def test_killed_while_it_waits_for_the_lock(mounted: SimulatedNode, pidfd: str) -> None:
    """What was asked for is granted when its time has come, and given back at once."""
    program = WITH_A_CHILD + pidfd
    program += "import threading\n"
    program += "threading.Thread(target=halted('app.db', litefs_dir=sys.argv[1]).__enter__, daemon=True).start()\n"
    program += "sys.stdin.readline()\nfork_one_that_lives_on()\nprint('forked', flush=True)\nsignal.pause()\n"
    with application(program, mounted.litefs_dir) as process:
        assert process.stdin is not None
        with halted("app.db", litefs_dir=mounted.litefs_dir):
            until(lambda: waits_for_a_lock(mounted.litefs_dir / "app.db-lock"), "the application's holder waits")
            process.stdin.write("\n")
            process.stdin.flush()
            says(process, "forked")
            process.kill()
            process.wait(SOON)
        with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=SOON / 2):
            pass


@PIDFD
def test_the_thread_that_has_asked_may_end(mounted: SimulatedNode, pidfd: str) -> None:
    """It is the process that counts; ``PR_SET_PDEATHSIG`` would end the lock with the thread."""
    program = WITH_A_CHILD + pidfd
    program += "import threading\n"
    program += "block = halted('app.db', litefs_dir=sys.argv[1])\n"
    program += "thread = threading.Thread(target=block.__enter__)\nthread.start()\nthread.join()\n"
    program += "print('held', flush=True)\nsys.stdin.readline()\nblock.__exit__(None, None, None)\n"
    with application(program, mounted.litefs_dir) as process:
        says(process, "held")
        with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.5):
            pass
        process.communicate("\n", timeout=SOON)
        assert process.returncode == 0
