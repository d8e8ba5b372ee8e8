"""What holds for every command: usage, errors as one line, stdout that is closed or full, imports."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from litefs_watch import Settings
from litefs_watch.cli.app import COMMANDS
from litefs_watch.cli.deadline import Deadline
from litefs_watch.cli.options import LogFormatter
from litefs_watch.printable import safe
from litefs_watch.testing import SimulatedNode

Run = Callable[..., subprocess.CompletedProcess[str]]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


def shell(script: str, node: SimulatedNode) -> subprocess.CompletedProcess[str]:
    """``$L`` is the command, for that node."""
    command = f"{sys.executable} -W error -m litefs_watch"
    options = f"--dir {node.litefs_dir} --api-url {node.api_url} --hostname node-a"
    script = f'L="{command}" N="{options}"; {script}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["status"], "LITEFS_DIR is not set"),
        (["status", "--dir", "/x", "--database", "a/b"], "without a path"),
        (["wait", "1", "--dir", "/x"], "DATABASE_FILENAME"),
        (["wait", "--dir", "/x"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["status", "--nonsense"], "No such option"),
        (["status", "--dir", "/x", "--api-url", "ftp://x"], "plain HTTP"),
    ],
)
def test_usage_errors_are_2_and_one_line(arguments: list[str], what: str, run: Run) -> None:
    """It says what to do."""
    done = run(None, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("litefs-watch: ")
    assert what in done.stderr
    assert done.stderr.count("\n") == 1


def test_version_and_help(run: Run) -> None:
    """Both exit with 0, by each of their names; without any argument, the help is on stderr, with 2."""
    assert run(None, "--version").stdout.startswith("litefs-watch, version ")
    group = run(None, "--help")
    assert group.returncode == 0
    assert "124 timed out" in group.stdout
    for command in COMMANDS:
        assert f"  {command} " in group.stdout
        assert run(None, command, "-h").stdout.startswith(f"Usage: litefs-watch {command} ")
    bare = run(None)
    assert (bare.returncode, bare.stdout) == (2, "")
    assert bare.stderr == group.stdout


def test_a_closed_stdout_changes_no_answer(node: SimulatedNode) -> None:
    """``litefs-watch primary >&- && …`` is fine in a script."""
    done = shell("$L primary $N >&-; echo $?; $L status $N >&-; echo $?; $L bogus 2>&-; echo $?", node)
    assert (done.stdout.split(), done.stderr) == (["0", "0", "2"], "")


def test_a_full_disk_is_an_error(node: SimulatedNode) -> None:
    """One line, and status 1."""
    done = shell("for c in status 'status --json' primary; do $L $c $N >/dev/full; echo $?; done", node)
    assert done.stdout.split() == ["1", "1", "1"]
    assert done.stderr == 3 * "litefs-watch: No space left on device\n"


def test_a_reader_that_has_gone_is_141(node: SimulatedNode) -> None:
    """Without a word, for whatever is printed."""
    done = shell("for c in --help 'status -h'; do (sleep 0.2; $L $c; echo $? >&2) | true; done", node)
    assert done.stderr.split() == ["141", "141"]


def test_without_its_libraries_the_command_says_what_to_install() -> None:
    """One line, not a traceback; also where only the one that is missing is needed late."""
    for library in ("click", "rich"):
        done = python(
            f"import sys; sys.modules[{library!r}] = None; sys.argv[1:] = ['status', '--dir', '/x']\n"
            "from litefs_watch.cli import main; main()"
        )
        assert done.returncode == 1
        assert done.stderr == f"litefs-watch: the command needs {library}: pip install 'litefs-watch[cli]'\n"


def test_a_fault_of_ours_is_one_line_and_a_traceback_on_request() -> None:
    """Status 1; also out of a group of errors."""
    code = (
        "import sys, litefs_watch.cli.primary as primary\n"
        "from litefs_watch.cli.app import run\n"
        "primary.Deadline = lambda timeout: {}['no\\x1b such thing']\n"
        "sys.exit(run(['primary', '--dir', '/x', *sys.argv[1:]]))"
    )
    done = python(code)
    assert done.returncode == 1
    assert done.stderr == "litefs-watch: 'no\\x1b such thing'\n"
    told = python(code.replace("*sys.argv[1:]", "'-vv'"))
    assert "Traceback" in told.stderr
    assert told.stderr.endswith("litefs-watch: 'no\\x1b such thing'\n")


@pytest.mark.parametrize("end", ["await anyio.sleep(0)", "return 0", "raise KeyError"])
def test_a_signal_at_the_very_end(end: str) -> None:
    """Amid what may not be cancelled, and after the last moment at which anything could be: it still counts."""
    code = (
        "import os, signal, sys, anyio\n"
        "from litefs_watch.cli.process import asynchronous\n"
        "@asynchronous\n"
        "async def command():\n"
        "    with anyio.CancelScope(shield=True):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        f"        {end}\n"
        "    return 0\n"
        "status = command()\n"
        "os.kill(os.getpid(), signal.SIGHUP) if status != 143 else sys.exit(status)"
    )
    done = python(code)
    if "raise" in end:
        assert done.stderr.endswith("KeyError\n")  # what failed while it ended is not hidden
    else:
        assert (done.returncode, done.stderr) == (143, "")


def test_a_second_signal_ends_it_at_once() -> None:
    """Though the first one is still being dealt with."""
    code = (
        "import os, signal, anyio\n"
        "from litefs_watch.cli.process import asynchronous\n"
        "@asynchronous\n"
        "async def command():\n"
        "    with anyio.CancelScope(shield=True):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await anyio.sleep_forever()\n"
        "command()"
    )
    assert python(code).returncode == 128 + signal.SIGTERM


def test_a_limit_counts_from_before_the_start() -> None:
    """A frozen LiteFS does not answer when a watcher starts, and is waited for no longer than that."""

    async def limits(timeout: float | None) -> tuple[float, float | None]:
        deadline = Deadline(timeout)
        limit = deadline.watcher(Settings("/litefs", "app.db")).settings.start_timeout
        with trio.CancelScope(deadline=trio.current_time() + 1):
            await trio.sleep_forever()
        return limit, deadline.left

    def after_a_second(timeout: float | None) -> tuple[float, float | None]:
        found: tuple[float, float | None] = trio.run(limits, timeout, clock=MockClock(autojump_threshold=0))
        return found

    assert after_a_second(None) == (3.0, None)
    for timeout, start, left in ((60, 3.0, 59.25), (2, 2.0, 1.25), (0.5, 0.5, 0.0), (0, 0.25, 0.0)):
        assert after_a_second(timeout) == pytest.approx((start, left))


def test_what_is_not_used_is_not_imported() -> None:
    """The package needs no library of the command; ``wait`` needs neither rich nor the demo's cluster."""
    done = python(
        "import sys, json, litefs_watch\n"
        "first = sorted({'click', 'rich', 'litefs_watch.cli', 'litefs_watch.testing'} & sys.modules.keys())\n"
        "from litefs_watch.cli.app import run\n"
        "run(['wait', '0', '--dir', '/x', '--api-url', 'none', '-d', 'a', '-t', '0'])\n"
        "print(json.dumps([first, sorted({'click', 'rich', 'litefs_watch.testing'} & sys.modules.keys())]))"
    )
    assert json.loads(done.stdout) == [[], ["click"]]


def test_a_shell_can_complete_commands() -> None:
    """Through click."""
    command = [sys.executable, "-m", "litefs_watch"]
    env = {"_LITEFS_WATCH_COMPLETE": "bash_complete", "COMP_WORDS": "litefs-watch wa", "COMP_CWORD": "1"}
    done = subprocess.run(command, env=env | {"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,watch", "plain,wait", "plain,wait-ready"]


def test_safe_text() -> None:
    """Control characters, lines, marks that turn text around, and bytes that are no text."""
    assert safe("a\x1b[31mb\n[bold]\u202e\udcffü") == "a\\x1b[31mb\\n[bold]\\u202e\\udcffü"


def test_the_log_is_one_line_a_record() -> None:
    """Escaped, in UTC; with tracebacks only where they were asked for."""
    error = ValueError("x")
    info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("litefs_watch", logging.ERROR, __file__, 1, "bad: %s", ("a\nb\x1b",), info)
    record.created, record.msecs = 1.25, 250.0
    assert LogFormatter(tracebacks=False).format(record).rstrip() == "1970-01-01T00:00:01.250Z ERROR bad: a\\nb\\x1b"
    record.exc_text = None
    assert "ValueError: x" in LogFormatter(tracebacks=True).format(record)
