"""How many requests of one middleware may wait at once: reads for a TXID, writes for a primary, and those of a primary for a
look whether it still is one, each on their own."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from litefs_watch.changes import Role
from litefs_watch.consistency import Confirm, Hold, Look, Options

SPARE = 2
"""Threads that no hand-over takes, of those that a process was seen to have."""

HAND_OVER = 2.0
"""Seconds without a primary that a planned hand-over takes, at most: with LiteFS a little more than one."""

IN_VAIN = 1.0
"""Seconds of threads that reads may wait in vain, all together, where anybody can make up what they wait for …"""
IN_VAIN_SHARE = 1 / 8
"""… and how much of a second is given back each second: more of one thread nobody gets for long."""


class Defaults(NamedTuple):
    """A shell's own numbers, for who has chosen none."""

    waiting: int
    unsigned: int
    """As ``waiting``, where no secret signs the tokens: anybody can make one up that is waited for in vain."""
    held: int
    threads: bool = False
    """Whether each takes a thread."""


class Crowd:
    """The requests that a process serves at once: it has as many threads, at least. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: list[None] = []  # whose append and pop are one step each, in any thread
        self.most: int = 0
        """So many were seen."""

    def __enter__(self) -> None:
        self._inside.append(None)
        if len(self._inside) > self.most:
            with self._lock:
                self.most = max(self.most, len(self._inside))

    def __exit__(self, *_: object) -> None:
        self._inside.pop()


class Budget:
    """From any thread. A number that was chosen is kept to; of the defaults, where each request takes a thread, three give:

    - A read that is one too many waits for a part of the time, where tokens are signed: most have to wait for some
      milliseconds only, and nobody can make up what is waited for in vain.
    - Where they are not, those that wait take all the threads of a server that has but one or two. Once `IN_VAIN` is spent
      on waits that brought nothing, each waits for a part of the time; and once it is spent twice, for none.
    - In the first `HAND_OVER` seconds without a primary, writes are held until all threads but `SPARE` are taken, of those
      that were seen: so a planned hand-over refuses few. Who wants the threads in an election has them for no longer.
    """

    def __init__(self, options: Options, defaults: Defaults) -> None:
        chosen = options.max_waiting
        waiting = defaults.waiting if options.secrets else defaults.unsigned
        self._most_waiting = waiting if chosen is None else chosen
        held = defaults.held if chosen is None else chosen
        self._most_held = held if options.max_held is None else options.max_held
        self.most_replicating: int = defaults.waiting if chosen is None else chosen
        """Responses that may wait at once for as long as they were given."""
        self._most_looking = self.most_replicating
        self.hurries: bool = defaults.threads and chosen is None and bool(options.secrets)
        """Whether a read that is one too many may wait all the same, for a part of the time."""
        self._distrusts = defaults.threads and chosen is None and not options.secrets
        self._in_vain, self._in_vain_at = 0.0, 0.0
        self._stretches = defaults.threads and chosen is None and options.max_held is None
        self.crowd: Crowd = Crowd()
        """Around each request, where it takes a thread."""
        self._lock = threading.Lock()
        self.waiting: int = 0
        """Those that wait for a TXID now."""
        self.looking: int = 0
        """Those that wait for a look now. It is over at once, but in a hand-over, when honest clients need it."""
        self.held: int = 0
        """Those that are held now."""

        self.replicating: int = 0
        """Responses that wait until other nodes have what they tell of, now."""

    @property
    def room(self) -> bool:
        """Whether one more may wait."""
        return self.waiting < self._most_waiting

    @property
    def looks(self) -> bool:
        """Whether one more may wait for a look."""
        return self.looking < self._most_looking

    @property
    def holds(self) -> bool:
        """Whether one more may be held."""
        return self.held < self._most_held

    def places(self, role: Role, standing: float, now: float) -> tuple[bool, bool, bool, float]:
        """For one more, ``now``, on a node that has had that role for so many seconds: whether it may wait, and is hurried;
        whether it may be held, and for how many seconds at most."""
        if role is Role.PRIMARY:
            return self.looks, False, True, math.inf
        in_vain = self.in_vain(now)
        waits = self.hurries or (self.room and in_vain < 2 * IN_VAIN)
        hurried = waits and (not self.room or in_vain >= IN_VAIN)
        hold_for = self.hold_for(standing)
        return waits, hurried, hold_for > 0, hold_for

    def in_vain(self, now: float) -> float:
        """Seconds that were waited in vain, and are not given back yet. 0 where that is of no account."""
        return max(0.0, self._in_vain - (now - self._in_vain_at) * IN_VAIN_SHARE)

    def spend_in_vain(self, seconds: float, now: float) -> None:
        """A read has waited so long for what has not come."""
        if self._distrusts:
            with self._lock:
                self._in_vain, self._in_vain_at = self.in_vain(now) + seconds, now

    def hold_for(self, leaderless: float) -> float:
        """Seconds that one more may be held at most, where no primary is known for so many; 0: none may."""
        if self.holds:
            return math.inf
        stretched = self._stretches and self.held < self.crowd.most - SPARE
        return max(0.0, HAND_OVER - leaderless) if stretched else 0.0

    @contextmanager
    def spent_on(self, action: object) -> Iterator[None]:
        """Around the wait that was decided."""
        self._count(action, 1)
        try:
            yield
        finally:
            self._count(action, -1)

    @contextmanager
    def spent_on_replication(self) -> Iterator[None]:
        """Around such a wait."""
        with self._lock:
            self.replicating += 1
        try:
            yield
        finally:
            with self._lock:
                self.replicating -= 1

    def _count(self, action: object, by: int) -> None:
        with self._lock:
            if isinstance(action, Hold):
                self.held += by
            elif isinstance(action, Confirm | Look):
                self.looking += by
            else:
                self.waiting += by
