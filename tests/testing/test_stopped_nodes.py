"""A node that is stopped and started by itself, while its cluster goes on committing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from litefs_watch.errors import LiteFSWatchError
from litefs_watch.testing import SimulatedCluster, SimulatedNode, fuse_available
from tests.testing.clusters import insert, rows


def is_free(lock: threading.RLock) -> bool:
    """Whether another thread could take this lock now."""
    found = []

    def take() -> None:
        if lock.acquire(blocking=False):
            lock.release()
            found.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(found)


def test_what_is_staged_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a node stops, nobody is between writing a file and putting it into place."""
    node = SimulatedNode(tmp_path).start()
    remove, seen = node._staging.remove, []

    def look_and_remove() -> None:
        seen.append(is_free(node._lock))
        remove()

    monkeypatch.setattr(node._staging, "remove", look_and_remove)
    node.stop()
    assert seen == [False]
    node.commit()


def test_a_node_that_starts_shows_nothing_before_its_mount_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is not given up between the two, so that nothing can be committed in between."""
    node = SimulatedNode(tmp_path)
    lock = node._lock
    released = []

    class Spy:
        """The node's lock; notes when it is released while the node runs."""

        def acquire(self, *arguments: object) -> bool:
            return lock.acquire(*arguments)  # type: ignore[arg-type]

        def release(self) -> None:
            early = node.running and not (tmp_path / "litefs" / ".lag").exists()
            lock.release()
            released.append(early and is_free(lock))

        def _is_owned(self) -> bool:
            return not is_free(lock)

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *exception: object) -> None:
            self.release()

    monkeypatch.setattr(node, "_lock", Spy())
    node.start()
    node.close()
    assert released
    assert not any(released)


@pytest.mark.parametrize(
    "fuse", [False, pytest.param(True, marks=pytest.mark.skipif(bool(fuse_available()), reason="FUSE"))]
)
def test_a_replica_that_is_stopped_ends_nothing(tmp_path: Path, fuse: bool) -> None:
    """However often: the cluster goes on, and what was committed meanwhile arrives."""
    with SimulatedCluster(2, directory=tmp_path, lag=0, fuse=fuse) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        stopping, failures = threading.Event(), []

        def commit() -> None:
            number = 0
            try:
                while not stopping.is_set():
                    insert(cluster, number)
                    number += 1
            except (LiteFSWatchError, OSError, RuntimeError) as error:
                failures.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        for _ in range(10):
            cluster["node-b"].stop()
            cluster["node-b"].start()
        stopping.set()
        thread.join()
        assert failures == []
        assert all(thread.is_alive() for thread in cluster._threads)
        cluster.wait_until_replicated()
        assert rows(cluster, "node-b") == rows(cluster, "node-a")
