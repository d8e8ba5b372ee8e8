"""What the facts mean: a code, how bad it is, what was seen, and what to do. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litefs_watch.core.readings import NEVER_REPLICATED_MS, Mount
from litefs_watch.operate.doctor.facts import Api, Config, Facts
from litefs_watch.printable import safe
from litefs_watch.status import unseen

MAX_LAG_MS = 10_000
"""As ``wait-ready``."""
SILENT_MS = 1_500
"""LiteFS sends a sign of life each second; a replica that waits for a reader takes none in."""
_SHOWN = 5
_SET_DIR = "Set LITEFS_DIR (or --dir) to 'fuse.dir' of litefs.yml"


class Severity(enum.IntEnum):
    """How bad it is: an error is wrong now, a warning will be, a note is worth knowing."""

    ERROR = 0
    WARNING = 1
    NOTE = 2


@dataclass(frozen=True)
class Finding:
    code: str
    severity: Severity
    seen: str
    """One sentence, or two: what was seen, and where."""
    remedy: str
    """What to do."""


CODES: dict[str, Severity] = {
    "standalone": Severity.NOTE,
    "thread-limit": Severity.ERROR,
    "no-directory": Severity.ERROR,
    "not-mounted": Severity.ERROR,
    "dead-mount": Severity.ERROR,
    "frozen": Severity.ERROR,
    "api-away": Severity.ERROR,
    "api-elsewhere": Severity.ERROR,
    "api-foreign": Severity.ERROR,
    "stream-refused": Severity.ERROR,
    "unreadable": Severity.ERROR,
    "no-database": Severity.ERROR,
    "no-primary": Severity.ERROR,
    "never-replicated": Severity.ERROR,
    "same-hostname": Severity.ERROR,
    "lag": Severity.ERROR,
    "blocked": Severity.ERROR,
    "data-directory": Severity.WARNING,
    "inotify-limit": Severity.WARNING,
    "bad-config": Severity.ERROR,
    "auto-stop": Severity.ERROR,
    "lease-hostname": Severity.WARNING,
    "proxy": Severity.WARNING,
    "http": Severity.WARNING,
}
"""Each has a section in docs/doctor.md."""


def examine(facts: Facts) -> list[Finding]:
    """All that is wrong, the worst first."""
    found = [*examine_files(facts), *([] if facts.standalone else _node(facts))]
    if facts.standalone:
        seen = "LITEFS_STANDALONE is set: nothing is watched, and this node counts as the primary."
        found.append(_finding("standalone", seen, "It is for development. Leave it out where LiteFS runs."))
    return sorted(found, key=lambda finding: finding.severity)


def _finding(code: str, seen: str, remedy: str) -> Finding:
    return Finding(code, CODES[code], seen, remedy)


def _node(facts: Facts) -> Iterator[Finding]:
    if facts.thread_fault is not None:
        seen = f"No thread can be had: {safe(facts.thread_fault)}. So nothing was looked at, and no watcher can run."
        yield _finding("thread-limit", seen, "Raise the limit (ulimit -u, the container's), or end what uses it up.")
        return
    yield from _directory(facts)
    if facts.api is not None:
        yield from _api(facts.api)
    yield from _data(facts)
    if facts.first is not None and facts.first.mount is not Mount.AWAY and facts.exists and not facts.first.is_bare:
        yield from _files(facts)
        yield from _blocked(facts)
        yield from _role(facts)
        yield from _names(facts)


def _directory(facts: Facts) -> Iterator[Finding]:
    where, mounts = safe(str(facts.directory)), safe(" and ".join(facts.mounts))
    mounted = f"LiteFS is mounted at {mounts}." if mounts else "No LiteFS is mounted on this machine."
    if not facts.exists:
        seen = f"There is no directory {where}. {mounted}"
        yield _finding("no-directory", seen, f"{_SET_DIR}, and start LiteFS first.")
    elif facts.first is None:
        seen = f"{where} did not answer within {facts.patience:g} s: LiteFS is frozen, or its disk is."
        remedy = "Look at the LiteFS process (stopped by a signal? out of memory? a full disk?), and restart it."
        yield _finding("frozen", seen, remedy)
    elif facts.first.mount is Mount.AWAY:
        fault = safe(facts.first.faults.get(".", "it can not be read")).removeprefix(f"{where}: ")
        seen = f"{where}: {fault}: LiteFS has died, and its mount is left."
        yield _finding("dead-mount", seen, f"fusermount -u {where} (or umount -l), then start LiteFS again.")
    elif facts.first.is_bare:
        answers = ", though LiteFS answers" if facts.api is not None and facts.api.info is not None else ""
        seen = f"{where} is an ordinary directory without any of LiteFS's files{answers}: what is written there is not "
        yield _finding("not-mounted", f"{seen}replicated. {mounted}", f"{_SET_DIR}; is LiteFS running?")


def _api(api: Api) -> Iterator[Finding]:
    url = safe(api.url)
    if api.elsewhere is not None:
        seen = f"LiteFS does not answer at {url} ({safe(api.fault or '')}), but at {safe(api.elsewhere)}."
        yield _finding("api-elsewhere", seen, f"Set LITEFS_API_URL={safe(api.elsewhere)}, or 'http.addr' in litefs.yml.")
    elif api.foreign:
        seen = f"What answers at {url} is not LiteFS: {safe(api.fault or '')}."
        yield _finding("api-foreign", seen, "Set LITEFS_API_URL to 'http.addr' of litefs.yml (by default port 20202).")
    elif api.fault is not None:
        seen = f"LiteFS's API does not answer at {url}: {safe(api.fault)}."
        yield _finding("api-away", seen, "Is LiteFS running? Is 'http.addr' in litefs.yml another port? Set LITEFS_API_URL.")
    elif api.stream_fault is not None:
        seen = f"The event stream at {url}/events can not be read: {safe(api.stream_fault)}."
        remedy = "LiteFS before 0.5 has none; a proxy in between may hold it back. Without it, waits take some ms longer."
        yield _finding("stream-refused", seen, remedy)


def _data(facts: Facts) -> Iterator[Finding]:
    if facts.data_fault is not None:
        seen = f"LiteFS's data directory {safe(str(facts.data_dir))} can not be read: {safe(facts.data_fault)}."
        remedy = "Run the application as a user who may read it, or set LITEFS_DATA_DIR. Without it nobody can tell whether "
        yield _finding("data-directory", seen, remedy + "what a client saw before a restart is lost.")
    if facts.inotify_fault is not None:
        seen = f"inotify can not be used: {safe(facts.inotify_fault)}."
        remedy = "Raise fs.inotify.max_user_instances or fs.inotify.max_user_watches (sysctl); until then files are re-read."
        yield _finding("inotify-limit", seen, remedy)


def _files(facts: Facts) -> Iterator[Finding]:
    read = facts.first
    assert read is not None  # noqa: S101 - asked before
    for name, fault in sorted(read.faults.items())[:_SHOWN]:
        seen = f"{safe(str(facts.directory))}: {safe(fault)} (reading {safe(name)})."
        yield _finding("unreadable", seen, "Look at who may read it, and whether it is LiteFS that has written it.")
    if facts.database is not None and facts.database not in read.positions and f"{facts.database}-pos" not in read.faults:
        seen = f"There is no database {safe(facts.database)!r}: {unseen(facts.database, read.positions)}."
        remedy = "Set DATABASE_FILENAME (or --database) to its name, or create it on the primary."
        yield _finding("no-database", seen, remedy)


def _role(facts: Facts) -> Iterator[Finding]:
    first, second = facts.first, facts.second
    if first is None or second is None or first.lag_ms is None or second.lag_ms is None:
        return
    if first.primary is None and second.primary is None and first.lag_ms != 0 and second.lag_ms != 0:
        seen = f"No primary was known for the {facts.patience:g} s that were looked: this node names none, and is none."
        remedy = "Look at the lease (Consul: can it be reached, who holds the key?), and whether any candidate runs."
        yield _finding("no-primary", seen, remedy)
    elif second.primary is not None and second.lag_ms == NEVER_REPLICATED_MS:
        seen = f"The first replication from {safe(second.primary.hostname or 'the primary')} is not done."
        remedy = "Wait for it. If it does not come: can this node reach the primary's 'lease.advertise-url'?"
        yield _finding("never-replicated", seen, remedy)
    elif second.primary is not None and second.lag_ms > MAX_LAG_MS:
        name = safe(second.primary.hostname or "without a name")
        seen = f"The primary, {name}, was heard {second.lag_ms / 1000:.1f} s ago."
        yield _finding("lag", seen, "Is the primary frozen, or the network in between down? Look at both LiteFS logs.")


def _names(facts: Facts) -> Iterator[Finding]:
    """``.primary`` is there on replicas alone, and in a hand-over for a moment."""
    first, second = facts.first, facts.second
    if first is None or second is None or first.primary is None or second.primary is None:
        return
    name, leads = second.primary.hostname, facts.api is not None and facts.api.info is not None and facts.api.info.is_primary
    if leads or name is None or name != first.primary.hostname:
        return
    lease = _section(facts.litefs_yml.values, "lease") if facts.litefs_yml is not None else {}
    own = None if lease.get("type") == "static" else lease.get("hostname")  # there it is the primary's
    if name in (facts.hostname, own):
        seen = f"This node is a replica of {safe(name)!r}, and is called so itself: two nodes have the same hostname."
        remedy = "Give each node a 'lease.hostname' of its own (by default it is the machine's). Where hostname= or "
        yield _finding("same-hostname", seen, remedy + "FLY_MACHINE_ID is set here, it must be this node's.")


def _blocked(facts: Facts) -> Iterator[Finding]:
    for name, before in sorted(facts.positions().items()):
        after = facts.positions(second=True).get(name)
        if after is None or after.txid != before.txid:
            continue
        why = _what_waits(facts, name, after.txid)
        if why is None:
            continue
        holders = facts.holders.get(name, ())
        who = ", ".join(f"{safe(holder.command)} (pid {holder.pid})" for holder in holders[:_SHOWN])
        who = f"Who has it open: {who}." if who else "Nobody whom this user may see has it open."
        seen = f"{safe(name)} has stood at {after.txid} for {facts.patience:g} s, {why}. {who}"
        remedy = "End that transaction (COMMIT). Wait for a TXID before BEGIN, never after; keep reads short."
        yield _finding("blocked", seen, remedy)


def _what_waits(facts: Facts, name: str, txid: int) -> str | None:
    """How one sees that an open transaction holds replication up; None where it does not.

    LiteFS takes the database's locks before it keeps what has come, so that nothing of it is on the disk meanwhile. It
    then hears nothing of the primary either: its lag grows.
    """
    if facts.on_disk.get(name, 0) > txid:
        return f"though transaction {facts.on_disk[name]} is here: an open transaction on this node holds replication up"
    first, second = facts.first, facts.second
    if name not in facts.read_locked or first is None or second is None or second.primary is None:
        return None
    before, lag = first.lag_ms, second.lag_ms
    if before is None or lag is None or not max(before, SILENT_MS) < lag < NEVER_REPLICATED_MS:
        return None
    return (
        f"nothing of the primary was taken in for {lag / 1000:.1f} s, and a read transaction is open on this node: unless "
        "the primary itself is silent, that holds replication up"
    )


def examine_files(facts: Facts) -> Iterator[Finding]:
    """What is wrong with ``litefs.yml`` and ``fly.toml`` alone."""
    for config in (facts.litefs_yml, facts.fly_toml):
        if config is not None and config.fault is not None:
            yield _finding(
                "bad-config",
                f"{safe(str(config.path))}: {safe(config.fault)}.",
                "Mend it, or name another one.",
            )
    if facts.litefs_yml is not None:
        yield from _litefs_yml(facts.litefs_yml)
    if facts.fly_toml is not None:
        yield from _fly_toml(facts.fly_toml)


def _litefs_yml(config: Config) -> Iterator[Finding]:
    lease, proxy = _section(config.values, "lease"), _section(config.values, "proxy")
    if lease.get("type") == "static" and not lease.get("hostname"):
        seen = f"{safe(str(config.path))}: a static lease without 'lease.hostname': replicas don't know the primary's name."
        yield _finding("lease-hostname", seen, "Add the primary's 'hostname' to 'lease'; no write can be sent on without.")
    if proxy.get("addr"):
        seen = f"{safe(str(config.path))} has a 'proxy' section: LiteFS's proxy waits and replays, too."
        remedy = "If the application has LiteFSMiddleware, leave 'proxy' out, and give the application its port; or keep "
        yield _finding("proxy", seen, remedy + "the proxy, and leave the middleware out.")


def _fly_toml(config: Config) -> Iterator[Finding]:
    where = safe(str(config.path))
    services = config.values.get("services")
    listed = [each for each in services if isinstance(each, dict)] if isinstance(services, list) else []
    for service in [_section(config.values, "http_service"), *listed]:
        stop = service.get("auto_stop_machines", False)
        if stop not in (False, "off", "false"):
            seen = (
                f"{where}: auto_stop_machines = {safe(str(stop))}: a machine that sleeps does not replicate; one that wakes "
            )
            seen += "first may take the lease, and what the others have is dropped then."
            yield _finding("auto-stop", seen, 'Set auto_stop_machines = "off".')
        if service.get("force_https") is False:
            seen = f"{where}: force_https = false: browsers don't send the middleware's Secure cookie over http."
            yield _finding("http", seen, "force_https = true; or secure=False among the middleware's options.")


def _section(values: Mapping[str, object], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}
