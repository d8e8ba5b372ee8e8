"""``litefs-watch run``: the entry point of a container."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import anyio
import click

from litefs_watch import LiteFSWatchError, Role, Settings, WaitTimeout, Watcher
from litefs_watch.changes import clause
from litefs_watch.cli.app import FAILED
from litefs_watch.cli.deadline import Deadline
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit, warn
from litefs_watch.cli.process import ProcessGroup, asynchronous
from litefs_watch.operate.words import role_text
from litefs_watch.sources.http import HTTP_ERRORS, request
from litefs_watch.status import reasons

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as a shell has it
_ANSWER = 10.0  # seconds for LiteFS's answer to POST /promote, which it gives before the hand-off
_HAND_OVER = 5.0  # seconds until LiteFS is asked again, where a hand-off has come to nothing; one takes about 1 s
_AGAIN = 0.25  # seconds between two requests, where no primary was there to hand over
_LIMIT = 4096  # bytes of what LiteFS says


@click.command(
    "run",
    short_help="Wait for the role, migrate on the primary, then become the application.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--primary", metavar="COMMAND", help="First run this in a shell, on the primary only (migrations).")
@click.option("--replica", metavar="COMMAND", help="First run this in a shell, on a replica only.")
@click.option("--promote", is_flag=True, help="First become the primary.")
@click.option("--halt", "use_halt", is_flag=True, help="Run --primary on whichever node this is, under the HALT lock.")
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up where the role is not known, or this node not the primary, by then (status 124).",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@node_options
def command(
    settings: Settings,
    as_json: bool,
    primary: str | None,
    replica: str | None,
    promote: bool,
    use_halt: bool,
    timeout: float,
    words: tuple[str, ...],
) -> int:
    """Wait until the role is known, prepare, and become COMMAND: its signals and its exit status are the application's.

    Says on stderr which instance this is, in which region, and who is primary. Where --primary or --replica fails, its exit
    status ends everything. Status 124 where the role is not known in time, 127 where there is no COMMAND, 126 where it can't
    be run.
    """
    if use_halt and (primary is None or replica is not None or promote):
        raise click.UsageError("--halt runs --primary from any node: it goes with that, and not with --replica or --promote")
    if promote and settings.api_url is None:
        raise click.UsageError("--promote asks LiteFS's HTTP API: --api-url can't be none")
    status = prepare(
        settings=settings,
        as_json=as_json,
        commands={Role.PRIMARY: primary, Role.REPLICA: replica},
        promote=promote,
        use_halt=use_halt,
        timeout=timeout,
    )
    return status or become(words)


@asynchronous
async def prepare(
    settings: Settings,
    as_json: bool,
    commands: dict[Role, str | None],
    promote: bool,
    use_halt: bool,
    timeout: float,
) -> int:
    """All that comes before the application. The exit status: 0 to go on."""
    deadline = Deadline(timeout)
    async with deadline.watcher(settings) as watcher:
        try:
            await deadline.bound(watcher.wait_for_primary)
        except WaitTimeout:
            for reason in reasons(watcher.status.sources):
                warn(reason)
            raise
        introduce(watcher, as_json=as_json)
        if promote and not watcher.is_primary:
            await become_primary(watcher, deadline)
        role = watcher.role
        if use_halt and (words := commands[Role.PRIMARY]) is not None:
            from litefs_watch.halt import halt

            async with halt(watcher=watcher) as held:
                where = f"under the HALT lock on {held.database}" if held.forwarded else "on the primary"
                return await shell(words, where)
    if role is Role.UNKNOWN and any(commands.values()):
        raise LiteFSWatchError("the primary was lost again, so neither --primary nor --replica was run: try again")
    words = commands.get(role)
    return 0 if words is None else await shell(words, "on the primary" if role is Role.PRIMARY else "on a replica")


def introduce(watcher: Watcher, *, as_json: bool) -> None:
    """Instance, region, and who is primary, in one line each, as litefs-js's start.js does."""
    settings, status = watcher.settings, watcher.status
    if as_json:
        emit({"hostname": status.hostname, "region": settings.region, "role": status.role, "primary": status.primary})
        return
    warn(f"instance: {status.hostname}")
    warn(f"region: {settings.region or 'not known (FLY_REGION is not set)'}")
    warn(f"primary: this node, {status.hostname}" if status.role is Role.PRIMARY else role_text(status.role, status.primary))


async def become_primary(watcher: Watcher, deadline: Deadline) -> None:
    """Have LiteFS hand the lease over, and wait until it is here. Raises `WaitTimeout`, and others where LiteFS refuses."""
    warn("asking LiteFS to make this node the primary")
    while not watcher.is_primary:
        status, said = await post_promote(f"{watcher.settings.api_url}/promote", min(_ANSWER, left(deadline) + _AGAIN))
        if status == 409:
            raise LiteFSWatchError(f"this node can't become the primary (lease.candidate in litefs.yml): {said}")
        # 200 says that the lease was asked for, no more. Others: between two primaries none is there to hand it over.
        patience = min(_HAND_OVER if status == 200 else _AGAIN, left(deadline))
        with suppress(WaitTimeout):
            await watcher.wait_for_role(Role.PRIMARY, timeout=patience)
        if not watcher.is_primary and left(deadline) == 0:
            answer = "200" if status == 200 else said or str(status)
            now = clause(watcher.standing)
            raise WaitTimeout(f"this node did not become the primary in time; {now}; LiteFS answered: {answer}")
    warn(f"primary: this node, {watcher.hostname}")


async def post_promote(url: str, timeout: float) -> tuple[int, str]:
    """LiteFS's answer: the status, and what it says. 0 where it can't be asked."""
    try:
        async with request("POST", url, timeout=timeout) as response:
            body = await response.read(_LIMIT)
            return response.status, " ".join(body.decode(errors="replace").split())
    except HTTP_ERRORS as error:
        return 0, str(error)


def left(deadline: Deadline) -> float:
    return deadline.left or 0.0  # there always is one


async def shell(words: str, where: str) -> int:
    """Run a command line in a shell, with this process's own streams. Its exit status, as a shell has it."""
    warn(f"running {where}: {words}")
    with ProcessGroup() as group:
        # A session of its own: a shell that is ended leaves its children behind, a group can be ended as a whole.
        with anyio.CancelScope(shield=True):  # cancelled halfway, it would be left behind, or the shell's children would
            process = await anyio.open_process(words, stdin=None, stdout=None, stderr=None, start_new_session=True)
        group.lead(process.pid)
        try:
            status = await process.wait()
        except BaseException:
            group.kill(signal.SIGTERM)
            with anyio.CancelScope(shield=True):
                # For as long as it takes: who has no patience sends a second signal. And all of it: a shell ends at once,
                # while what it runs still tidies up, and may be writing under the HALT lock.
                await process.wait()
                await group.ended()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await process.aclose()
    if status:
        status = 128 - status if status < 0 else status
        warn(f"{words}: status {status}; the application is not started")
    return status


def become(words: tuple[str, ...]) -> int:
    """Replace this process. Returns only where that fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # What Python ignores stays ignored after an exec: the application would not end with its reader. And a Ctrl-C that is
    # noted by Python, which raises KeyboardInterrupt at its next step, would be forgotten where the exec comes first.
    python_s = [
        (signal.SIGPIPE, signal.SIG_IGN),
        (signal.SIGXFSZ, signal.SIG_IGN),
        (signal.SIGINT, signal.default_int_handler),
    ]
    changed = [(number, handler) for number, handler in python_s if signal.getsignal(number) is handler]
    for number, _ in changed:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)  # noqa: S606 - that is what the command is for
    except (FileNotFoundError, NotADirectoryError):
        status, problem = NOT_FOUND, "no such command"
    except OSError as error:
        status, problem = NOT_EXECUTABLE, error.strerror or str(error)
    except ValueError as error:  # an empty word, or one with a NUL
        status, problem = FAILED, str(error)
    for number, handler in changed:
        signal.signal(number, handler)
    warn(f"{words[0]}: {problem}")
    return status
