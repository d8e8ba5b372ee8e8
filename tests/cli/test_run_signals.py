"""``litefs-watch run`` and a second signal, while the command before the application is still at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from litefs_watch.testing import SimulatedNode
from tests.contract.real import until

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


# A migration that is asked to end, and takes its time: until its stdin ends.
# Blocked until it is waited for: one that came just before a pause() would be heard, and the pause would not end.
SLOW = "import os, signal; signal.signal(15, lambda *_: None); signal.pthread_sigmask(signal.SIG_BLOCK, [15])\n"
SLOW += "print(os.getpid(), flush=True); signal.sigwait([15]); os.write(1, b'heard\\n')\n"
SLOW += "signal.alarm(20); os.read(0, 1); os.write(1, b'tidied up\\n')"


@contextmanager
def slow(
    node: SimulatedNode, start: Start, before: str = "", inherited: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """``run`` with that migration below a shell, and its stdin."""
    words = f'{before} python3 -I -S -c "{SLOW}"; echo never'
    reading, writing = os.pipe()
    with (
        open(reading, "rb") as theirs,
        open(writing, "wb") as stdin,
        start(node, "run", "--primary", words, "--", "echo", "never", inherited=inherited, stdin=theirs) as process,
    ):
        yield process, stdin


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def shell_ended(child: int) -> None:
    """Wait until the shell has, whose group it was: the child has another parent then."""
    stat = Path(f"/proc/{child}/stat")
    until(lambda: int(stat.read_text().rpartition(")")[2].split()[1]) != os.getpgid(child), "the shell has ended")


def test_the_first_signal_is_waited_for_to_the_end(node: SimulatedNode, start: Start) -> None:
    """Not by the shell alone, which ends at once: what it runs may be writing, and a second signal must find it."""
    with slow(node, start) as (process, _):
        child = int(line(process))
        with killed_at_the_end(child):
            process.send_signal(signal.SIGTERM)
            assert line(process) == "heard\n"
            shell_ended(child)
            process.send_signal(signal.SIGTERM)
            assert line(process) == ""
        assert process.wait(SOON) == 128 + signal.SIGTERM


# Takes the orphans of the command over, as a container's first process does, and reaps none of them.
FIRST_PROCESS = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
with subprocess.Popen(sys.argv[1:]) as process:
    print(process.pid, flush=True)
    sys.exit(process.wait())
"""


def test_it_does_not_wait_for_the_dead(node: SimulatedNode, start: Start) -> None:
    """In a container whose first process is LiteFS, nobody reaps what the shell leaves behind."""
    with slow(node, start, inherited=[sys.executable, "-c", FIRST_PROCESS]) as (process, stdin):
        command, child = int(line(process)), int(line(process))
        with killed_at_the_end(child), killed_at_the_end(command):
            os.kill(command, signal.SIGTERM)
            assert line(process) == "heard\n"
            shell_ended(child)
            stdin.close()
            assert line(process) == "tidied up\n"
            assert process.wait(SOON) == 128 + signal.SIGTERM


def test_in_the_first_process_of_a_container(node: SimulatedNode, start: Start) -> None:
    """Where the kernel knows no default action of a signal."""
    inherited = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*inherited, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no name space of processes can be made here")
    # /proc is still the one outside, and so it tells the id that is known here.
    inherited += ["sh", "-c", 'read id _ </proc/self/stat; echo $id; exec "$@"', "sh"]
    with slow(node, start, before='trap "" TERM;', inherited=inherited) as (process, _):
        first = int(line(process))
        assert int(line(process)) != first
        os.kill(first, signal.SIGTERM)
        assert line(process) == "heard\n"
        os.kill(first, signal.SIGTERM)
        assert line(process) == ""
        assert process.wait(SOON) == 128 + signal.SIGTERM


def test_ctrl_c_just_before_the_application(node: SimulatedNode, start: Start) -> None:
    """It is not noted for later, by a Python that is no more then."""
    code = "import signal, sys\n"
    code += "sys.addaudithook(lambda event, _: event == 'os.exec' and print(+signal.getsignal(signal.SIGINT), flush=True))\n"
    code += "from litefs_watch.cli.app import run\nsys.exit(run(['run', '--', 'no-such-command']))"
    with start(node, inherited=[sys.executable, "-c", code]) as process:
        out, _ = process.communicate(timeout=SOON)
    assert set(out.split()) == {"0"}  # SIG_DFL
    assert process.returncode == 127
