"""What was seen over the last minutes. Plain values, and no clock: who samples says when."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from litefs_watch.changes import PrimaryChange, Role, TxChange
from litefs_watch.cli.top.asking import Application, Examined
from litefs_watch.cluster import Cluster, Peer
from litefs_watch.operate.words import role_text
from litefs_watch.printable import safe
from litefs_watch.status import Status

SAMPLES = 300
"""Of each figure: five minutes, at one a second."""
RATED = 10
"""Samples that a rate is taken over."""
CHANGES = 200
DATABASES = 1000
"""Whose rates are known. A node may have more."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node, as it is now."""

    name: str
    role: Role
    text: str
    """The role in words; of a peer that is away, that."""
    behind: float | None
    """This node: seconds since it heard of its primary. Another: transactions behind this one, the most of any database."""
    unit: str
    past: tuple[float | None, ...]
    """That, sample by sample; None where it was not known."""
    detail: str


@dataclass(frozen=True, slots=True)
class DatabaseRow:
    name: str
    txid: int
    rate: float | None
    """Transactions a second; None before there are two samples."""
    behind: int | None
    """Of the other node that is furthest behind; None where there is none that tells."""


@dataclass
class History:
    """What `sample` and `tell` were given."""

    status: Status | None = None
    cluster: Cluster = field(default_factory=Cluster)
    changes: deque[str] = field(default_factory=lambda: deque(maxlen=CHANGES))
    application: Application | None = None
    """What it said last; None where none is asked, or none has answered yet."""
    examined: Examined | None = None
    """The same of doctor."""
    _waiters: deque[float | None] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _lags: dict[str, deque[float | None]] = field(default_factory=dict)
    _txids: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def sample(self, at: float, status: Status, cluster: Cluster) -> None:
        """How it is at ``at``, in seconds of any clock that only goes forward."""
        self.status, self.cluster = status, cluster
        figures = {"": status.lag} | {peer.url: _furthest(peer) for peer in cluster.peers}
        self._lags = {name: self._lags.get(name, deque(maxlen=SAMPLES)) for name in figures}
        for name, figure in figures.items():
            self._lags[name].append(figure)
        if (application := self.application) is not None:
            self._waiters.append(None if application.process is None else application.waiters)
        names = sorted(status.positions)[:DATABASES]
        self._txids = {name: self._txids.get(name, deque(maxlen=RATED + 1)) for name in names}
        for name, samples in self._txids.items():
            txid = status.positions[name].txid
            if samples and txid < samples[-1][1]:
                samples.clear()  # it went back: no rate tells anything over that
            samples.append((at, txid))

    def tell(self, when: datetime, change: TxChange | PrimaryChange) -> None:
        """A change that is worth a line: who is the primary, and what was lost."""
        if isinstance(change, PrimaryChange):
            self.changes.append(f"{when:%H:%M:%S}Z  {role_text(change.role, change.primary)}")
        elif change.rewound:
            before = change.previous.txid if change.previous else "?"
            name, txid = safe(change.database), change.position.txid
            self.changes.append(f"{when:%H:%M:%S}Z  {name} went from {before} to {txid} of another history: writes are lost")

    def nodes(self) -> Iterator[NodeRow]:
        """This node, and then the others."""
        if self.status is None:
            return
        status = self.status
        text = role_text(status.role, status.primary)
        past = tuple(self._lags.get("", ()))
        yield NodeRow(f"{safe(status.hostname)} (this)", status.role, text, status.lag, "s", past, "")
        for peer in self.cluster.peers:
            past = tuple(self._lags.get(peer.url, ()))
            role = peer.role if peer.connected else Role.UNKNOWN
            text = role_text(peer.role, peer.primary) if peer.connected else "away"
            detail = "" if peer.counts else safe(peer.detail)
            yield NodeRow(safe(peer.url), role, text, _furthest(peer), "tx", past, detail)

    @property
    def waiters(self) -> tuple[float | None, ...]:
        """Of the application, sample by sample; None where it did not say."""
        return tuple(self._waiters)

    def databases(self) -> list[DatabaseRow]:
        """The busiest first, then by name."""
        if self.status is None:
            return []
        rows = [
            DatabaseRow(safe(name), position.txid, self._rate(name), self._behind(name))
            for name, position in self.status.positions.items()
        ]
        return sorted(rows, key=lambda row: (-(row.rate or 0), row.name))

    def _rate(self, name: str) -> float | None:
        samples = list(self._txids.get(name, ()))
        if len(samples) < 2:
            return None
        (began, first), (ended, last) = samples[0], samples[-1]
        return (last - first) / (ended - began) if ended > began else None

    def _behind(self, name: str) -> int | None:
        told = [peer.behind.get(name) for peer in self.cluster.peers]
        return max((behind for behind in told if behind is not None), default=None)


def _furthest(peer: Peer) -> float | None:
    return max((behind for behind in peer.behind.values() if behind is not None), default=None)
