"""What is said of jobs: of the queues' options, of tokens on messages, and of calls by hand."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import SoftTimeLimitExceeded

from litefs_watch import BlockingWatcher, Position, Settings
from litefs_watch.jobs import current_token, wait_for_token
from litefs_watch.jobs.celery import watch_celery
from litefs_watch.jobs.guard import Guard
from litefs_watch.jobs.tokens import encode
from litefs_watch.testing import SimulatedNode
from tests.jobs.signals import unwatch
from tests.messages import django_tasks
from tests.messages.provoking import Case, Provoke, as_printed, calling, case

STANDALONE = Settings(standalone=True)
SIGNED = encode(Position(50, 1 << 63), "app.db", (b"theirs",))


def queue(**options: Any) -> Provoke:
    """What watch_celery, and those of the other queues, do with their options."""

    def provoke() -> None:
        watch_celery(Celery("shop", set_as_current=False), BlockingWatcher(STANDALONE), **options)

    return provoke


def arriving(carried: object, given: dict[str, Any] | None = None, **options: Any) -> Provoke:
    """Why a job with that on its message, and with these options of its task, does not run."""

    def provoke() -> str:
        with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
            error = Guard(watcher, **{"timeout": 0.0, **options}).arrive(carried, given or {}).error
        assert error is not None
        return as_printed(error)

    return provoke


def by_hand(*tokens: str, **options: Any) -> Provoke:
    def provoke() -> None:
        with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
            wait_for_token(*tokens, watcher=watcher, **options)

    return provoke


def several_watchers() -> None:
    with (
        SimulatedNode(hostname="node-a") as one,
        SimulatedNode(hostname="node-b", databases=["b.db"]) as other,
        BlockingWatcher(one.settings()),
        BlockingWatcher(other.settings()),
    ):
        current_token()


def stopped() -> None:
    watcher = BlockingWatcher(STANDALONE)
    watcher.stop()
    current_token(watcher=watcher)


async def in_a_loop() -> None:
    current_token()


def halted_for_several() -> None:
    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        guard = Guard(watcher, databases=["app.db", "b.db"], on_replica="halt")
        with guard.doing(guard.arrive(None, {"litefs_writes": True})):
            pass


def interrupted() -> str:
    """Celery's time limit ends the wait, which Celery itself swallows."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)

    def wait(*_: object) -> None:
        raise SoftTimeLimitExceeded

    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher, pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.jobs.guard.run_of", wait)
        patch.setattr("litefs_watch.jobs.guard.say", wait)
        patch.setattr("litefs_watch.jobs.celery.say", wait)
        watch_celery(app, watcher)
        try:

            @app.task(shared=False, name="look")  # type: ignore[untyped-decorator]
            def task() -> None: ...

            signals.worker_init.send(sender=None)
            request = {"id": "1", "retries": 0, "headers": None, "delivery_info": {}}
            _, info, *_ = build_tracer("look", task, app=app)("1", (), {}, request)
        finally:
            unwatch(app)
    return as_printed(info.retval)


CASES: list[Case] = [
    case(queue(databases="app.db"), "'app.db'"),
    case(queue(timeout="5"), "timeout", "'5'"),
    case(queue(on_timeout="replay"), "on_timeout", "'replay'", "'retry'"),
    case(arriving(None, {"litefs_writse": True}), "litefs_writse", "'litefs_writes'"),
    case(arriving(None, {"litefs_writes": True}), "node-a"),
    case(arriving("00000000000000ff/80000000000000ff@app.db"), "00000000000000ff/80000000000000ff", "app.db"),
    case(arriving("untold")),
    case(arriving("x" * 5000), "xxx"),
    case(arriving("1@a/b"), "1@a/b"),
    case(arriving("1@app.db 2@app.db"), "1@app.db 2@app.db"),
    case(arriving("nonsense@app.db"), "nonsense"),
    case(arriving(f"{SIGNED}@app.db"), "secret="),
    case(arriving(f"{SIGNED}@app.db", secret="ours"), "app.db", "secret="),
    case(halted_for_several, "on_replica='halt'"),
    case(interrupted),
    case(by_hand("nonsense"), "nonsense"),
    case(calling(current_token), "watcher="),
    case(several_watchers, "app.db", "b.db", "watcher="),
    case(stopped),
    case(in_a_loop, "current_token()", "acurrent_token()"),
    case(by_hand("pin", timeout=0)),
    *django_tasks.CASES,
]
