"""Sees what there is to see of a node. Whatever may block does so in a thread that nobody waits for longer than asked."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TypeVar

import anyio

from litefs_watch.core.readings import DirectoryRead
from litefs_watch.operate.doctor.configs import fly_toml, litefs_yml
from litefs_watch.operate.doctor.facts import Api, Config, Facts, Holder
from litefs_watch.settings import Settings
from litefs_watch.sources.directory import Directory, litefs_mounts
from litefs_watch.sources.http import HTTP_ERRORS, request
from litefs_watch.sources.thread import CallThread
from litefs_watch.sources.wire import LINE_LIMIT, Disconnected, parse_event, parse_info

T = TypeVar("T")

DEFAULT_PORT = 20202
_THREAD = "litefs_watch doctor"
_INFO_LIMIT = 64 * 1024
_VARS_LIMIT = 4 << 20
_WAL_READERS = [f"read{number}" for number in range(5)]
_PROCESSES = 20_000
_IN_CLOEXEC = 0o2000000
_IN_CREATE = 0x100


async def gather(settings: Settings, patience: float, *, config: Path | None = None, fly: Path | None = None) -> Facts:
    """The facts. Each look takes ``patience`` seconds at most, and there are about ten, whatever hangs."""
    try:
        return await _gather(settings, patience, config, fly)
    except _NoThreadError as error:
        return Facts(settings.litefs_dir or Path(), settings.database, patience, thread_fault=str(error))


async def _gather(settings: Settings, patience: float, config: Path | None, fly: Path | None) -> Facts:
    yml, toml = await _configurations(patience, config, fly)
    mounts, inotify = await within(patience, lambda: (tuple(litefs_mounts()), inotify_fault())) or ((), None)
    directory = settings.litefs_dir or Path()
    if settings.standalone:
        return Facts(directory, settings.database, patience, standalone=True, litefs_yml=yml, fly_toml=toml)
    api = await ask(settings.api_url, patience, yml) if settings.api_url is not None else None
    exists = await within(patience, lambda: _exists(directory))
    first = await look(directory, settings.database, patience)
    told = api.info.path if api is not None and api.info is not None else ""
    data_dir = settings.data_dir or (Path(told) if told else None)
    on_disk, data_fault = await transactions(data_dir, first, patience)
    locked = await read_locked(api, patience)
    await anyio.sleep(patience)
    second = await look(directory, settings.database, patience) if first is not None else None
    locked &= await read_locked(api, patience) if locked else locked
    names = first.positions if first is not None else ()
    holders = await within(patience, lambda: who_holds(directory, names))
    return Facts(
        directory,
        settings.database,
        patience,
        hostname=settings.node_name,
        litefs_yml=yml,
        fly_toml=toml,
        exists=exists is not False,
        first=first,
        second=second,
        mounts=mounts,
        api=api,
        data_dir=data_dir,
        data_fault=data_fault,
        on_disk=on_disk,
        holders=holders or {},
        read_locked=locked,
        inotify_fault=inotify,
    )


async def _configurations(patience: float, config: Path | None, fly: Path | None) -> tuple[Config | None, Config | None]:
    """What is in ``litefs.yml`` and ``fly.toml``; the disk that they are on may hang, too, which is said of those that are
    given: of the others one sees that they were not looked at."""
    if (found := await within(patience, lambda: (litefs_yml(config), fly_toml(fly)))) is not None:
        return found
    fault = f"it did not answer within {patience:g} s"
    yml, toml = (None if path is None else Config(path, fault) for path in (config, fly))
    return yml, toml


def _exists(directory: Path) -> bool:
    """Whether anything is there, be it the mount of a LiteFS that has died."""
    try:
        os.lstat(directory)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


class _NoThreadError(Exception):
    """No thread can be had: nothing can be looked at."""


async def within(patience: float, function: Callable[[], T]) -> T | None:
    """What it returns; None where it has not by then. Raises `_NoThreadError` where it was not even called."""
    called = False

    def call() -> T:
        nonlocal called
        called = True
        return function()

    with anyio.move_on_after(patience):
        try:
            return await CallThread(_THREAD).run(call)
        except RuntimeError as error:
            if called:
                raise
            raise _NoThreadError(str(error)) from error
    return None


def still_looking() -> bool:
    """Whether a look of this process, that nobody waits for any more, still hangs."""
    return any(thread.name == _THREAD for thread in threading.enumerate())  # it bears the name while it is at it


async def look(directory: Path, database: str | None, patience: float) -> DirectoryRead | None:
    names = [] if database is None else [database]
    return await within(patience, lambda: Directory(directory).look(names))


async def ask(url: str, patience: float, yml: Config | None) -> Api:
    """LiteFS's API there; where it is not, where it is."""
    api = await _ask(url, patience)
    if api.info is None:
        for other in addresses(yml):
            if other != url and (await _ask(other, patience)).info is not None:
                return Api(url, fault=api.fault, foreign=api.foreign, elsewhere=other)
    return api


def addresses(yml: Config | None) -> list[str]:
    """Where LiteFS would answer on this machine."""
    section = yml.values.get("http") if yml is not None else None
    address = section.get("addr") if isinstance(section, dict) else None
    ports = [str(address).rpartition(":")[2]] if address else []
    return [f"http://localhost:{port}" for port in [*ports, str(DEFAULT_PORT)] if port.isascii() and port.isdigit()]


async def _ask(url: str, patience: float) -> Api:
    try:
        with anyio.fail_after(patience):
            async with request("GET", f"{url}/info", timeout=patience) as response:
                body = await response.read(_INFO_LIMIT)
                if response.status != 200:
                    return Api(url, fault=f"/info answers {response.status}", foreign=True)
                info = parse_info(body)
    except HTTP_ERRORS as error:
        return Api(url, fault=str(error), foreign=not isinstance(error, Disconnected) or "not speak HTTP" in str(error))
    except TimeoutError:
        return Api(url, fault=f"no answer within {patience:g} s")
    return Api(url, info=info, stream_fault=await _stream_fault(url, patience))


async def _stream_fault(url: str, patience: float) -> str | None:
    """None where its first event comes."""
    try:
        with anyio.fail_after(patience):
            async with request("GET", f"{url}/events", timeout=patience) as response:
                if response.status != 200:
                    return f"it answers {response.status}"
                line = b""
                async with aclosing(response.pieces()) as pieces:
                    async for piece in pieces:
                        line += piece
                        if b"\n" in line or len(line) > LINE_LIMIT:
                            break
                parse_event(line.partition(b"\n")[0])
    except HTTP_ERRORS as error:
        return str(error)
    except TimeoutError:
        return f"no event within {patience:g} s"
    return None


async def read_locked(api: Api | None, patience: float) -> frozenset[str]:
    """The databases on which LiteFS has a read transaction: its variables tell its locks. Empty where they do not."""
    if api is None or api.info is None:
        return frozenset()
    with anyio.move_on_after(patience), suppress(*HTTP_ERRORS):
        async with request("GET", f"{api.url}/debug/vars", timeout=patience) as response:
            if response.status == 200:
                return parse_read_locks(await response.read(_VARS_LIMIT))
    return frozenset()


def parse_read_locks(body: bytes) -> frozenset[str]:
    """Of ``/debug/vars``. In WAL mode an open connection shares DMS and SHARED, and a reader one of the five READ locks; in
    rollback mode a reader has SHARED."""
    try:
        databases = json.loads(body)["store"]["dbs"]
        locks = {str(name): dict(told["locks"]) for name, told in databases.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return frozenset()

    def is_read(held: dict[str, object]) -> bool:
        return any(held.get(lock) == "shared" for lock in (_WAL_READERS if held.get("dms") == "shared" else ["shared"]))

    return frozenset(name for name, held in locks.items() if is_read(held))


async def transactions(
    data_dir: Path | None, read: DirectoryRead | None, patience: float
) -> tuple[dict[str, int], str | None]:
    """The newest TXID on disk of each database that was seen, and why the data directory can't be read."""
    if data_dir is None or read is None:
        return {}, None

    def newest() -> tuple[dict[str, int], str | None]:
        found = {}
        try:
            os.listdir(data_dir / "dbs")
        except OSError as error:
            return {}, error.strerror or str(error)
        for name in read.positions:
            try:
                files = os.listdir(data_dir / "dbs" / name / "ltx")
            except OSError:
                continue
            txids = [int(file[17:33], 16) for file in files if _is_ltx(file)]
            if txids:
                found[name] = max(txids)
        return found, None

    return await within(patience, newest) or ({}, f"it did not answer within {patience:g} s")


def _is_ltx(name: str) -> bool:
    return len(name) == 37 and name.endswith(".ltx") and all(char in "0123456789abcdef" for char in name[:16] + name[17:33])


def who_holds(directory: Path, databases: Iterable[str]) -> dict[str, tuple[Holder, ...]]:
    """The processes that have one of these open, by proc(5): as far as this user may see."""
    wanted = {f"{os.path.realpath(directory)}/{name}": name for name in databases}
    wanted |= {os.path.realpath(path): name for path, name in wanted.items()}
    found: dict[str, list[Holder]] = {}
    for folder in sorted(Path("/proc").glob("[0-9]*/fd"))[:_PROCESSES]:
        opened = set()
        with suppress(OSError):  # it has ended, or is another user's
            for entry in folder.iterdir():
                with suppress(OSError):  # it was closed
                    opened.add(os.readlink(entry))
        for name in {wanted[path] for path in opened if path in wanted}:
            found.setdefault(name, []).append(Holder(int(folder.parent.name), _command(folder.parent)))
    return {name: tuple(holders) for name, holders in found.items()}


def _command(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = ""
    return words[:100] or "?"


def inotify_fault() -> str | None:
    """Why no inotify instance can be had, or none can watch anything; None where one can."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_IN_CLOEXEC)
    if descriptor < 0:
        return _limit("max_user_instances", ctypes.get_errno())
    try:
        if libc.inotify_add_watch(descriptor, b"/", _IN_CREATE) < 0:
            return _limit("max_user_watches", ctypes.get_errno())
    finally:
        os.close(descriptor)
    return None


def _limit(name: str, error: int) -> str:
    try:
        limit = Path("/proc/sys/fs/inotify", name).read_text().strip()
    except OSError:
        limit = "?"
    return f"{os.strerror(error)}; fs.inotify.{name} is {limit}"
