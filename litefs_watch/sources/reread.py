"""The re-read: the one source that reads ``litefs_dir``, for whoever says 'look again', and by itself as the safety net.

There is one look at a time, off the loop's thread, shared by all who asked before it began; who asks while it is under way
gets the next one, since what it saw may be older than the question.

A look at everything is made in slices: whoever asks for one database meanwhile waits for the end of a slice, not of it all.
While the event stream tells of transactions, the net below it is wider: one small slice at a time, in turn, less often.

The net's looks, which nobody has asked for, are made in the rounds of all watchers (`rounds`), and what they see is taken in
without waking a task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import anyio

from litefs_watch.core.readings import DirectoryRead, Mount, Reading
from litefs_watch.errors import WatcherClosed
from litefs_watch.position import Position
from litefs_watch.sources import Health
from litefs_watch.sources.directory import Directory
from litefs_watch.sources.looks import Batch, Everything
from litefs_watch.sources.rounds import Outcome, Visit
from litefs_watch.sources.thread import CallThread

SIGHTED_INTERVAL = 0.1
"""Seconds between two re-reads while somebody waits and another source sees replication: that source's own safety net."""
EXPECTED_INTERVAL = 0.001
"""Seconds between two re-reads of a database whose transaction has arrived on disk and is being applied: LiteFS takes
some hundred microseconds to milliseconds from the rename of the ``.ltx`` file to the new ``-pos``."""
EXPECTED_FOR = 0.2
"""Seconds after which such a transaction is no longer expected (a reader holds replication back)."""

SLICE = 0.02
"""Seconds in one go of a look at everything: some fifty files of LiteFS's mount."""
SLICE_IN_TURN = 0.002
"""Seconds, the same where the event stream tells of transactions, and nothing but the time has asked for a look."""

LOOKS_BETWEEN_ROUNDS = 2
"""Looks between two rounds through the positions, at ``.primary`` and ``.lag`` alone, where the event stream tells of
transactions: on LiteFS's mount a position is half of a look's price."""

LISTING_INTERVAL = 5.0
"""Seconds between two listings of the directory where nobody has asked for a look, and another source tells of transactions,
and so of new databases."""

LATE = 0.25
"""Seconds after which a look that the rounds have not made is made without them, and between two times that they are asked
for what they may have seen: another watcher's LiteFS may be frozen."""

SUSPENDED = 1.0
"""Seconds that the wall clock gains on the monotonic one where a machine was suspended. Setting the clock looks the same;
all that follows is that this node is not sure for some seconds whether it is the primary."""

_THREAD = "litefs_watch re-read"
_OTHERS = (".", ".primary", ".lag")


class Reread:
    """Looks at the files and reports what it saw.

    ``known()`` and ``awaited()`` name the databases whose position is known, and those that somebody waits for;
    ``sighted()`` tells whether another source sees replication, ``streaming()`` whether that is the event stream.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        idle_interval: float,
        streaming_interval: float,
        blind_interval: float,
        report: Callable[[Reading], None],
        known: Callable[[], set[str]],
        awaited: Callable[[], frozenset[str]],
        sighted: Callable[[], bool],
        streaming: Callable[[], bool],
    ) -> None:
        self._directory = directory
        self._idle_interval = idle_interval
        self._streaming_interval = streaming_interval
        self._blind_interval = blind_interval
        self._report = report
        self._known = known
        self._awaited = awaited
        self._sighted = sighted
        self._streaming = streaming
        self._thread = CallThread(_THREAD)
        self._next, self._current = Batch(), Batch()
        self._stirred = anyio.Event()
        self._sleep: anyio.CancelScope  # in which the task waits to be stirred
        self._visit: Visit
        self._ahead = 0.0  # seconds by which anyio's clock is ahead of `time.monotonic`
        self._error: Exception | None = None  # raised outside of our task
        self._look_at: float | None = None
        self._everything_at = 0.0
        self._looked_at = float("-inf")
        self._wall_ahead: float | None = None  # seconds by which the wall clock was ahead of the monotonic one
        self._expected: dict[str, tuple[int, float]] = {}
        self._left: list[str] = []  # databases that the look at everything has not come to
        self._start = ""  # the one with which the next look at everything begins
        self._round: list[str] = []  # with the stream: those that have not had their turn
        self._rests = 0  # how many looks are still to come before the next round
        self.health: Health = Health("re-read")
        self.faults: dict[str, str] = {}
        """By file name: what was unreadable at the last look at it."""
        self.looks: int = 0
        self.looked: bool = False
        """Whether there has been a look at everything."""

    def look(self, database: str | None = None) -> None:
        """Look again, soon: at one database's position, or at everything."""
        if database is None:
            self._next.everything = True
        else:
            self._next.databases.add(database)
        self.stir()

    def look_at(self, when: float) -> None:
        """Look at everything at ``when``, on the clock of `time.monotonic`, or a little after."""
        self._look_at = when if self._look_at is None else min(self._look_at, when)
        self.stir()

    def expect(self, database: str, txid: int) -> None:
        """A transaction is on its way into ``database``: look until it is there, or for some time."""
        self._expected[database] = (txid, time.monotonic() + EXPECTED_FOR)
        self.look(database)

    def stir(self) -> None:
        """Consider anew when to look next."""
        self._stirred.set()

    async def read_position(self, database: str) -> Position | None:
        """The position in the file, from a look that begins after this call. Raises `OSError` where it is unreadable.

        `WatcherClosed` where the watcher is stopped meanwhile. While a re-read that failed pauses, it waits for the next.
        """
        batch = self._next
        self.look(database)
        await batch.done.wait()
        if batch.error is not None:
            raise batch.error
        for name in (f"{database}-pos", "."):
            if name in batch.faults:
                raise OSError(batch.faults[name])
        return batch.positions.get(database)

    def end(self) -> None:
        """Nobody looks any more: who asked, and who will ask, gets `WatcherClosed`."""
        for batch in (self._current, self._next):
            batch.fail(WatcherClosed("the watcher was stopped during a read"))

    async def run(self) -> None:
        """Look until cancelled. Where it raises it can be run again: who asks meanwhile is answered then."""
        self._thread, self._stirred, self._error = CallThread(_THREAD), anyio.Event(), None
        self._visit, self._sleep = Visit(self._visited), anyio.CancelScope()
        self._ahead = anyio.current_time() - time.monotonic()
        self._everything_at, self._left = 0.0, []  # what the last run was asked for, and did not come to
        try:
            while True:
                await self._until_due()
                self._current, self._next = self._next, Batch()
                await self._look(self._current)
        except Exception as error:
            self._current.fail(OSError(f"the look at {self._directory.path} failed: {error!r}"))
            raise
        except BaseException:
            self.end()
            raise
        finally:
            self._visit.cancel()

    async def _until_due(self) -> None:
        """Until it is time for a look of our own: one that was asked for, or that the rounds have not made in time."""
        while True:
            delay = self._delay()
            if delay > 0:
                self._await_visit()
            elif self._visit.withdraw():
                return
            with anyio.move_on_after(delay if delay > 0 else LATE) as self._sleep:
                await self._stirred.wait()
            if self._stirred.is_set():
                self._stirred = anyio.Event()
            if self._error is not None:
                raise self._error

    def _delay(self) -> float:
        """Seconds until the next look of our own; zero or less: now."""
        if self._next.everything or self._next.databases or self._left:
            return 0.0
        due, interval = self._everything_at, self._interval()
        if self.looked and interval == self._net_interval:
            due += LATE  # it is for the rounds to make
        else:
            due = min(due, self._looked_at + interval)
        if self._look_at is not None:
            due = min(due, self._look_at)
        return due - time.monotonic()

    def _interval(self) -> float:
        if self._expected:
            return EXPECTED_INTERVAL
        if not self._awaited():
            return self._net_interval
        return SIGHTED_INTERVAL if self._sighted() else self._blind_interval

    @property
    def _net_interval(self) -> float:
        return self._streaming_interval if self._streaming() else self._idle_interval

    def _await_visit(self) -> None:
        """Have the net's next look made in the rounds."""
        if not self._visit.waiting and self._visit.withdraw():
            call = self._plan(set(), set(), in_turn=self._streaming(), unasked=True)
            self._visit.at(self._everything_at, call, slack=self._net_interval / 4)

    def _visited(self, outcome: Outcome) -> None:
        """The net's look is made. In the loop's thread, but in no task of ours: what goes wrong here goes wrong in `run`."""
        try:
            self.looks += 1
            self._everything_at = time.monotonic() + self._net_interval
            self._saw(outcome(), Batch())
            if (delay := self._delay()) > 0:
                self._await_visit()
                self._sleep.deadline = time.monotonic() + delay + self._ahead  # and sleep on
                return
        except Exception as error:  # noqa: BLE001 - raised in `run`
            self._error = error
        self.stir()

    async def _look(self, batch: Batch) -> None:
        now = time.monotonic()
        asked = batch.everything or (self._look_at is not None and now >= self._look_at)
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
        databases = batch.databases | self._awaited() | self._expected.keys()
        self.looks += 1
        if asked or (now >= self._everything_at and not self._left):
            self._everything_at = now + self._net_interval
            in_turn = not asked and self.looked and self._streaming()
            self._saw(await self._thread.run(self._plan(databases, batch.databases, in_turn=in_turn)), batch)
        else:
            await self._look_at_some(batch, databases)
        batch.done.set()

    def _plan(
        self, databases: set[str], asked: set[str], *, in_turn: bool, unasked: bool = False
    ) -> Callable[[], Everything]:
        """A look at everything, the ``databases`` first, which begins with ``.primary``; then the positions that were
        ``asked`` for, which end with it."""
        known, before = self._known(), None
        look: Callable[..., tuple[DirectoryRead, list[str]]] = self._directory.begin_look
        if in_turn:
            before = self._round or ([] if self._rests else None)
            look = partial(look, left=before, within=SLICE_IN_TURN, listing_age=LISTING_INTERVAL)
        else:
            listing_age = LISTING_INTERVAL if unasked and self._sighted() else 0.0
            look = partial(look, start=self._start, within=SLICE, listing_age=listing_age)

        def make() -> Everything:
            read, left = look(databases, known)
            return Everything(read, left, databases, before, in_turn, self._directory.positions(asked) if asked else None)

        return make

    def _saw(self, look: Everything, batch: Batch) -> None:
        read, left, databases, before, in_turn, asked = look
        if self._was_suspended():
            read = replace(read, resumed=True)
        looked_at = databases.union(_OTHERS, before[: len(before) - len(left)]) if before is not None else None
        self._note_faults(read.faults, looked_at, left)
        batch.positions, batch.faults = dict(read.positions), dict(read.faults)
        if "." in read.faults:
            self.health.down(read.faults["."])
        else:
            kind = "LiteFS's mount" if read.mount is Mount.LITEFS else "an ordinary directory"
            self.health.up(f"reading {self._directory.path}, {kind}")
        self._went_on(left, in_turn=in_turn)
        if in_turn and not left:
            self._rests = self._rests - 1 if before == [] else LOOKS_BETWEEN_ROUNDS
        self._report(read)
        if asked is not None:
            some, faults = asked
            batch.positions |= some.positions
            batch.faults = batch.faults | faults
            self._report(some)
        self._have_looked(batch)

    def _have_looked(self, batch: Batch) -> None:
        self._looked_at = time.monotonic()
        self.health.fault("; ".join(sorted(self.faults.values())[:5]) or None)
        self._drop_expectations(batch.positions)

    def _was_suspended(self) -> bool:
        """Whether the wall clock has left the monotonic one behind since this was last asked."""
        ahead, before = time.time() - time.monotonic(), self._wall_ahead
        self._wall_ahead = ahead
        return before is not None and ahead - before > SUSPENDED

    async def _look_at_some(self, batch: Batch, databases: set[str]) -> None:
        left = self._left
        go_on = partial(self._directory.go_on, databases, left, within=SLICE, named=bool(batch.databases))
        some, batch.faults, self._left = await self._thread.run(go_on)
        read = databases.union(left[: len(left) - len(self._left)])
        self._note_faults(batch.faults, read, left)
        batch.positions = dict(some.positions)
        if left:
            self._went_on(self._left, in_turn=False)
        self._report(some)
        self._have_looked(batch)

    def _note_faults(self, faults: Mapping[str, str], looked_at: set[str] | None, left: list[str]) -> None:
        """What was wrong with files that this look did not come to is still wrong. ``looked_at`` None: all but ``left``."""
        unread = set(left)

        def stands(database: str) -> bool:
            return database in unread if looked_at is None else database not in looked_at

        old = {name: fault for name, fault in self.faults.items() if stands(name.removesuffix("-pos"))}
        self.faults = old | dict(faults)

    def _went_on(self, left: list[str], *, in_turn: bool) -> None:
        """Where to go on: at once, or, in turn, at the next look."""
        if in_turn:
            self._round = left
            return
        self._left = left
        self.looked = self.looked or not left
        if left:
            self._start = left[0]

    def _drop_expectations(self, positions: dict[str, Position]) -> None:
        for database, (txid, until) in list(self._expected.items()):
            position = positions.get(database)
            if (position is not None and position.txid >= txid) or self._looked_at > until:
                del self._expected[database]
