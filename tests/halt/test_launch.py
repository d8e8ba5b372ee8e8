"""The process that holds the lock starts from whatever kind of application, or says why it can't."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import litefs_watch
from litefs_watch.errors import HaltError, HaltTimeout
from litefs_watch.halt import halted, holder
from litefs_watch.testing import SimulatedNode
from tests.holders import application

SOON = 10.0

# The lock is held inside the block, as long as that lasts, and whoever looks sees nothing of ours in the standard streams.
TRIES = """
import os, sys
from litefs_watch.errors import HaltTimeout
from litefs_watch.halt import halted
def taken():
    try:
        with halted('app.db', litefs_dir=sys.argv[1], timeout=0.3):
            return False
    except HaltTimeout:
        return True
def try_it():
    with halted('app.db', litefs_dir=sys.argv[1]):
        for descriptor in (0, 1, 2):
            try:
                os.write(descriptor, b'held\\n')
            except OSError:
                pass
        if not taken():
            os._exit(3)
    os._exit(4 if taken() else 0)
"""


def outcome(node: SimulatedNode, program: str, **environment: str) -> int:
    with application(TRIES + program + "\ntry_it()\n", node.litefs_dir, **environment) as process:
        process.communicate(timeout=SOON)
    return process.returncode


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 2), (0, 1, 2)])
def test_a_daemon_without_standard_streams(mounted: SimulatedNode, closed: tuple[int, ...]) -> None:
    """What is opened next gets their numbers: what it prints must not reach our socket, nor its holder lose a descriptor."""
    assert outcome(mounted, f"for descriptor in {closed}:\n    os.close(descriptor)") == 0


def test_a_daemon_in_another_directory(mounted: SimulatedNode) -> None:
    """The mount was named from where it was started."""
    program = "os.chdir(os.path.dirname(sys.argv[1]))\nsys.argv[1] = os.path.basename(sys.argv[1])"
    assert outcome(mounted, program) == 0


def test_python_s_variables(mounted: SimulatedNode, tmp_path: Path) -> None:
    """They are the application's: the holder heeds none."""
    for name in ("fcntl", "select", "struct", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    program = f"os.environ.update(PYTHONPATH={str(tmp_path)!r}, PYTHONHOME='/nowhere', PYTHONSTARTUP='/nowhere', "
    program += "PYTHONINSPECT='1', PYTHONVERBOSE='1')\nos.chdir(os.environ['PYTHONPATH'])"
    assert outcome(mounted, program) == 0


@pytest.mark.parametrize("executable", ["/bin/true", "", "/nowhere/uwsgi"])
def test_the_executable_is_not_python(mounted: SimulatedNode, executable: str) -> None:
    """In uWSGI it is the server: the Python that this one was installed with is taken."""
    with application(f"import sys; sys.executable = {executable!r}\n{TRIES}\ntry_it()\n", mounted.litefs_dir) as process:
        process.communicate(timeout=SOON)
    assert process.returncode == 0


def test_from_a_zip_archive(mounted: SimulatedNode, tmp_path: Path) -> None:
    """There is no file to run; and the archive's path may be relative to a directory that is left."""
    package = Path(litefs_watch.__file__).parent
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, file.relative_to(package.parent))
    program = "import os, sys\nos.chdir(sys.argv[2])\nsys.path.insert(0, 'app.zip')\n"
    program += f"{TRIES}\nimport litefs_watch\nassert 'app.zip' in litefs_watch.__file__\nos.chdir('/')\ntry_it()\n"
    with application(program, mounted.litefs_dir, tmp_path) as process:
        process.communicate(timeout=SOON)
    assert process.returncode == 0


@pytest.mark.parametrize("reaping", ["signal.SIG_IGN", "reap"])
def test_an_application_that_reaps_all_children(mounted: SimulatedNode, reaping: str) -> None:
    """As gunicorn does: the holder's exit status is lost, and nothing else."""
    program = "import signal\ndef reap(*_):\n    try:\n        os.waitpid(-1, os.WNOHANG)\n"
    program += f"    except ChildProcessError:\n        pass\nsignal.signal(signal.SIGCHLD, {reaping})"
    assert outcome(mounted, program) == 0


def test_workers_of_a_preloaded_application(mounted: SimulatedNode) -> None:
    """Forked before and inside a block: each gets the lock in its turn, none of them keeps it."""
    program = "with halted('app.db', litefs_dir=sys.argv[1]):\n    children = []\n    for number in range(3):\n"
    program += "        children.append(os.fork())\n        if children[-1] == 0:\n            break\n"
    program += "if children[-1] == 0:\n    with halted('app.db', litefs_dir=sys.argv[1]):\n        os._exit(0)\n"
    program += "assert all(os.waitpid(child, 0)[1] == 0 for child in children)"
    assert outcome(mounted, program) == 0


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Fills the table of descriptors; to be closed one by one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    spare: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.open("/dev/null", os.O_RDONLY))
        yield spare
    finally:
        for descriptor in spare:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_descriptors() -> set[int]:
    """Asked one by one: to list them would take another one."""
    found = set()
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            found.add(descriptor)
    return found


def refusal(node: SimulatedNode) -> str:
    """Why there is no lock; empty where there is one."""
    try:
        with halted("app.db", litefs_dir=node.litefs_dir):
            return ""
    except HaltError as error:
        return str(error)


def test_a_full_table_of_descriptors(mounted: SimulatedNode, descriptors: list[int]) -> None:
    """An error that says so, whichever is the first that is missing; with one more each time it works in the end."""
    refusals = []
    while True:
        before = open_descriptors()
        refusals.append(refusal(mounted))
        assert open_descriptors() == before
        if not refusals[-1]:
            break
        os.close(descriptors.pop())
    assert len(refusals) > 3
    assert all(text.endswith("Too many open files") or "Too many open files: " in text for text in refusals[:-1]), refusals


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Path]:
    """A script that is started in Python's place, still to be written."""
    before = multiprocessing.spawn.get_executable()
    script = tmp_path / "python"
    script.touch(mode=0o755)
    multiprocessing.set_executable(str(script))
    yield script
    multiprocessing.set_executable(before)


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1"])
def test_a_signal_that_comes_before_it_has_begun(mounted: SimulatedNode, python: Path, name: str) -> None:
    """To all processes of the service, amid the start: it does not end it."""
    python.write_text(f'#!/bin/sh\nkill -{name} $$\nexec {sys.executable} "$@"\n')
    with halted("app.db", litefs_dir=mounted.litefs_dir):
        pass


def test_signals_are_as_before_in_the_application(mounted: SimulatedNode) -> None:
    """They are blocked in its thread only while the process is started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with halted("app.db", litefs_dir=mounted.litefs_dir):
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_why_python_did_not_start(mounted: SimulatedNode, python: Path) -> None:
    """Its own words are in the error."""
    python.write_text("#!/bin/sh\necho 'Fatal Python error: no module' >&2; echo \x1b >&2; exit 7\n")
    with (
        pytest.raises(HaltError, match=r"ended with status 7 before it had it: Fatal Python error: no module \\x1b$"),
        halted("app.db", litefs_dir=mounted.litefs_dir),
    ):
        pass


def test_a_start_that_hangs(mounted: SimulatedNode, python: Path) -> None:
    """The timeout counts, and when the process comes to itself it asks for nothing."""
    os.mkfifo(python.with_name("go"))
    python.write_text(f'#!/bin/sh\nread go <"{python.with_name("go")}"\nexec {sys.executable} "$@"\n')
    with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
        pass
    python.with_name("go").write_text("\n")


def test_the_holder_needs_nothing_but_the_standard_library() -> None:
    """And little of that: it is waited for."""
    program = "import sys; before = set(sys.modules); exec(open(sys.argv[1]).read(), {'__name__': 'holder'}); "
    program += "print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, holder.__file__], capture_output=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert imported <= sys.stdlib_module_names
    assert imported.isdisjoint(("contextlib", "enum", "re", "signal", "threading"))
