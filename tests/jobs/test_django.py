"""Django's tasks, with django-tasks-db and its own worker, on a replica that lags as far as the test says."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import override_settings

from litefs_watch import Role
from litefs_watch.changes import Standing
from litefs_watch.consistency import PIN
from litefs_watch.django.conf import get_watcher
from litefs_watch.errors import ConfigError, HaltError, TokenError
from litefs_watch.jobs.django import KEYWORD, EnqueuedAgain, WatchedTasks, _defers, litefs
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.django.configured import configure
from tests.jobs.brokers import Results, wait_until, worker
from tests.jobs.django_sending import COMMAND, sender

try:
    from django.tasks import task
    from django.tasks.backends.dummy import DummyBackend
except ImportError:
    from django_tasks import task
    from django_tasks.backends.dummy import DummyBackend

AHEAD = "00000000000000ff"


def rows(file: str) -> list[tuple[Any, ...]]:
    """Each task: its name, its status, and the class of its error."""
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        found = connection.execute("SELECT task_path, status, exception_class_path FROM django_tasks_database_dbtaskresult")
        return [(path.rpartition(".")[2], status, error.rpartition(".")[2]) for path, status, error in found]


def test_tasks_in_real_workers(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """One that waits runs when its row has come; one whose message says nothing has missed it by then. What does not come in
    time is done as its task says; what writes is enqueued anew until a worker on the primary has it."""
    results, file = Results(tmp_path / "results"), str(tmp_path / "tasks.db")
    environment = {"BROKER": file, "RESULTS": str(results.path)}
    with ExitStack() as stack:
        sent = stack.enter_context(sender(cluster["node-a"], **environment))
        for _ in range(3):  # two of them wait
            stack.enter_context(worker(COMMAND, cluster["node-b"], **environment))
        cluster.pause_replication()
        cluster.execute("INSERT INTO t VALUES (1)")
        assert sent.send("immediate", "look", "immediate", 1) == "SUCCESSFUL"
        assert sent.send("", "look", "waiting", 1) == "READY"
        sent.send("", "look_async", "waiting too", 1)
        sent.send("", "again", "again", 1)
        sent.send("bare", "look", "bare", 1)
        sent.send("", "strict", "strict", 1)
        sent.send("", "look", "forged", 1, litefs_token="forged@app.db")
        sent.send("", "hasty", "hasty", 1)
        results.wait_for("immediate sees 1", "bare misses 1", "hasty misses 1")
        wait_until(lambda: Counter(rows(file))["again", "FAILED", "EnqueuedAgain"] >= 2)
        assert set(results.lines) == {"immediate sees 1", "bare misses 1", "hasty misses 1"}
        cluster.resume_replication()
        results.wait_for("waiting sees 1", "waiting too sees 1", "again sees 1")
        sent.send("", "bill", "bill")
        wait_until(lambda: ("bill", "FAILED", "EnqueuedAgain") in rows(file))
        cluster.hand_over("node-b", seconds=0.0)
        results.wait_for("bill writes on node-b")
        wait_until(lambda: ("bill", "SUCCESSFUL", "") in rows(file))
        assert sent.send("immediate", "bill", "bill") == "litefs_watch.errors.NotPrimary"
    assert len(results.lines) == 7
    assert {("strict", "FAILED", "WaitTimeout"), ("look", "FAILED", "TokenError")} <= set(rows(file))


class DummyTasks(WatchedTasks, DummyBackend):
    """Keeps what is enqueued."""


def number(n: int) -> int:
    return n


async def number_async(n: int) -> int:
    return n


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    """The one that ``LITEFS_WATCH`` names."""
    configure()
    with SimulatedNode() as node:
        named = {"litefs_dir": str(node.litefs_dir), "api_url": node.api_url, "database": "app.db", "secret": "s3cret"}
        tasks = {"default": {"BACKEND": f"{__name__}.DummyTasks"}, "other": {"BACKEND": f"{__name__}.DummyBackend"}}
        with override_settings(LITEFS_WATCH=named, TASKS=tasks):
            yield node


@pytest.mark.parametrize("function", [number, number_async])
async def test_in_an_event_loop(
    node: SimulatedNode, function: Callable[[int], object], anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is enqueued there carries the position, signed as the middleware's; what is called there waits, too."""
    if anyio_backend_name == "trio":
        pytest.skip("Django's tasks know asyncio alone")
    made = task(function)
    monkeypatch.setattr(sys.modules[__name__], function.__name__, made)  # it is found by its name
    sent = await made.aenqueue(7)
    assert sent.kwargs[KEYWORD].startswith(f"{node.position()}.")
    assert sent.kwargs[KEYWORD].endswith("@app.db")
    assert await made.acall(*sent.args, **sent.kwargs) == 7
    with pytest.raises(TokenError, match="signed by nobody"):
        await made.acall(7, **{KEYWORD: f"{node.position()}.{'x' * 22}@app.db"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: litefs(write=True), "there is no 'write'; did you mean 'writes'?"),  # type: ignore[call-arg]
        (lambda: litefs(timeout=-1.0), "timeout is a number of seconds"),
        (lambda: litefs(writes=True)(task(number)), "@litefs stands under @task"),
        (lambda: DummyTasks("x", {"OPTIONS": {"litefs": {"timout": 1}}}), "no 'timout'; did you mean 'timeout'?"),
        (lambda: DummyTasks("x", {"OPTIONS": {"litefs": 5}}), "is a dictionary, not 5"),
        (lambda: task(number, backend="other").using(backend="default"), "declare it with @task(backend='default')"),
        (lambda: type("Mine", (DummyBackend, WatchedTasks), {}), "class Mine(WatchedTasks, DummyBackend)"),
        (lambda: type("Mine", (WatchedTasks,), {}), "class Mine(WatchedTasks, DatabaseBackend)"),
        (lambda: type("Mine", (WatchedTasks, DummyBackend.__base__), {}), "class Mine(WatchedTasks, DatabaseBackend)"),
    ],
)
def test_what_can_t_work_is_told(node: SimulatedNode, wrong: Callable[[], object], said: str) -> None:
    """When it is declared, and not by a worker; a task of another backend would not wait, and is not enqueued."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        wrong()


@dataclass(frozen=True, kw_only=True)
class ForeignTask:
    """Of a package that has a base of its own, as `django_tasks_rq` has with Django 6."""

    func: Callable[..., object]
    name: str = "foreign"
    takes_context: bool = False

    def get_backend(self) -> Foreign:
        return foreign

    def using(self, **given: object) -> ForeignTask:
        return replace(self, **given)  # type: ignore[arg-type]

    def call(self, *args: object, **kwargs: object) -> object:
        return self.func(*args, **kwargs)


class ForeignBackend:
    task_class = ForeignTask
    supports_defer = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        self.alias, self.options = alias, params.get("OPTIONS", {})
        self.sent: list[dict[str, object]] = []

    def validate_task(self, task: object) -> None: ...

    def enqueue(self, task: object, args: object, kwargs: dict[str, object]) -> Any:
        self.sent.append(kwargs)
        return SimpleNamespace(id=len(self.sent))


class Foreign(WatchedTasks, ForeignBackend): ...


foreign: Foreign


@pytest.fixture
def backend(node: SimulatedNode) -> Foreign:
    global foreign
    foreign = Foreign("foreign", {"OPTIONS": {"litefs": {"timeout": 0, "secret": None}}})
    return foreign


def test_a_backend_that_is_not_django_s(backend: Foreign) -> None:
    """Its tasks are of its own class, and wait; the base that Django has in its place enqueued nothing, and said nothing."""
    made = backend.task_class(func=number)
    assert isinstance(made, ForeignTask)
    backend.enqueue(made, (), {})
    assert made.call(7, **backend.sent[0]) == 7
    with pytest.raises(TokenError):
        made.call(7, **{KEYWORD: "forged@app.db"})


def test_nothing_is_left_to_a_scheduler_of_rq_s(backend: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of its workers' options, and without it what is enqueued for later stays where it is, for ever."""
    monkeypatch.setattr(ForeignBackend, "supports_defer", True)
    assert _defers(backend)
    monkeypatch.setattr(ForeignBackend, "__module__", "django_tasks_rq.backend")
    assert not _defers(backend)


def test_what_has_not_run_is_enqueued_as_it_came(backend: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its worker is, or that this can't be told, is nothing that it has seen."""
    monkeypatch.setattr("litefs_watch.jobs.django.pause", lambda times: 0)
    monkeypatch.setattr("litefs_watch.jobs.guard.token_of", lambda *_: PIN)
    with pytest.raises(EnqueuedAgain):
        backend.task_class(func=number).call(7, **{KEYWORD: f"{AHEAD}@app.db"})
    assert backend.sent == [{KEYWORD: f"{AHEAD}@app.db", "litefs_requeued": 1}]


def test_a_halt_lock_that_is_not_to_be_had(backend: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """As during a fail-over: the task is tried again, as after any other wait. It failed for good."""
    monkeypatch.setattr("litefs_watch.jobs.django.pause", lambda times: 0)
    standing = Standing(Role.REPLICA, "node-x")
    monkeypatch.setattr(type(get_watcher().run), "standing", standing)
    made = backend.task_class(func=litefs(writes=True, on_replica="halt")(number))
    with pytest.raises(EnqueuedAgain, match="is not a mount"):
        made.call(7)
    made = backend.task_class(func=litefs(writes=True, on_replica="halt", on_timeout="fail")(number))
    with pytest.raises(HaltError):
        made.call(7)
