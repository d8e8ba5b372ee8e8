"""What a middleware's gate knows of its node and its requests: which history they are of, and whether an answer may go.

Decides nothing that `litefs_watch.consistency` can: that is pure, and this asks the watcher. `web.waiting` waits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

from litefs_watch.changes import Role
from litefs_watch.consistency import (
    PIN,
    RUN,
    Action,
    Confirm,
    Exchange,
    Hold,
    Look,
    Node,
    Options,
    Policy,
    Refuse,
    Replay,
    Token,
    Wait,
)
from litefs_watch.consistency.exchange import Undone, Unreplicated
from litefs_watch.consistency.faults import is_dead_connection
from litefs_watch.consistency.tokens import is_beyond
from litefs_watch.core.history import View
from litefs_watch.errors import NotPrimary, WatcherClosed
from litefs_watch.operate.observers import CANCELLED, HOLD, MET, UNMET, WAIT, observers_of
from litefs_watch.position import Position, Where
from litefs_watch.sources.ltx import where_on_disk
from litefs_watch.watchers import why
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web import notes
from litefs_watch.web.budget import Budget, Defaults
from litefs_watch.web.checks import LostTransactions, SecureCookie
from litefs_watch.web.reasons import why_refused, why_replayed
from litefs_watch.web.replication import Replication
from litefs_watch.web.seldom import Seldom, more

logger: logging.Logger = logging.getLogger("litefs_watch")

Waiting = Wait | Hold | Confirm | Look
HeaderList = Iterable[tuple[bytes, bytes]]

_RESET = "this node's database was reset to an earlier state while a request read it"
_UNSURE = "nothing tells which position this node's database had when a request read it"
_NO_WATCHER = "This node's watcher is not running, so nothing is known of its primary."
_PAST = (Where.UNTOLD, Where.DOUBTED)
"""What is said of a position from before what is known: the disk may know more."""


def _where(view: View, found: Where, token: Token) -> Where | None:
    """What the watcher can say of a token, and what the disk says where that is nothing."""
    told = view.where(token)
    return found if told in _PAST and found is not Where.UNTOLD else told


def _nowhere(token: Token) -> None:
    """What a watcher that is stopped can say of a token."""


class Gate:
    """What both have in common. Raises `ConfigError` for an option that can't work."""

    DEFAULT_BUDGET: ClassVar[Defaults]
    """Requests that may wait, and that may be held, at once."""

    def __init__(self, watcher: Watcher | BlockingWatcher, database: str | None, options: Options) -> None:
        self.hostname: str = watcher.hostname
        self.database: str = watcher.settings.database_or_default(database)
        self.policy: Policy = Policy(options, self.database)
        self.policy.watcher = self._known = watcher
        self._secure = SecureCookie(options)
        self.budget: Budget = Budget(options, self.DEFAULT_BUDGET)
        self.replication: Replication = Replication(watcher.settings, options, self.database)
        self._fails_unreplicated = options.on_unreplicated == "error"
        self._monotonic = options.monotonic
        self._max_age = options.max_age
        self.tells_failures: bool = True
        """Whether those that count are told of a request that failed. Of several databases' gates, one does."""
        self._lost = LostTransactions()
        self._said_closed = False
        self._seldom = Seldom()

    def node(self, exchange: Exchange) -> Node:
        """The node as it is now. Where the watcher was stopped nothing is known, and nobody may wait."""
        known = self._known
        try:
            run = known.run
            view = run.view(self.database)
        except WatcherClosed:
            return Node(Role.UNKNOWN, None, self.hostname, None, _nowhere, room=False, holds=False)
        now = time.monotonic()
        room, hurried, holds, hold_for = self.budget.places(view.standing.role, now - view.standing_since, now)
        found = exchange.found
        where = view.where if found is None or found[0] is not view.era else partial(_where, view, found[1])
        new = now - view.since < self._max_age
        return Node(
            *view.standing,
            self.hostname,
            view.position,
            where,
            view.vouched,
            view.term,
            new,
            room,
            hurried,
            holds,
            hold_for,
            run.misplaced,
        )

    def _lookup(self, exchange: Exchange) -> Callable[[], tuple[object, Where]] | None:
        """What reads from the disk of which history a token is, if it is from before what the watcher knows."""
        token = exchange.token
        if not isinstance(token, Position):
            return None
        try:
            view = self._known.run.view(self.database)
        except WatcherClosed:
            return None
        era, data_dir = view.era, view.data_dir
        if data_dir is None or view.where(token) not in _PAST or (exchange.found and exchange.found[0] is era):
            return None
        return lambda: (era, where_on_disk(data_dir, self.database, token))

    def is_met(self, exchange: Exchange, *, noted: bool = False) -> bool:
        """Whether this is a read whose token is met: it runs on every node, whatever its role. Short for `enter`, and then
        for `admit`, too. ``noted``: it may write all the same, and knows then what this node was."""
        if exchange.writes or exchange.token is None:
            return False
        try:
            run = self._known.run
        except WatcherClosed:
            return False
        if run.misplaced is not None:  # what LiteFS has is not in the directory that would be read
            return False
        if self._monotonic or noted:
            exchange.role, exchange.term, exchange.vouched = run.standing.role, run.term, run.vouched
            exchange.before = run.position(self.database)
            if self._monotonic and not run.streaming:  # what is known may be late: `enter` reads the file
                return False
        if not self._has(exchange.token):
            return False
        exchange.admitted = self._known.glance(self.database)
        return True

    def _has(self, token: Token) -> bool:
        if isinstance(token, Position):  # no more than that: one that is untold may have to be looked up
            return self._known.has_position(self.database, token)
        try:
            return self._known.has_tx(token, self.database)
        except WatcherClosed:
            return False

    def admit(self, exchange: Exchange) -> None:
        """Before the application runs, where nothing is to be decided: what `failed` needs to know later."""
        exchange.admitted = self._known.glance(self.database)

    def look_back(self, exchange: Exchange) -> None:
        """When a response starts: whether what the request waited for is here still. A node that comes back from a fail-over
        is reset, and what was read then is of neither history; such a read goes to the primary, which can tell."""
        token = exchange.token
        if token is None or exchange.writes or exchange.written or exchange.stale or self._has(token):
            return
        node, found = self.node(exchange), exchange.found
        if exchange.role is Role.PRIMARY and (exchange.lost is not None or not isinstance(token, Position)):
            if node.role is not Role.PRIMARY and exchange.lost is not None:
                exchange.reset = NotPrimary(None, _RESET)
            return
        gone = not node.has(token) and node.where(token) in (Where.AHEAD, Where.ELSEWHERE, Where.DOUBTED)
        # Who has led all the time has made each transaction itself: what was doubted for a moment was its own.
        led = exchange.role is Role.PRIMARY is node.role and node.term == exchange.term
        if gone or (not led and found is not None and found[0] is not self._era()):
            exchange.reset = NotPrimary(None, _RESET)

    def _check_answer(self, exchange: Exchange, position: Position | None) -> None:
        """When ``position`` has been read for a response: whether it may be that of what was read, and what the client has
        seen is in it. If not, the read goes to the primary: a token that promises less than it shows hides what is lost.
        And whether what was written is in it."""
        role, before = exchange.role, exchange.before
        if role is None and exchange.admitted is not None:  # nothing was to be decided
            role, before = exchange.admitted
        if role is Role.PRIMARY and (exchange.writes or exchange.written):
            if before is not None and position is not None and is_beyond(before, position):
                exchange.reset = Undone(f"the database went back from {before} to {position} while a request wrote")
            return
        if exchange.writes or exchange.written or exchange.stale:
            return
        token, lost = exchange.token, exchange.lost is not None
        seen = [] if token is None or token == PIN or lost else [token]
        if self._monotonic and before is not None:
            seen.append(before)
        if exchange.unreadable or (position is None and before is not None):
            unsure = self._monotonic or lost
        else:
            unsure = self._monotonic and self._is_another(exchange, position)
        if unsure:
            exchange.reset = NotPrimary(None, _UNSURE)
        elif position is not None and any(is_beyond(each, position) for each in seen):
            exchange.reset = NotPrimary(None, _RESET)

    def _is_another(self, exchange: Exchange, position: Position | None) -> bool:
        """Whether this node may have been reset since the request was let in: somebody else was named as the primary; or it
        has moved, and nobody vouches for what it has now, or nobody did for what it had."""
        node = self.node(exchange)
        before = exchange.before
        if node.term != exchange.term or (position != before and not (node.vouched and exchange.vouched)):
            return True
        return before is not None and node.where(before) is None  # LiteFS went away meanwhile

    def _era(self) -> object:
        try:
            return self._known.run.view(self.database).era
        except WatcherClosed:
            return None

    def _wants_before(self, exchange: Exchange) -> bool:
        """Whether the position that a read begins with is to be read from the file: what is known is late without events."""
        if not self._monotonic or exchange.writes:
            return False
        try:
            return not self._known.run.streaming
        except WatcherClosed:
            return False

    def _say_lost(self, exchange: Exchange) -> None:
        if exchange.lost is None:
            return
        with contextlib.suppress(WatcherClosed):  # in this very moment
            self._known.run.count_lost()
        observers_of(self._known).lost()
        self._lost.say(self.database, exchange.lost)

    @contextlib.contextmanager
    def _waiting(self, exchange: Exchange, action: Waiting) -> Iterator[None]:
        """Around the wait that was decided, however it ends."""
        began, observers = time.monotonic(), observers_of(self._known)
        kind = WAIT if isinstance(action, Wait) else HOLD if isinstance(action, Hold) else None
        ends = [] if kind is None else observers.began(kind)
        cancelled = True
        try:
            with self.budget.spent_on(action):
                yield
            cancelled = False
        finally:
            now = time.monotonic()
            seconds = now - began
            if ends:
                observers.ended(ends, CANCELLED if cancelled else self._outcome(action), seconds)
            if isinstance(action, Wait):
                exchange.waited = True
                if not self._has(action.token):
                    self.budget.spend_in_vain(seconds, now)
            elif isinstance(action, Hold):
                exchange.held, exchange.held_for = True, seconds
            elif isinstance(action, Confirm):
                exchange.asked = True
            else:
                exchange.looked = True

    def _outcome(self, action: Waiting) -> str:
        """Of a wait that is over."""
        try:
            run = self._known.run
            met = self._has(action.token) if isinstance(action, Wait) else run.standing.role is not Role.UNKNOWN
        except WatcherClosed:
            met = False
        return MET if met else UNMET

    def headers_at(self, exchange: Exchange, position: Position | None, sent: HeaderList) -> list[tuple[bytes, bytes]]:
        """What is added to the headers that the application has ``sent``, at that position. Where ``exchange.reset`` is set
        then, the response is to be replaced, as by `failed`."""
        self._check_answer(exchange, position)
        added = self.policy.headers(exchange, self.node(exchange), position, sent)
        if exchange.wanted is not None and self._fails_unreplicated and exchange.reset is None:
            exchange.reset = Unreplicated(exchange.replicated or 0, exchange.wanted, added)
        self._secure.look(exchange, added)
        self._say_lost(exchange)
        return added

    def _decide(self, exchange: Exchange) -> Action:
        node = self.node(exchange)
        action = self.policy.decide(exchange, node)
        return action if action is RUN else self._told(action, exchange, node)

    def _fail(self, exchange: Exchange, error: BaseException) -> Action | None:
        node = self.node(exchange)
        action = self.policy.failed(exchange, node, error)
        return None if action is None else self._told(action, exchange, node, error)

    def _told(self, action: Action, exchange: Exchange, node: Node, error: BaseException | None = None) -> Action:
        """The action, which is none that runs, once whoever counts has been told; with its explanation for the log."""
        observers = observers_of(self._known if error is None or self.tells_failures else None)
        if type(action) is Replay:
            observers.replayed(why_replayed(exchange, error))
        elif type(action) is Refuse:
            observers.refused(why_refused(exchange, node, error, runs=self._known.running))
            return self._explained(action)
        return action

    def _explained(self, action: Refuse) -> Refuse:
        """With what keeps this node from knowing, for the log: the watcher itself, a source, a misspelt database."""
        try:
            run = self._known.run
        except WatcherClosed as error:
            return replace(action, reason=_NO_WATCHER, detail=str(error))
        if (idle := why.idle(run)) is not None:
            return replace(action, reason=_NO_WATCHER, detail=idle)
        return replace(action, detail=action.detail + why.explain(run, self.database))

    def _say_closed(self, error: WatcherClosed) -> None:
        """Once: it would be so for each request."""
        if not self._said_closed:
            self._said_closed = True
            logger.error("requests are not waited for: %s", error)

    def _say_unreadable(self, text: str, *given: object) -> None:
        """Each response would say so, for as long as LiteFS stands still."""
        if (unsaid := self._seldom.due(text)) is not None:
            logger.warning("a response carries no position: %s%s", text % given, more(unsaid))

    def is_fault_of_node(self, exchange: Exchange, error: BaseException) -> bool:
        """Whether the exception may say that the request belongs elsewhere, so that `failed` is to be asked."""
        if is_dead_connection(error):
            notes.dead_connections.say(error)
        return self.policy.failed(exchange, self.node(exchange), error) is not None
