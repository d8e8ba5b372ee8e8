"""What is true about this node: the one file that decides. Pure: no I/O, no clock, no event loop.

`NodeState.apply` takes a reading and answers with what changed. The rules, by number; the code refers to them.

1. **A look that began before the last accepted one may raise a TXID, never lower it.** One that began after may lower it:
   LiteFS's positions do go back (a reset replica, a restored database). The same TXID with another checksum is another
   history, and counts as lower. A look that began before a history was first seen is not counted at all.
2. **An event counts by itself only while the stream and the files agree.** How long an event was on its way is unknown:
   where a look has run ahead of the stream, the events still under way may belong to a history that is gone. They, and
   every event that lowers, are 'look again', until an event says what is known, or a look what the last event said.
3. **Only two things prove PRIMARY**: LiteFS saying ``isPrimary``, or ``.primary`` absent with ``.lag`` at zero, twice.
   ``.primary`` alone proves nothing: it is absent on a node that is cut off, too.
4. **Where there is no ``.lag``** (LiteFS before 0.5, an ordinary directory) and no event stream, litefs-js's rule serves:
   no ``.primary`` means PRIMARY, but only where at least one database is; an empty directory means UNKNOWN.
5. **A claim must stay for `settle` seconds** before it is a change. A replica that can't reach its primary names it for
   about 1 ms, once a second, for as long as that lasts. Only what LiteFS itself says of *this* node's being primary,
   either way, counts at once.
6. **A node never is the replica of itself**: it is named so for some milliseconds during a hand-over. That is UNKNOWN.
7. **A fault is no evidence.** What could not be read changes nothing.
8. **Where LiteFS is gone** (no stream, and the mount dead, away, or replaced by the bare directory under it, or a directory
   that has none of its files any more; or no answer from anything for some seconds) the role is UNKNOWN, and the positions
   stay as last known.
9. **Old news meets nobody.** Once the stream has ended, the mount has died, or an event has said that a position went
   back, what was known before meets no wait, until a look confirms it that began after that: a node that comes back may
   have been reset. (Where nothing of LiteFS's has ever been in the directory, it is another one, and LiteFS's stream
   alone counts.) Then a whole position that is *here* meets whatever the role, and nothing else does while nobody vouches
   for what this node has: while the role is UNKNOWN, or on a replica that has a primary and is not following it yet (rule
   10). A node that returns from a crash stands for up to a second in a history that its new primary has not, before
   LiteFS resets it.
10. **A replica follows its primary once LiteFS says that replication has begun.** ``.primary`` is there before that. After
   LiteFS's start and after a demotion ``.lag`` says so: 2147483647 until then. On a replica that has followed another
   primary it counts on from that one's last sign of life, until the new one gives the first.
11. **Only who is sure to be the primary says what is lost**: by a look that began after the question (`core.tenure`).
"""

from __future__ import annotations

from pathlib import Path

from litefs_watch.changes import NOBODY, Change, PrimaryChange, Role, Standing, TxChange
from litefs_watch.core import claims
from litefs_watch.core.agreement import Agreement
from litefs_watch.core.claims import PRIMARY
from litefs_watch.core.following import NEVER, Following
from litefs_watch.core.history import Histories, Lineage, View
from litefs_watch.core.presence import Presence
from litefs_watch.core.readings import DirectoryRead, PositionsRead, Reading, RoleEvent, Silence, StreamEnded, TxEvent
from litefs_watch.core.tenure import Tenure
from litefs_watch.position import Position

DATABASE_LIMIT = 10_000
"""Databases that are kept in mind. A program that is not LiteFS could name any number of them."""


class NodeState:
    """This node's role, its primary, and the position of each database."""

    def __init__(self, hostname: str, settle: float, lease_ttl: float = 10.0) -> None:
        self.standing: Standing = NOBODY
        self.positions: dict[str, Position] = {}
        """By database, as last known."""
        self.histories: Histories = Histories()
        self.here: dict[str, Lineage] = {}
        """By database: the positions that meet a wait for one of them now, whatever the role (rule 9)."""
        self.met: dict[str, Position] = {}
        """By database: the position that meets a wait for its TXID, or for one from before what is known, now (rule 9).
        Always this very dict, as `here`: others read both without asking first."""
        self.risen: set[str] = set()
        """Databases in whose `here` or `met` the last reading has set or changed something."""
        self.lag_ms: int | None = None
        self.look_again_at: float | None = None
        """When another look at the directory is wanted, on the readings' clock; None: not for the state's sake."""

        self._hostname = hostname
        self._settle = settle
        self._standing_since = self._claimed_at = NEVER  # when the last claim that was taken, or accepted, was read
        self._candidate: Standing | None = None  # a claim that has not stayed long enough yet (rule 5) …
        self._candidate_since = 0.0  # … and when it was first read
        self._role_event_at = self._looked_at = NEVER
        self._streaming = False
        self._stream_claim = NOBODY  # what LiteFS last said on the stream
        self._presence = Presence()  # rule 8

        self._read_at: dict[str, float] = {}  # when the look that each position rests on began
        self._history_since: dict[str, float] = {}  # looks that began earlier may have seen a history that is gone
        self._agreement = Agreement()  # rule 2
        self._following = Following()  # rule 10
        self._tenure = Tenure(lease_ttl)  # rule 11
        self._vouched_at = NEVER  # since when somebody vouches for what this node has
        self._gone_at = NEVER  # when LiteFS was last known to be gone (rule 9) …
        self._went_back_at: dict[str, float] = {}  # … and when an event last said that this database went back

    @property
    def role(self) -> Role:
        return self.standing.role

    def forget(self) -> None:
        """Know nothing any more: nobody watches."""
        self.standing, self.lag_ms = NOBODY, None
        for known in (self.positions, self.here, self.met):
            known.clear()

    @property
    def term(self) -> int:
        """Another number each time that somebody names another primary: before that, this node is not reset."""
        return self._following.term

    @property
    def vouched(self) -> bool:
        """Whether what is here is the cluster's: on the primary, and on a replica that follows it."""
        role, following = self.standing.role, self._following
        if self._claimed_at <= self._gone_at:  # LiteFS may be another one since
            return False
        return following.whom == PRIMARY if role is Role.PRIMARY else role is Role.REPLICA and following.begun

    def view(self, database: str, data_dir: Path | None = None, *, everything: bool = False) -> View:
        history = self.histories.by_database.get(database)
        replaced, era = (False, None) if history is None else (history.replaced, history.era)
        known = (self.standing, self.vouched, self.positions.get(database), self.here.get(database), replaced, data_dir)
        return View(*known, self._following.term, self._following.changed_at, everything, self._standing_since, era)

    def has(self, database: str, wanted: int | Position) -> Position | None:
        """What meets a wait, if it is met. May be asked from any thread."""
        known = self.met.get(database)
        if not isinstance(wanted, Position):
            return known if known is not None and known.txid >= wanted else None
        lineage = self.here.get(database)
        if lineage is None:
            return None
        if lineage.has(wanted):
            return lineage.last
        return known if wanted.txid < lineage.first else None

    def apply(self, reading: Reading) -> list[Change]:
        """Take in what a source saw. Returns what changed by it, in order; `look_again_at` says whether to look again."""
        self.look_again_at = None
        if self.risen:
            self.risen = set()
        match reading:
            case TxEvent():
                changes = self._tx_event(reading)
            case DirectoryRead():
                changes = self._read_role(reading)  # first: it says whether the positions may meet anybody
                changes = self._read_positions(reading) + changes
            case PositionsRead():
                changes = self._read_named(reading) + self._read_positions(reading)
            case RoleEvent():
                changes = self._role_event(reading)
            case StreamEnded():
                self._streaming = False
                self._part_from_stream()
                self._is_gone(reading.began)
                changes = self._claim(NOBODY, reading.began, sure=True) if self._presence.away else []
                self._look_again(reading.began)
            case Silence():
                self.lag_ms = None  # a number that stands still looks like a healthy one
                changes = self._claim(NOBODY, reading.began, sure=True)
        if self._candidate is not None and self._candidate_since + self._settle > reading.began:
            self._look_again(self._candidate_since + self._settle)
        return changes

    @property
    def settled(self) -> bool:
        """Whether no claim about the role waits to be confirmed, and the files were looked at since the stream's last."""
        return self._candidate is None and self._looked_at >= self._role_event_at

    def is_sure(self, since: float) -> bool:
        """Whether a look that began at ``since``, or later, proves that this node is the primary (rule 11)."""
        return self.role is Role.PRIMARY and self._candidate is None and self._tenure.is_sure(since)

    def _look_again(self, at: float) -> None:
        self.look_again_at = at if self.look_again_at is None else min(self.look_again_at, at)

    # Which positions may meet a wait: rules 9 and 10.

    def _is_gone(self, at: float) -> None:
        self._gone_at = max(self._gone_at, at)
        self._following.begun = False
        self.here.clear()
        self.met.clear()
        self.histories.doubt()

    def _offer(self, database: str) -> None:  # let its position, and those before it, meet waits, if they may
        read_at = self._read_at[database]
        if read_at <= self._gone_at or read_at <= self._went_back_at.get(database, NEVER):
            return
        history, position = self.histories.by_database[database], self.positions[database]
        if self.here.get(database) is not history.lineage:
            self.here[database] = history.lineage
            self.risen.add(database)
        if self.vouched:
            if read_at > self._vouched_at:
                history.trust()
            if self.met.get(database) is not position:
                self.met[database] = position
                self.risen.add(database)

    def _part(self, claim: Standing, began: float) -> None:  # nobody vouches for what is here until the new one does
        if self._following.part(claim, began):
            self._vouched_at = began
            if claim != PRIMARY:
                self.met.clear()
                self.histories.doubt()

    def _part_from_stream(self) -> None:  # what looks have seen further on came after this: it may be of another history
        for database in self._agreement.ahead:
            self.histories.by_database[database].part()
            self.here.pop(database, None)

    def _follow(self, read: DirectoryRead) -> None:
        following = self._following
        if following.look(read):
            self._vouch(read.began)
        if not self.vouched:
            self.met.clear()
        if following.awaited:
            self._look_again(read.began + max(self._settle, (read.began - following.since) / 4))

    def _vouch(self, began: float) -> None:  # from now on somebody does, if the role says so, too
        self._vouched_at = max(self._vouched_at, began)  # a slow look began before what the stream has said since
        for database in self.positions:
            self._offer(database)

    # Positions: rules 1 and 2.

    def _read_positions(self, reading: DirectoryRead | PositionsRead) -> list[Change]:
        changes: list[Change] = []
        for database, position in reading.positions.items():
            known = self.positions.get(database)
            if reading.began < self._history_since.get(database, NEVER):
                continue
            if known == position:
                self._read_at[database] = max(self._read_at[database], reading.began)
            elif known is None and len(self.positions) >= DATABASE_LIMIT:
                continue
            elif known is None or position.txid > known.txid or reading.began > self._read_at[database]:
                changes.append(self._set_position(database, position, reading.began))
                if known is not None and position.txid <= known.txid:
                    self._history_since[database] = reading.began
            else:
                continue
            self._agreement.look(database, position, known)
            if not self._following.is_heard:  # whoever it will follow may replace what is there now
                self.histories.by_database[database].doubt()
            self._offer(database)
        return changes

    def _tx_event(self, event: TxEvent) -> list[Change]:
        database, position = event.database, event.position
        known = self.positions.get(database)
        if known is None:
            if len(self.positions) >= DATABASE_LIMIT:
                return []
            self._history_since[database] = event.began  # a look under way may have seen what was before it
        behind, ahead = self._agreement.tell(event, known)
        self.histories.fill(database, behind)
        if known == position:
            return []
        if ahead and database not in self._agreement.doubted:
            change = self._set_position(database, position, event.began, ahead[:-1])
            self._offer(database)
            return [change]
        if not ahead:
            self._went_back_at[database] = event.began
            self.here.pop(database, None)
            self.met.pop(database, None)
        self._look_again(event.began)
        return []

    def _set_position(self, database: str, position: Position, began: float, passed: tuple[Position, ...] = ()) -> TxChange:
        previous, dropped = self.positions.get(database), self.histories.move(database, passed, position)
        self.positions[database] = position
        self.risen.add(database)
        self._read_at[database] = max(self._read_at.get(database, began), began)
        return TxChange(database, position, previous, dropped)

    # The role: rules 3 to 8.

    def _role_event(self, event: RoleEvent) -> list[Change]:
        self._streaming = True
        self._role_event_at = event.began
        claim = claims.of_event(event, self._hostname)
        if event.first:
            self._agreement.begin(self.positions)
        elif claim != self._stream_claim:
            self._part_from_stream()
        self._stream_claim = claim
        if event.is_primary:
            for database in self.positions.keys() - self._agreement.doubted:  # what was told before is where it took over
                self.histories.by_database[database].trust()
        self._look_again(event.began)
        return self._heed_stream(event.began)

    def _heed_stream(self, began: float) -> list[Change]:
        if self._stream_claim == NOBODY and Standing(Role.REPLICA) in (self.standing, self._candidate):
            return []  # the stream can't name a primary without a name: only the files tell it from 'none'
        return self._claim(self._stream_claim, began, sure=PRIMARY in (self._stream_claim, self.standing))

    def _read_role(self, read: DirectoryRead) -> list[Change]:
        self._looked_at, presence = read.began, self._presence
        presence.look(read, streaming=self._streaming)
        if presence.away:
            if presence.found or not self._streaming:
                self._is_gone(read.began)
            self.lag_ms = None
            self._tenure.look(read.began, primary=False, resumed=False)
            if self._streaming:  # a wrong directory, or none yet: LiteFS's own word stands
                return self._heed_stream(read.began)
            return self._claim(NOBODY, read.began, sure=presence.mounted)
        if ".lag" not in read.faults:
            self.lag_ms = read.lag_ms
        claim = claims.of_look(read, self._hostname, streaming=self._streaming)
        if claim is not None:
            changes = self._claim(claim, read.began)
        else:
            changes = self._heed_stream(read.began) if self._streaming else []
        self._follow(read)
        if read.faults.keys().isdisjoint((".", ".primary", ".lag")):
            says_so = PRIMARY in (self.standing, self._candidate)  # after a silence, a look that says so is not believed yet
            self._tenure.look(read.began, primary=says_so, resumed=read.resumed)
            if self._tenure.doubted_until > read.began:
                self._look_again(self._tenure.doubted_until)
        return changes

    def _read_named(self, read: PositionsRead) -> list[Change]:  # by who this node may have been reset before it was read
        claim = claims.of_named(read.primary, self._hostname)
        return self._claim(claim, read.began) if claim.role is Role.REPLICA and claim != self.standing else []

    def _claim(self, claim: Standing, began: float, *, sure: bool = False) -> list[Change]:
        if began < self._claimed_at:
            self._following.heed_late(claim)
            return []
        self._claimed_at = began
        self._part(claim, began)
        if claim == self.standing:
            self._candidate = None
            return []
        if claim != self._candidate:
            self._candidate, self._candidate_since = claim, began
        if not sure and began < self._candidate_since + self._settle:
            return []
        change = PrimaryChange(*claim, previous_role=self.role, previous_primary=self.standing.primary)
        self.standing, self._standing_since = claim, began
        self._candidate = None
        if claim.role is Role.UNKNOWN:
            self.met.clear()
        else:
            self._vouch(began)
        return [change]
