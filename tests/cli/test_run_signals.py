"""``litefs-watch run`` and a second signal, while the command before the application is still at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest

from litefs_watch.testing import SimulatedNode

SOON = 30.0
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@contextmanager
def killed_at_the_end(pid: int) -> Iterator[None]:
    """Where the test fails, that is."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_command_for_sure(node: SimulatedNode, start: Start, number: signal.Signals) -> None:
    """One that heeds no signal, below a shell that heeds none: it does not go on behind the back of who has ended it."""
    program = "import os, signal; signal.signal(15, lambda *_: os.write(1, b'heard\\n')); print(os.getpid(), flush=True)\n"
    program += "signal.alarm(20)\nwhile True: signal.pause()"
    words = f"trap '' INT TERM; (python3 -I -S -c \"{program}\"; true); echo never"
    with start(node, "run", "--primary", words, "--", "echo", "never") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        with killed_at_the_end(child):
            process.send_signal(number)
            assert process.stdout.readline() == "heard\n"
            process.send_signal(number)
            assert process.stdout.read() == ""  # nobody has the pipe any more
        assert process.wait(SOON) == 128 + number


def test_a_second_signal_while_the_command_starts() -> None:
    """Only afterwards is it known whom to kill: the end waits for that."""
    code = (
        "import os, signal, subprocess\n"
        "from litefs_watch.cli.process import ProcessGroup, asynchronous\n"
        "@asynchronous\n"
        "async def command():\n"
        "    with ProcessGroup() as group:\n"
        "        process = subprocess.Popen(['sh', '-c', 'sleep 20; echo late'], start_new_session=True)\n"
        "        print(process.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('both', flush=True)\n"
        "        group.lead(process.pid)\n"
        "        print('never', flush=True)\n"
        "command()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        with killed_at_the_end(child):
            assert process.stdout.read() == "both\n"
    assert process.returncode == 128 + signal.SIGTERM
