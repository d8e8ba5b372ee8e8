"""What a simulated node says in its files and events, and that it says it in LiteFS's order."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import Position, Settings
from litefs_watch.testing import SimulatedNode

OpenStream = Callable[[SimulatedNode], Any]
Eventually = Callable[[Callable[[], object]], None]


def read(node: SimulatedNode, name: str) -> bytes:
    return (node.litefs_dir / name).read_bytes()


def ltx(node: SimulatedNode, database: str = "app.db") -> set[str]:
    return set(os.listdir(node.data_dir / "dbs" / database / "ltx"))


def test_a_primary_shows_its_database_its_position_and_a_lag_of_zero(tmp_path: Path) -> None:
    """A primary's mount has no ``.primary``, and ``.lag`` at zero."""
    with SimulatedNode(tmp_path) as node:
        assert set(os.listdir(node.litefs_dir)) == {"app.db", "app.db-pos", "app.db-lock", ".lag"}
        assert read(node, ".lag") == b"+000000000\n"
        assert read(node, "app.db-pos") == f"{node.position()}\n".encode()
        assert len(read(node, "app.db-pos")) == 34
        assert (node.position().txid, node.position().checksum >> 63) == (1, 1)
        with sqlite3.connect(node.path()) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        connection.close()


@pytest.mark.parametrize(("primary", "text"), [("node-b", b"node-b\n"), ("", b"\n")])
def test_a_replica_names_its_primary(tmp_path: Path, primary: str, text: bytes) -> None:
    """A replica's ``.primary`` has the hostname, or just a newline; its lag is unknown until the primary is heard."""
    with SimulatedNode(tmp_path, primary=primary) as node:
        assert read(node, ".primary") == text
        assert read(node, ".lag") == b"+2147483647\n"
        node.heartbeat()
        assert 0 < int(read(node, ".lag")) < 1000


def test_the_lag_file_can_be_left_out(tmp_path: Path) -> None:
    """``lag_file=False`` is a LiteFS before 0.5."""
    with SimulatedNode(tmp_path, primary="b", lag_file=False) as node:
        node.become_primary()
        node.set_lag(5)
        assert ".lag" not in os.listdir(node.litefs_dir)


def test_a_replica_hears_its_primary_once_a_second(tmp_path: Path, eventually: Eventually) -> None:
    """Without anybody's doing the lag of a connected replica becomes small within a second or so."""
    with SimulatedNode(tmp_path, primary="b") as node:
        eventually(lambda: 0 < int(read(node, ".lag")) < 1000)
        node.heartbeats = False
        heard = int(read(node, ".lag"))
        eventually(lambda: int(read(node, ".lag")) > max(heard, 500))
        assert read(node, ".primary") == b"b\n"


def test_a_commit_is_in_the_ltx_folder_then_in_pos_then_in_the_stream(
    tmp_path: Path, open_stream: OpenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteFS's order: whoever sees one of them finds the earlier ones."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        at_pos: list[set[str]] = []
        at_event: list[bytes] = []
        show, publish = node._mount.show, node._server.publish

        def spy_on_show(name: str, content: bytes, *, listed: bool = True) -> None:
            at_pos.append(ltx(node))
            show(name, content, listed=listed)

        def spy_on_publish(line: bytes) -> None:
            at_event.append(read(node, "app.db-pos"))
            publish(line)

        monkeypatch.setattr(node._mount, "show", spy_on_show)
        monkeypatch.setattr(node._server, "publish", spy_on_publish)
        position = node.commit()
        assert at_pos == [{"0000000000000002-0000000000000002.ltx"}]
        assert at_event == [f"{position}\n".encode()]
        event = stream.event()
        assert (event["type"], event["db"]) == ("tx", "app.db")
        assert event["data"]["txID"] == "0000000000000002"
        assert event["data"]["postApplyChecksum"] == f"{position.checksum:016x}"
        assert event["data"]["pageSize"] == 4096


def test_the_truth_can_change_without_anybody_being_told(tmp_path: Path, open_stream: OpenStream) -> None:
    """``notify=False``: neither event nor LTX file; ``-pos`` says it to whoever reads."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        silent = node.commit(notify=False)
        assert read(node, "app.db-pos") == f"{silent}\n".encode()
        assert ltx(node) == set()
        node.set_primary("b", notify=False)
        node.become_primary(notify=False)
        node.lose_primary(notify=False)
        assert node.commit().txid == stream.txid() == silent.txid + 1


def test_a_commit_creates_a_database(tmp_path: Path) -> None:
    """A database that the node has not got starts at TXID 1, with a file and a position."""
    with SimulatedNode(tmp_path, databases=()) as node:
        assert set(os.listdir(node.litefs_dir)) == {".lag"}
        assert node.commit("new.db").txid == 1
        assert {"new.db", "new.db-pos"} < set(os.listdir(node.litefs_dir))
        assert ltx(node, "new.db") == {"0000000000000001-0000000000000001.ltx"}
        with pytest.raises(KeyError):
            node.position("other.db")
        with pytest.raises(ValueError, match="file name"):
            node.commit("../other.db")


def test_a_dropped_database_keeps_its_position(tmp_path: Path, open_stream: OpenStream) -> None:
    """Its file goes; ``-pos`` has the next TXID and LiteFS's empty checksum; it can be created again."""
    with SimulatedNode(tmp_path, databases={"app.db": Position(4, 5)}) as node:
        stream = open_stream(node)
        stream.event()
        assert node.drop_database() == Position(5, 0x8000000000000000)
        assert set(os.listdir(node.litefs_dir)) == {"app.db-pos", ".lag"}
        assert read(node, "app.db-pos") == b"0000000000000005/8000000000000000\n"
        event = stream.event()
        assert (event["data"]["txID"], event["data"]["commit"]) == ("0000000000000005", 0)
        node.restart()
        assert set(os.listdir(node.litefs_dir)) == {"app.db-pos", ".lag"}
        assert node.commit().txid == 6
        assert {"app.db", "app.db-pos"} < set(os.listdir(node.litefs_dir))


def test_each_change_of_the_role_is_in_the_files_and_in_the_stream(tmp_path: Path, open_stream: OpenStream) -> None:
    """Primary, replica of another, of nobody, of itself, and primary again."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        assert stream.role() == ("init", True, None)
        node.set_primary("node-b")
        assert (read(node, ".primary"), read(node, ".lag")) == (b"node-b\n", b"+2147483647\n")
        node.lose_primary()
        assert set(os.listdir(node.litefs_dir)) == {"app.db", "app.db-pos", "app.db-lock", ".lag"}
        node.set_primary("node-a")
        assert read(node, ".primary") == b"node-a\n"
        node.set_primary("")
        node.become_primary()
        assert read(node, ".lag") == b"+000000000\n"
        assert [stream.role()[1:] for _ in range(5)] == [
            (False, "node-b"),
            (False, None),
            (False, "node-a"),
            (False, None),
            (True, None),
        ]
        node.set_primary("node-b")
        assert open_stream(node).role() == ("init", False, "node-b")


def test_a_lost_primary_leaves_a_lag_that_grows(tmp_path: Path, eventually: Eventually) -> None:
    """It grows from where it was; a primary that is demoted starts at 2147483647 instead."""
    with SimulatedNode(tmp_path, primary="b") as node:
        node.heartbeat()
        node.lose_primary()
        lost = int(read(node, ".lag"))
        assert 0 < lost < 1000
        eventually(lambda: int(read(node, ".lag")) > max(lost, 500))
        assert node.lag_ms >= int(read(node, ".lag"))
        node.become_primary()
        node.lose_primary()
        assert read(node, ".lag") == b"+2147483647\n"


def test_no_reader_can_take_a_node_that_is_no_primary_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.primary`` absent beside a ``.lag`` of zero is never to be read, but on the primary."""
    with SimulatedNode(tmp_path) as node:
        seen: list[bool] = []

        def then_look(change: Callable[..., None]) -> Callable[..., None]:
            def changed(*arguments: Any, **keywords: Any) -> None:
                change(*arguments, **keywords)
                shown = set(os.listdir(node.litefs_dir))
                if not node.is_primary and ".lag" in shown:
                    seen.append(".primary" not in shown and read(node, ".lag") == b"+000000000\n")

            return changed

        for name in ("show", "hide", "show_lag"):
            monkeypatch.setattr(node._mount, name, then_look(getattr(node._mount, name)))
        node.lose_primary()
        node.set_primary("b")
        node.heartbeat()
        node.lose_primary()
        node.become_primary()
        node.set_primary("b")
        assert len(seen) > 5
        assert not any(seen)


def test_a_flap_names_the_primary_and_then_nobody(tmp_path: Path, open_stream: OpenStream) -> None:
    """As often as asked, in that order, and in the end no primary is known."""
    with SimulatedNode(tmp_path, primary="x") as node:
        node.lose_primary()
        stream = open_stream(node)
        stream.event()
        node.flap("x", times=2, every=0)
        assert [stream.role()[2] for _ in range(4)] == ["x", None, "x", None]
        assert ".primary" not in os.listdir(node.litefs_dir)
        assert read(node, ".lag") == b"+2147483647\n"


def test_the_lag_can_be_set(tmp_path: Path) -> None:
    """It stays as set, negative or not, until the role changes, or None lets it go."""
    with SimulatedNode(tmp_path, primary="b") as node:
        for milliseconds, text in ((-5, b"-000000005\n"), (90_000, b"+000090000\n")):
            node.set_lag(milliseconds)
            node.heartbeat()
            assert read(node, ".lag") == text
            assert node.lag_ms == milliseconds
        node.set_lag(None)
        assert 0 < int(read(node, ".lag")) < 1000
        node.set_lag(7)
        node.become_primary()
        assert read(node, ".lag") == b"+000000000\n"


def test_settings_are_those_of_a_watcher_of_this_node(tmp_path: Path) -> None:
    """Everything a watcher needs is there, and a keyword wins."""
    with SimulatedNode(tmp_path, hostname="h", region="ams", databases=("x.db", "y.db")) as node:
        settings = node.settings()
        assert isinstance(settings, Settings)
        assert (settings.litefs_dir, settings.data_dir) == (node.litefs_dir, node.data_dir)
        assert (settings.database, settings.api_url) == ("x.db", node.api_url)
        assert (settings.node_name, settings.region) == ("h", "ams")
        assert node.settings(api_url=None, database="y.db").database == "y.db"
        assert node.path("y.db") == node.litefs_dir / "y.db"


def test_commits_of_many_threads_are_in_one_order(tmp_path: Path, open_stream: OpenStream) -> None:
    """Each gets a TXID of its own, and the stream has them in the order of the TXIDs."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        txids: list[int] = []

        def commit() -> None:
            txids.extend(node.commit().txid for _ in range(50))

        threads = [threading.Thread(target=commit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(txids) == list(range(2, 202))
        assert [stream.txid() for _ in range(200)] == list(range(2, 202))
        assert node.statistics().events == 200


def test_a_position_is_never_half_written(tmp_path: Path) -> None:
    """Whoever reads ``-pos`` during a storm of commits gets a whole position, and each one is as new as the last."""
    with SimulatedNode(tmp_path) as node:
        stop = threading.Event()

        def commit() -> None:
            while not stop.is_set():
                node.commit()

        committing = threading.Thread(target=commit)
        committing.start()
        try:
            last = Position(0)
            for _ in range(2000):
                position = Position.parse(read(node, "app.db-pos"))
                assert position >= last
                last = position
        finally:
            stop.set()
            committing.join()
        assert last.txid > 1


def test_a_node_can_keep_everything_to_itself(tmp_path: Path, open_stream: OpenStream) -> None:
    """While it does not notify, files change without an event or an LTX file; what was missed is not made up for."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        node.notifies = False
        silent = node.commit()
        node.set_primary("b")
        assert read(node, "app.db-pos") == f"{silent}\n".encode()
        assert read(node, ".primary") == b"b\n"
        assert ltx(node) == set()
        node.notifies = True
        position = node.commit()
        assert stream.txid() == position.txid == silent.txid + 1


def test_initial_replication_is_not_heard(tmp_path: Path) -> None:
    """``.lag`` stays at 2147483647 whatever arrives, until the first heartbeat; from then on a transaction is one, too."""
    with SimulatedNode(tmp_path, primary="b") as node:
        node.heartbeats = False
        node.catching_up = True
        node.commit()
        assert read(node, ".lag") == b"+2147483647\n"
        node.heartbeat()
        assert int(read(node, ".lag")) < 1000
        assert not node.catching_up
