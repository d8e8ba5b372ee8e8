"""`check_sessions`: one sweep over the operations, in the order in which they started and ended.

The rules, with *place* for where an id is in the log, and *before* for 'ended before the other one started':

1. A read's place is that of the newest id which it saw, and below all where it saw none. It must not be lower than the
   places of its session's acknowledged writes before it (read your writes), nor than those of its reads before it
   (monotonic reads).
2. A write that is in the log has its place there. It must be higher than the places of its session's acknowledged writes
   before it (monotonic writes), and of its reads before it (writes follow reads).
3. What is not in the log is *gone*. A session that had an acknowledged write of that kind, or had seen one, is broken by
   each later operation in the history that survived, until it is told (`Operation.told_lost`). Who is told begins anew: it
   relies on nothing that ended before the operation which told it. (`SessionReport.told_in_vain` has those that told of a
   loss where there was none.)
4. A read that saw something gone is on another branch. What it saw of the log is its place; where it saw nothing of it, its
   branch had at most what is in front of the first write that began after the gone one was acknowledged. Whether one thing
   that is gone includes another can't be known: no verdict.
5. Unanswered and refused operations promise nothing. An unanswered write that is in the log must obey rule 2; by rule 3 it
   breaks nobody, for it could tell nothing: the next answer does, or breaks its session.
6. An operation *tests* a guarantee where its node might have answered otherwise, and broken it: no answer of that node,
   before it, had shown what the guarantee demands. So nothing is tested by asking again who took the write, nor a replica
   that is known to have it. What rule 3 is about is tested by each operation in the history that survived, told or not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType

from litefs_watch.testing.sessions import Guarantee, Operation, SessionReport, Violation

_NOTHING = -1  # below the place of every id
_OF_WRITES = (Guarantee.MONOTONIC_WRITES, Guarantee.WRITES_FOLLOW_READS)


def check_sessions(
    history: Iterable[Operation],
    log: Iterable[Hashable],
    *,
    guarantees: Collection[str] = tuple(Guarantee),
) -> SessionReport:
    """Check recorded operations against the four session guarantees (`litefs_watch.testing.Guarantee`).

    ``history`` is in any order. ``log`` has the ids of all writes of the history that survived, in its order, whether or not
    they were recorded. ``guarantees``: only these are checked. Takes some 4 s for 100,000 operations.

    Raises `ValueError` where two operations that were not refused have written the same id.
    """
    operations = list(history)
    checker = _Checker(operations, _Log(log, operations), frozenset(Guarantee(name) for name in guarantees))
    for _, phase, number in sorted(_moments(operations)):
        if phase in (_BEGIN, _BEGIN_INSTANT):
            checker.begin(number)
        else:
            checker.end(number)
    return checker.report()


# What ends when something else starts was before it; but of two that take no time at all neither was.
_END, _BEGIN_INSTANT, _END_INSTANT, _BEGIN = range(4)


def _moments(operations: Iterable[Operation]) -> Iterable[tuple[float, int, int]]:
    for number, operation in enumerate(operations):
        instant = operation.start == operation.end
        yield operation.start, _BEGIN_INSTANT if instant else _BEGIN, number
        yield operation.end, _END_INSTANT if instant else _END, number


@dataclass(frozen=True, slots=True)
class _View:
    """What a read saw."""

    place: int
    """Its place in the log; at most that, where ``bounded``."""
    gone: tuple[Hashable, ...]
    bounded: bool = False


class _Log:
    """The history that survived, and where each id is in it."""

    def __init__(self, log: Iterable[Hashable], operations: Sequence[Operation]) -> None:
        self.ids = list(log)
        self.places: dict[Hashable, int] = {}
        twice: dict[Hashable, None] = {}
        for place, written in enumerate(self.ids):
            if self.places.setdefault(written, place) != place:
                twice[written] = None
        self.twice = tuple(twice)
        self.writes: dict[Hashable, Operation] = {}
        for operation in operations:
            if operation.written is not None and operation.answer != "refused":
                if operation.written in self.writes:
                    raise ValueError(
                        f"two operations have written {operation.written!r}: give each attempt an id of its own"
                    )
                self.writes[operation.written] = operation
        kept = sorted((o.start, self.places[o.written]) for o in self.writes.values() if o.written in self.places)
        self._starts = [start for start, _ in kept]
        self._lowest = list(accumulate((place for _, place in reversed(kept)), min))[::-1]

    def place(self, operation: Operation) -> int | None:
        """Where the operation's write is; None where it wrote nothing, or that is gone."""
        return None if operation.written is None else self.places.get(operation.written)

    def lost(self, operation: Operation) -> bool:
        """Whether it is an acknowledged write that is gone."""
        return operation.acknowledged and operation.written is not None and operation.written not in self.places

    def refused_but_written(self, operation: Operation) -> bool:
        """Whether it was said that nothing has been done, and it is in the log; not by a second attempt."""
        return operation.answer == "refused" and operation.written in self.places and operation.written not in self.writes

    def view(self, operation: Operation) -> _View | None:
        """What an operation saw; None where it read nothing, or was not answered."""
        if operation.read is None or not operation.acknowledged:
            return None
        places = [self.places[seen] for seen in operation.read if seen in self.places]
        gone = tuple(seen for seen in operation.read if seen not in self.places)
        if places or not gone:
            return _View(max(places, default=_NOTHING), gone)
        return _View(min(map(self._branched_off, gone)), gone, bounded=True)

    def _branched_off(self, gone: Hashable) -> int:
        """The last place that the branch of a write which is gone can have had."""
        write = self.writes.get(gone)
        if write is not None and write.acknowledged:
            later = bisect_left(self._starts, write.end)
            if later < len(self._starts):
                return self._lowest[later] - 1
        return len(self.ids) - 1

    def name(self, place: int) -> str:
        return "nothing" if place < 0 else repr(self.ids[place])


@dataclass(slots=True)
class _Relied:
    """What a session relies on, of its writes or of its reads."""

    verb: str
    place: int = _NOTHING
    by: Operation | None = None
    """Which had that place."""
    gone: Operation | None = None
    """The last to end of those that are about something which is gone, and of which nobody has been told since."""
    gone_id: Hashable = None
    since: list[_Mark] = field(default_factory=list)
    """What it relied on when each telling began that still goes on."""

    def add(self, operation: Operation, place: int | None, gone: Sequence[Hashable]) -> None:
        if place is not None and place > self.place:
            self.place, self.by = place, operation
        for mark in self.since:
            if place is not None and place > mark.place:
                mark.place, mark.later = place, operation
        if gone:
            self.gone, self.gone_id = operation, gone[0]

    def mark(self) -> _Mark:
        mark = _Mark(self.gone)
        self.since.append(mark)
        return mark

    def forgive(self, mark: _Mark) -> None:
        """It has been told of these, and of what ended before them; not of what has ended since."""
        if self.gone is mark.gone:
            self.gone = None
        self.by, self.place = mark.later, mark.place
        began = next(index for index, other in enumerate(self.since) if other is mark)
        for earlier in self.since[:began]:
            earlier.later, earlier.place = mark.later, mark.place
        del self.since[began]


@dataclass(slots=True)
class _Mark:
    """What a session relied on when it began to be told, …"""

    gone: Operation | None
    later: Operation | None = None
    """… and the farthest that has ended since."""
    place: int = _NOTHING


_Marks = tuple[_Mark, _Mark]


@dataclass(slots=True)
class _Session:
    writes: _Relied = field(default_factory=lambda: _Relied("written"))
    reads: _Relied = field(default_factory=lambda: _Relied("seen"))
    lost: list[Operation] = field(default_factory=list)
    """Its lost writes, of which it has not been told yet."""

    def marks(self) -> _Marks:
        return self.writes.mark(), self.reads.mark()

    def forgive(self, marks: _Marks) -> None:
        """It has been told."""
        for relied, mark in zip((self.writes, self.reads), marks, strict=True):
            relied.forgive(mark)


class _Checker:
    """Follows the operations. When one begins, all that ended before it, and nothing else, has been taken in."""

    def __init__(self, operations: Sequence[Operation], log: _Log, guarantees: frozenset[Guarantee]) -> None:
        self._operations = operations
        self._log = log
        self._views = [log.view(operation) for operation in operations]
        self._sessions: dict[Hashable, _Session] = {operation.session: _Session() for operation in operations}
        self._telling: dict[int, _Marks] = {}
        self._shown: dict[str, int] = {}  # by node: the newest place that it is known to have
        self._newest = _NOTHING  # the same of all nodes
        self._tested = {guarantee: 0 for guarantee in Guarantee if guarantee in guarantees}
        self._violations: list[Violation] = []
        self._told: list[Operation] = []
        self._from_gone_branch: list[Operation] = []
        self._already_gone: list[Operation] = []
        self._told_in_vain: list[Operation] = []

    def begin(self, number: int) -> None:
        operation, view = self._operations[number], self._views[number]
        session = self._sessions[operation.session]
        gone = session.writes.gone, session.reads.gone
        if operation.told_lost:
            self._tell(number, session)
        if view is not None:
            self._see(operation, view)
            newest = f"{view.gone[0]!r}, which is lost," if view.gone else self._log.name(view.place)
            said = f"{operation.node or 'a node'} then answered with {newest}"
            # What is gone may be part of what else is gone (rule 4).
            missed = (None, None) if view.gone else gone
            self._check(Guarantee.READ_YOUR_WRITES, session.writes, missed[0], operation, view.place, said)
            self._check(Guarantee.MONOTONIC_READS, session.reads, missed[1], operation, view.place, said)
        place = self._log.place(operation)
        if place is not None and operation.answer != "refused":
            if not operation.acknowledged:
                gone = None, None
            said = f"{operation.written!r}, written later, is in the log"
            self._check(Guarantee.MONOTONIC_WRITES, session.writes, gone[0], operation, place - 1, said)
            self._check(Guarantee.WRITES_FOLLOW_READS, session.reads, gone[1], operation, place - 1, said)

    def end(self, number: int) -> None:
        operation, view = self._operations[number], self._views[number]
        session = self._sessions[operation.session]
        if operation.told_lost:
            session.forgive(self._telling.pop(number))
        if not operation.acknowledged:
            return
        place, lost = self._log.place(operation), self._log.lost(operation)
        session.writes.add(operation, place, [operation.written] if lost else [])
        if lost:
            session.lost.append(operation)
        self._show(operation.node, place)
        if view is not None:
            certain = None if view.bounded else view.place
            session.reads.add(operation, certain, view.gone)
            self._show(operation.node, certain)

    def _tell(self, number: int, session: _Session) -> None:
        self._telling[number] = session.marks()
        self._told += session.lost
        session.lost.clear()
        if session.writes.gone is session.reads.gone is None:
            self._told_in_vain.append(self._operations[number])

    def _see(self, read: Operation, view: _View) -> None:
        if view.gone:
            self._from_gone_branch.append(read)
            if self._newest > view.place:
                self._already_gone.append(read)

    def _show(self, node: str, place: int | None) -> None:
        if place is not None:
            self._shown[node] = max(self._shown.get(node, _NOTHING), place)
            self._newest = max(self._newest, place)

    def _check(
        self, guarantee: Guarantee, relied: _Relied, missed: Operation | None, later: Operation, place: int, said: str
    ) -> None:
        """Whether ``later``, which includes the log up to ``place``, includes what its session relies on."""
        if guarantee not in self._tested:
            return
        had = f"{later.session!r} had {relied.verb}"
        broken = None
        if relied.by is not None and place < relied.place and not later.told_lost:
            order = "in front of it" if guarantee in _OF_WRITES else "as the newest"
            sentence = f"{had} {self._log.name(relied.place)}, and {said} {order}"
            broken = Violation(guarantee, later.session, relied.by, later, sentence)
        elif missed is not None and not later.told_lost:
            sentence = f"{had} {relied.gone_id!r}, which is lost; {said}, and did not say so"
            broken = Violation(guarantee, later.session, missed, later, sentence)
        if broken is not None:
            self._violations.append(broken)
        in_doubt = bool(later.node) and self._shown.get(later.node, _NOTHING) < relied.place
        if broken is not None or (later.acknowledged and (missed is not None or in_doubt)):
            self._tested[guarantee] += 1

    def report(self) -> SessionReport:
        return SessionReport(
            violations=tuple(self._violations),
            tested=MappingProxyType({str(guarantee): count for guarantee, count in self._tested.items()}),
            lost=tuple(operation for operation in self._operations if self._log.lost(operation)),
            told=tuple(self._told),
            from_gone_branch=tuple(self._from_gone_branch),
            already_gone=tuple(self._already_gone),
            told_in_vain=tuple(self._told_in_vain),
            refused_but_written=tuple(filter(self._log.refused_but_written, self._operations)),
            written_twice=self._log.twice,
            operations=len(self._operations),
            sessions=len(self._sessions),
        )
