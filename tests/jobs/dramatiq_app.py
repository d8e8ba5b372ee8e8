"""Dramatiq on whatever node and broker the environment says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from litefs_watch.jobs.dramatiq import LiteFSMiddleware
from tests.jobs import seen


def make(address: str, middleware: LiteFSMiddleware | None) -> dict[str, Any]:
    """The actors, by name."""
    broker: Any = RedisBroker(url=address)  # type: ignore[no-untyped-call]
    if middleware is not None:
        broker.add_middleware(middleware)
    dramatiq.set_broker(broker)

    def actor(function: Callable[..., None], name: str, **given: Any) -> None:
        kept = given if middleware is not None else {}  # nobody else knows these options
        dramatiq.actor(broker=broker, actor_name=name, queue_name="jobs", **kept)(function)

    actor(seen.look, "look")
    actor(seen.look, "hasty", litefs_timeout=0.02, litefs_on_timeout="run")
    actor(seen.look, "strict", litefs_timeout=0.02, litefs_on_timeout="fail")
    actor(seen.look, "again", litefs_timeout=0.02, min_backoff=10, max_backoff=20, max_retries=None)
    actor(seen.bill, "bill", litefs_writes=True)
    return dict(broker.actors)


if "BROKER" in os.environ:
    actors = make(os.environ["BROKER"], LiteFSMiddleware(timeout=60.0))  # longer than a test waits
