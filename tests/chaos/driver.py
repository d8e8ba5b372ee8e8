"""Which faults happen, and when: drawn from a seed, and paced by the clients' requests, not by a clock.

Several are under way at once, but of those that change the primary one at a time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection

from litefs_watch import NoPrimary, WaitTimeout
from tests.chaos.client import Record
from tests.chaos.faults import LEADING, OTHERS, Fault, Faults

AT_ONCE = 3
"""Faults that are under way."""
PAUSE = 8
"""Requests from one fault to the next, on average."""
STALL = 0.1
"""Seconds after which a fault goes on though no request has begun: all of them may wait for its end."""


class Driver:
    """Has faults happen until the clients are done. `run` is for a thread of its own."""

    def __init__(self, faults: Faults, chance: random.Random, record: Record, *, left_out: Collection[str] = ()) -> None:
        self.done: Counter[str] = Counter()
        """How often each fault took place, whole."""
        self.in_vain: Counter[str] = Counter()
        """How often one could not, since another one was in its way."""
        self.failure: BaseException | None = None
        self.pause = PAUSE
        self._faults = faults
        self._chance = chance
        self._record = record
        self._shares = {name: share for name, share in (LEADING | OTHERS).items() if name not in left_out}
        self._under_way: list[tuple[int, str, Fault]] = []

    @property
    def missing(self) -> set[str]:
        """The faults that have not taken place."""
        return self._shares.keys() - self.done.keys()

    def run(self) -> None:
        try:
            begun = 0
            while self._record.wait_for(begun, STALL):
                begun = max(begun, self._record.begun)
                self._go_on(begun)
                if len(self._under_way) < AT_ONCE:
                    self._start(begun)
                begun += self._faults.some(self.pause)
                if self._under_way:
                    begun = min(begun, *(due for due, _, _ in self._under_way))
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self.failure = error

    def end(self) -> None:
        """After `run`: end all that is under way, and heal the cluster. Raises what `run` has met."""
        if self.failure is not None:
            raise self.failure
        for _, name, fault in self._under_way:
            self._step(fault.close, name)
        self._under_way.clear()
        self._faults.heal()

    def _go_on(self, begun: int) -> None:
        due = [entry for entry in self._under_way if entry[0] <= begun]
        self._under_way = [entry for entry in self._under_way if entry[0] > begun]
        for _, name, fault in due:
            self._continue(begun, name, fault)

    def _start(self, begun: int) -> None:
        (name,) = self._chance.choices(list(self._shares), list(self._shares.values()))
        leading = any(other in LEADING for _, other, _ in self._under_way)
        if not (leading and (name in LEADING or name == "block")):
            self._continue(begun, name, self._faults.start(name))

    def _continue(self, begun: int, name: str, fault: Fault) -> None:
        def advance() -> None:
            requests = next(fault, None)
            if requests is None:
                self.done[name] += 1
            else:
                self._under_way.append((begun + requests, name, fault))

        self._step(advance, name)

    def _step(self, step: Callable[[], object], name: str) -> None:
        try:
            step()
        except (NoPrimary, RuntimeError, ValueError, WaitTimeout) as error:
            self.in_vain[f"{name}: {type(error).__name__} {error}"] += 1
