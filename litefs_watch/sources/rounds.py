"""The rounds: calls that nobody waits for, made by one thread of the process for all who have some, when they are due.

Fifty watchers that look once a second, each by a timer and a thread of its own, wake the process two hundred times a second,
and waking it costs more than the looks do. Here one thread wakes, makes all calls that are due now or will be soon, and then
wakes each event loop once.

A call blocks for as long as its LiteFS is frozen, and those behind it are late. No clock watches over that: whoever finds
his own call late takes it back, and by that, or by the next call that is put here, another thread takes over the rounds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from anyio.lowlevel import EventLoopToken, current_token

from litefs_watch.sources.thread import IDLE_LIMIT, call_soon, lend

logger: logging.Logger = logging.getLogger("litefs_watch")

STUCK = 0.1
"""Seconds after which a call is taken for one that blocks."""
LOST = 2.0
"""Seconds after a call's end in which its outcome comes: one that has not is lost, through a fault of ours."""
TELL_AFTER = 0.02
"""Seconds of calls after which the event loops are told what is there so far."""

_THREAD = "litefs_watch rounds"
_NEVER = float("inf")

Outcome = Callable[[], Any]
"""Returns what the call returned, or raises what it raised."""


class Visit:
    """One call at a time, in the rounds. All but the call itself belongs to the thread of the event loop that made this.

    ``visited`` gets the outcome, in that thread, and must not raise.
    """

    def __init__(self, visited: Callable[[Outcome], object]) -> None:
        self.token: EventLoopToken = current_token()
        self.when: float = _NEVER
        self.earliest: float = _NEVER
        self.waiting: bool = False
        """Whether there is a call that has not begun."""
        self.over_at: float = _NEVER
        """When the call that is under way was over."""
        self._under_way = False
        self._serial = 0  # of the call that is, or was last
        self._cancelled = False
        self._visited = visited
        self._call: Callable[[], object] = bool

    def at(self, when: float, call: Callable[[], object], *, slack: float) -> None:
        """Have ``call`` made at ``when``, on the clock of `time.monotonic`, or with others' up to ``slack`` seconds before.

        Only where none waits or is under way. Raises `RuntimeError` where no thread can be had.
        """
        self.when, self.earliest, self._call = when, when - slack, call
        _rounds.put(self)

    def withdraw(self) -> bool:
        """Take back what waits. False where it has begun, and its outcome is still to come."""
        _rounds.take_out(self)
        if self._under_way and time.monotonic() > self.over_at + LOST:
            self._under_way = False
        return not self._under_way

    def cancel(self) -> None:
        """Take it back for good: no outcome comes any more. From any thread."""
        self._cancelled = True
        _rounds.take_out(self)

    # For the rounds: `waiting` changes with their lock held.

    def begin(self) -> None:
        self.waiting, self._under_way, self.over_at = False, True, _NEVER
        self._serial += 1

    def make(self) -> Callable[[], None]:
        """Make the call. Returns what is to be done about it in the event loop's thread."""
        outcome: Outcome
        try:
            result = self._call()
        except BaseException as error:  # noqa: BLE001 - handed over
            outcome = partial(_throw, error)
        else:
            outcome = partial(_return, result)
        return partial(self._deliver, self._serial, outcome)

    def _deliver(self, serial: int, outcome: Outcome) -> None:
        if serial != self._serial or not self._under_way:  # it was given up
            return
        self._under_way = False
        if not self._cancelled:
            self._visited(outcome)


def _return(result: object) -> object:
    return result


def _throw(error: BaseException) -> NoReturn:
    raise error


class _Rounds:
    """Who waits to be visited, and the thread that makes the rounds while there is anybody, and a little longer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Visit, None] = {}
        self._serving: object | None = None  # stands for the thread whose rounds these are
        self._wakes_at = _NEVER
        self._call_since = _NEVER  # since when the call that is under way lasts
        self._told_at = 0.0
        self._outcomes: dict[Hashable, tuple[EventLoopToken, deque[Callable[[], None]]]] = {}

    def put(self, visit: Visit) -> None:
        with self._changed:
            self._see_to_thread()
            self._waiting[visit] = None
            visit.waiting = True
            if visit.when < self._wakes_at:
                self._changed.notify()

    def take_out(self, visit: Visit) -> None:
        with self._changed:
            self._waiting.pop(visit, None)
            visit.waiting = False
            if self._waiting or self._outcomes:
                with suppress(RuntimeError):  # whoever is put here next tries again, and hears of it
                    self._see_to_thread()

    def _see_to_thread(self) -> None:
        """Have one, and another one where that is stuck."""
        if self._serving is None or time.monotonic() - self._call_since > STUCK:
            serving = object()
            lend(_THREAD, partial(self._serve, serving))
            self._serving, self._call_since, self._wakes_at = serving, _NEVER, _NEVER

    # In the thread.

    def _serve(self, serving: object) -> None:
        try:
            self._tell()  # what the thread before has left
            while self._make_a_round(serving):
                pass
        except BaseException:  # a fault of ours: who is put here next gets a new thread
            logger.exception("the rounds of litefs_watch failed; they go on in another thread")
            with self._changed:
                if self._serving is serving:
                    self._serving = None

    def _make_a_round(self, serving: object) -> bool:
        """False where this thread is no longer needed. Between two of them it refers to nobody."""
        visits = self._until_due(serving)
        for visit in visits:
            if self._begin(serving, visit):
                try:
                    self._done(serving, visit, visit.make())
                finally:
                    visit.over_at = time.monotonic()
        self._tell()
        return bool(visits)

    def _until_due(self, serving: object) -> list[Visit]:
        """Those that are due, and whoever may be visited with them; none where this thread is no longer needed."""
        idle_since = time.monotonic()
        with self._changed:
            while self._serving is serving:
                now = time.monotonic()
                first = min((visit.when for visit in self._waiting), default=_NEVER)
                if first <= now:
                    self._told_at = now
                    return [visit for visit in self._waiting if visit.earliest <= now]
                if self._waiting:
                    idle_since = now
                elif now - idle_since >= IDLE_LIMIT:
                    self._serving = None
                    break
                self._wakes_at = first
                self._changed.wait(min(first - now, IDLE_LIMIT))
        return []

    def _begin(self, serving: object, visit: Visit) -> bool:
        with self._changed:
            now = time.monotonic()
            if self._serving is not serving or visit not in self._waiting or visit.earliest > now:
                return False
            del self._waiting[visit]
            visit.begin()
            self._call_since = now
            return True

    def _done(self, serving: object, visit: Visit, outcome: Callable[[], None]) -> None:
        with self._changed:
            token = visit.token
            self._outcomes.setdefault(token.native_token, (token, deque()))[1].append(outcome)
            replaced = self._serving is not serving
            if not replaced:
                self._call_since = _NEVER
        if replaced or time.monotonic() - self._told_at > TELL_AFTER:
            self._tell()

    def _tell(self) -> None:
        with self._changed:
            outcomes, self._outcomes, self._told_at = self._outcomes, {}, time.monotonic()
        for token, deliveries in outcomes.values():
            call_soon(token, partial(_deliver_all, token, deliveries))


def _deliver_all(token: EventLoopToken, deliveries: deque[Callable[[], None]]) -> None:
    try:
        while deliveries:
            deliveries.popleft()()
    finally:
        if deliveries:  # one has failed: the others' all the same
            call_soon(token, partial(_deliver_all, token, deliveries))


_rounds = _Rounds()


def _after_fork() -> None:
    """The child has none of the parent's threads, and one of them may have held the lock."""
    global _rounds
    _rounds = _Rounds()


os.register_at_fork(after_in_child=_after_fork)
