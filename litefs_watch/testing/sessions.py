"""Session guarantees: what a client of a replicated database may rely on, and the record of what it did and saw.

The four are those of 'Session Guarantees for Weakly Consistent Replicated Data' (Terry and others, 1994). LiteFS's one
primary orders all writes, so each is a comparison of places in one log, and needs no solver. How to record, and to check::

    history.append(Operation("alice", started, ended, written="order-17", node="node-a"))
    history.append(Operation("alice", started, ended, read=newest_ids, node="node-b"))
    log = [id for (id,) in connection.execute("SELECT id FROM writes ORDER BY rowid")]  # on the primary, at the end
    report = check_sessions(history, log)
    assert report.ok, report
    assert min(report.tested.values()) >= 500, report

For that each write inserts an id of its own into one table, in its own transaction, and each read looks at that table in the
transaction in which it reads all else. What is decided, and how: `litefs_watch.testing.session_check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

Answer = Literal["ok", "refused", "unknown"]

_SHOWN = 10


class Guarantee(StrEnum):
    """What a session may rely on, by the names of Terry and others."""

    READ_YOUR_WRITES = "read your writes"
    """A read sees the writes that its session made before."""
    MONOTONIC_READS = "monotonic reads"
    """A read sees what its session has seen before."""
    MONOTONIC_WRITES = "monotonic writes"
    """A write comes after the writes that its session made before, and is nowhere without them."""
    WRITES_FOLLOW_READS = "writes follow reads"
    """A write comes after what its session had seen before, and is nowhere without it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of a client, as the client saw it. Raises `ValueError` for one that can't be.

    A *session* is whoever is promised something: one user's cookies, one client's token. Its requests may overlap: only what
    ended before another one started is 'before' it; an end and a start at the same number are in that order.
    """

    session: Hashable
    start: float
    """When the request was sent, by a clock that all sessions share: seconds, or any numbers that grow."""
    end: float
    """When the answer was there, or the client gave up."""
    written: Hashable | None = None
    """The id of the write, which names this one attempt: a retry gets another one, but for the retry of a refused write."""
    read: Collection[Hashable] | None = None
    """The newest ids that were seen, in any order; empty where there were none. One is enough to compare places, and more,
    say ten, are better: where the newest are lost, the others tell how much of the history that survived was seen."""
    node: str = ""
    """Who answered. For a write that was sent on it is the primary. Empty where it is not known; then it tests nothing."""
    answer: Answer = "ok"
    """'ok'; 'refused': it was said that nothing has been done (503); 'unknown': a time-out, a lost connection, a 500. Such a
    write may or may not be in the log, and nobody can rely on it."""
    told_lost: bool = False
    """This answer said that something which this session had written or read is lost, or may be (the headers ``litefs-lost``
    and ``litefs-doubted``). It counts for all that had ended before this operation started."""

    def __post_init__(self) -> None:
        if not self.start <= self.end:
            raise ValueError(f"an operation can't end ({self.end}) before it starts ({self.start})")
        if self.answer not in get_args(Answer):
            raise ValueError(f"an answer is one of {', '.join(get_args(Answer))}, not {self.answer!r}")
        if isinstance(self.read, str | bytes):
            raise ValueError(f"what was read is a collection of ids, not the one id {self.read!r}: write [{self.read!r}]")  # noqa: TRY004
        if self.read is not None:
            object.__setattr__(self, "read", tuple(self.read))

    @property
    def acknowledged(self) -> bool:
        """Whether the answer said that it was done."""
        return self.answer == "ok"


@dataclass(frozen=True, slots=True)
class Violation:
    """One guarantee that was broken."""

    guarantee: Guarantee
    session: Hashable
    earlier: Operation
    """What the session relied on: of several operations the one that demands most."""
    later: Operation
    """The operation that broke it."""
    sentence: str
    """What happened."""

    def __str__(self) -> str:
        return f"{self.guarantee}: {self.sentence}"


@dataclass(frozen=True)
class SessionReport:
    """What `litefs_watch.testing.check_sessions` found. ``str()`` is a table to read."""

    violations: tuple[Violation, ...]
    """In the order in which they happened; each operation at most once for each guarantee."""
    tested: Mapping[str, int]
    """By the name of the guarantee: how many operations could have broken it, with what else a node might have answered."""
    lost: tuple[Operation, ...]
    """The acknowledged writes that are not in the log: replication is asynchronous, and a fail-over may drop them."""
    told: tuple[Operation, ...]
    """Those of `lost` of which their session was told."""
    from_gone_branch: tuple[Operation, ...]
    """The reads that saw an id which is not in the log."""
    already_gone: tuple[Operation, ...]
    """Those of `from_gone_branch` that started when the history had already gone on without what they saw: somebody had been
    answered from there. The others saw what was lost only later."""
    told_in_vain: tuple[Operation, ...]
    """What said that something is lost, to a session which had neither written nor seen anything that is. (A transaction
    without an id may have been.)"""
    refused_but_written: tuple[Operation, ...]
    """Writes that were refused, and are in the log: a client that tries again makes them twice."""
    written_twice: tuple[Hashable, ...]
    """Ids that are in the log more than once."""
    operations: int
    sessions: int

    @property
    def ok(self) -> bool:
        """Whether nothing happened that must not: what was lost is no violation, until its session misses it untold."""
        return not (self.violations or self.already_gone or self.refused_but_written or self.written_twice)

    def __str__(self) -> str:
        counts = Counter(violation.guarantee for violation in self.violations)
        rows = [("guarantee", "tested", "violations")]
        rows += [
            (name, f"{number:,}" if number else "never", f"{counts[Guarantee(name)]:,}")
            for name, number in self.tested.items()
        ]
        lines = [f"{name:<20}{tested:>10}{broken:>12}" for name, tested, broken in rows]
        lines.append(f"{self.operations:,} operations of {self.sessions:,} sessions")
        lines += [f"{count:,} {what}" for count, what in self._findings() if count]
        lines += [str(violation) for violation in self.violations[:_SHOWN]]
        if len(self.violations) > _SHOWN:
            lines.append(f"and {len(self.violations) - _SHOWN:,} violations more")
        return "\n".join(lines)

    def _findings(self) -> list[tuple[int, str]]:
        return [
            (len(self.lost), f"acknowledged writes lost, {len(self.told):,} of them told"),
            (
                len(self.from_gone_branch),
                f"reads from a branch that is gone, {len(self.already_gone):,} of them when it was already",
            ),
            (len(self.told_in_vain), "answers that told of a loss where there was none"),
            (len(self.refused_but_written), "writes refused, and done all the same"),
            (len(self.written_twice), "writes done twice"),
        ]
