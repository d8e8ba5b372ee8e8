"""Metrics for Prometheus (extra ``prometheus``)::

    registry = instrument(watcher)
    app.mount("/metrics", prometheus_client.make_asgi_app(registry))

What the node is, is asked of the watcher at each scrape; what became of requests is counted where something became of them:
a request that simply runs costs nothing. Under a server with several processes (``PROMETHEUS_MULTIPROC_DIR``) requests are
summed over all of them, and the node is told of by the process that answers; how its own watcher fares is then left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass

from litefs_watch.changes import Role
from litefs_watch.errors import ConfigError, WatcherClosed
from litefs_watch.operate.health import status_of
from litefs_watch.operate.observers import HOLD, OUTCOMES, WAIT, Ended, observe
from litefs_watch.printable import safe
from litefs_watch.status import Statistics, Status
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.reasons import REFUSED, REPLAYED

__all__ = ["instrument"]

_WAITED = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # a replica lags by milliseconds
_HELD = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # a fail-over takes 2 to 10 s


def instrument(watcher: Watcher | BlockingWatcher, *, registry: CollectorRegistry = REGISTRY) -> CollectorRegistry:
    """Count from now on what the middlewares of ``watcher`` do, in ``registry``. Once for each process and registry.

    Returns the registry to be scraped, for `prometheus_client.make_asgi_app`, ``make_wsgi_app`` and ``generate_latest``:
    ``registry`` itself; with ``PROMETHEUS_MULTIPROC_DIR`` one that reads the files of all processes. Raises `ConfigError`
    where ``registry`` has these metrics already, and where that variable came too late.
    """
    several = ValueClass is not MutexValue  # as prometheus_client has decided when it was imported
    if not several and "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        came = "PROMETHEUS_MULTIPROC_DIR came after prometheus_client was imported, which does not heed it then"
        raise ConfigError(f"{came}: set it before the process starts")
    try:
        registry.register(_Node(watcher, several=several))
    except ValueError as error:
        raise ConfigError("this registry has litefs_watch's metrics already: give another registry=") from error
    observe(watcher, _Requests(registry))
    if not several:
        return registry
    scraped = CollectorRegistry()
    MultiProcessCollector(scraped)  # type: ignore[no-untyped-call]
    scraped.register(_Node(watcher, several=True))
    return scraped


class _Requests:
    """What became of requests. All label values are there from the start, at zero: a rate has a beginning."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting = Gauge(
            "litefs_watch_waiters",
            "Requests that wait now: for a transaction (wait), or for a primary (hold).",
            ["kind"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._replays = Counter(
            "litefs_watch_replays", "Requests that were sent on to the primary.", ["reason"], registry=registry
        )
        self._refused = Counter("litefs_watch_refused", "Requests that were refused.", ["reason"], registry=registry)
        self._lost = Counter(
            "litefs_watch_lost_writes", "Clients that were told that a fail-over has lost their write.", registry=registry
        )
        self._seconds = {
            WAIT: Histogram(
                "litefs_watch_wait_seconds",
                "How long requests waited for a transaction.",
                ["outcome"],
                registry=registry,
                buckets=_WAITED,
            ),
            HOLD: Histogram(
                "litefs_watch_held_seconds",
                "How long requests were held while no primary was known.",
                ["outcome"],
                registry=registry,
                buckets=_HELD,
            ),
        }
        for reason in REPLAYED:
            self._replays.labels(reason)
        for reason in REFUSED:
            self._refused.labels(reason)
        for kind, seconds in self._seconds.items():
            self._waiting.labels(kind)
            for outcome in OUTCOMES:
                seconds.labels(outcome)

    def began(self, kind: str) -> Ended:
        waiting = self._waiting.labels(kind)
        waiting.inc()

        def ended(outcome: str, seconds: float) -> None:
            waiting.dec()
            self._seconds[kind].labels(outcome).observe(seconds)

        return ended

    def replayed(self, reason: str) -> None:
        self._replays.labels(reason).inc()

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def lost(self) -> None:
        self._lost.inc()


class _Node(Collector):
    """What the node is, and how the watcher fares, at the moment of a scrape."""

    def __init__(self, watcher: Watcher | BlockingWatcher, *, several: bool) -> None:
        self._watcher = watcher
        self._several = several

    def describe(self) -> Iterator[Metric]:
        """The names, without asking the watcher: a registration is no reason to start it."""
        yield from _of_node(None)
        if not self._several:
            yield from _of_watcher(None)

    def collect(self) -> Iterator[Metric]:
        try:
            status = status_of(self._watcher)
        except WatcherClosed:
            yield from _of_node(None)
            return
        yield from _of_node(status)
        if not self._several:  # of this process alone: which one answers changes from scrape to scrape
            yield from _of_watcher(self._watcher.statistics())


def _of_node(status: Status | None) -> Iterator[Metric]:
    """``status`` is None where the watcher does not run: nothing is known then, and that is said."""
    known = Role.UNKNOWN if status is None else status.role
    yield GaugeMetricFamily("litefs_watch_up", "Whether the watcher runs.", float(status is not None))
    yield GaugeMetricFamily("litefs_watch_is_primary", "Whether this node is the primary.", float(known is Role.PRIMARY))
    roles = GaugeMetricFamily("litefs_watch_role", "1 for the role that this node has, 0 for the others.", labels=["role"])
    for role in Role:
        roles.add_metric([str(role)], float(role is known))
    yield roles
    lag = GaugeMetricFamily(
        "litefs_watch_lag_seconds",
        "Since this replica last heard of its primary; absent where LiteFS does not say.",
        labels=[],
    )
    txids = GaugeMetricFamily("litefs_watch_txid", "The transaction at which a database is on this node.", labels=["db"])
    sources = GaugeMetricFamily("litefs_watch_source_up", "Whether a source of the watcher is alive.", labels=["source"])
    if status is not None:
        if status.lag is not None:
            lag.add_metric([], status.lag)
        for name, position in status.positions.items():
            txids.add_metric([safe(name)], position.txid)
        for name, source in status.sources.items():
            sources.add_metric([name], float(source.alive))
    yield from (lag, txids, sources)


def _of_watcher(statistics: Statistics | None) -> Iterator[Metric]:
    counts = {
        "events": ("Events received on LiteFS's stream.", statistics.events if statistics else 0),
        "reconnects": ("How often the stream was opened again.", statistics.reconnects if statistics else 0),
        "source_restarts": ("How often a source failed and was started anew.", statistics.restarts if statistics else 0),
    }
    for name, (text, count) in counts.items():
        yield CounterMetricFamily(f"litefs_watch_{name}", text, count)
