"""The life of a simulated node and its faults: nothing is left behind, and each fault is the one that LiteFS has."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import WaitTimeout
from litefs_watch.testing import SimulatedNode
from tests.testing.leftovers import at_work, end_what_others_left, open_descriptors

OpenStream = Callable[[SimulatedNode], Any]


def connect(node: SimulatedNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(node.api_url.rpartition(":")[2])), timeout=10)


def get(node: SimulatedNode, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(node.api_url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_nothing_is_left_behind(open_stream: OpenStream) -> None:
    """No thread, no descriptor, no file, and no port, whichever way it was used."""
    end_what_others_left()
    threads, descriptors = at_work(), open_descriptors()
    with SimulatedNode() as node:
        directory = node.directory
        stream = open_stream(node)
        node.freeze()
        node.commit()
        node.restart(primary="b")
        node.kill()
        node.start()
        node.freeze()
    stream.close()
    assert at_work() - threads == set()
    assert open_descriptors() - descriptors == {}
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        connect(node)


def test_a_directory_of_the_tests_own_stays(tmp_path: Path) -> None:
    """Only a temporary directory is removed; in a given one the mount's place is empty at the end."""
    with SimulatedNode(tmp_path) as node:
        node.commit()
    assert os.listdir(node.litefs_dir) == []
    assert (tmp_path / "data").is_dir()


def test_a_node_runs_once(tmp_path: Path) -> None:
    """A second start says so."""
    with SimulatedNode(tmp_path) as node, pytest.raises(RuntimeError, match="running already"):
        node.start()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    """And the node that could not have it has changed nothing."""
    threads = at_work()
    with SimulatedNode(tmp_path / "a") as node:
        other = SimulatedNode(tmp_path / "b", port=int(node.api_url.rpartition(":")[2]))
        with pytest.raises(OSError, match="in use"):
            other.start()
        other.close()
    assert at_work() - threads == set()


def test_a_clean_stop_leaves_an_empty_directory_and_no_port(tmp_path: Path, open_stream: OpenStream) -> None:
    """The stream ends, connections are refused, and nothing is mounted."""
    node = SimulatedNode(tmp_path).start()
    stream = open_stream(node)
    stream.event()
    node.stop()
    with pytest.raises(EOFError):
        stream.chunk()
    with pytest.raises(ConnectionRefusedError):
        connect(node)
    assert os.listdir(node.litefs_dir) == []
    node.stop()
    node.close()


def test_a_kill_leaves_the_files_of_an_ordinary_directory(tmp_path: Path, open_stream: OpenStream) -> None:
    """The stream ends and connections are refused, while the files stay as they were."""
    with SimulatedNode(tmp_path, primary="b") as node:
        stream = open_stream(node)
        stream.event()
        position = node.commit()
        node.kill()
        assert stream.txid() == position.txid
        with pytest.raises(EOFError):
            stream.chunk()
        with pytest.raises(ConnectionRefusedError):
            connect(node)
        assert not node.running
        assert (node.litefs_dir / ".primary").read_bytes() == b"b\n"
        assert (node.litefs_dir / "app.db-pos").read_bytes() == f"{position}\n".encode()


def test_a_restart_keeps_the_port_the_positions_and_the_role(tmp_path: Path, open_stream: OpenStream) -> None:
    """What is committed while it is down is there when it is back; a replica's lag is unknown at first."""
    with SimulatedNode(tmp_path, primary="b") as node:
        url = node.api_url
        node.commit()
        node.heartbeat()
        node.stop()
        position = node.commit()
        node.restart()
        assert node.api_url == url
        assert node.position() == position
        assert (node.litefs_dir / "app.db-pos").read_bytes() == f"{position}\n".encode()
        assert (node.litefs_dir / ".primary").read_bytes() == b"b\n"
        assert (node.litefs_dir / ".lag").read_bytes() == b"+2147483647\n"
        node.restart(primary=None)
        assert open_stream(node).role() == ("init", True, None)
        assert (node.litefs_dir / ".lag").read_bytes() == b"+000000000\n"
        node.restart(primary="c")
        assert node.primary == "c"


def test_a_frozen_node_says_nothing_until_the_thaw(tmp_path: Path, open_stream: OpenStream) -> None:
    """Connections are taken but not answered, files don't change; afterwards all that happened is seen, in order."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        node.freeze()
        node.freeze()
        before = (node.litefs_dir / "app.db-pos").read_bytes()
        first, second = node.commit(), node.commit()
        node.lose_primary()
        assert (node.litefs_dir / "app.db-pos").read_bytes() == before
        assert node.position() == second
        with connect(node) as late:
            late.sendall(b"GET /info HTTP/1.1\r\nHost: litefs\r\n\r\n")
            for sock in (late, stream.socket):
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
                sock.settimeout(10)
            node.thaw()
            node.thaw()
            assert late.recv(12) == b"HTTP/1.1 200"
        assert [stream.txid(), stream.txid()] == [first.txid, second.txid]
        assert stream.role() == ("primaryChange", False, None)
        assert (node.litefs_dir / "app.db-pos").read_bytes() == f"{second}\n".encode()
        assert (node.litefs_dir / ".lag").read_bytes() == b"+2147483647\n"


def test_a_dropped_stream_stops_within_a_chunk_and_a_new_one_is_taken(tmp_path: Path, open_stream: OpenStream) -> None:
    """`drop_stream` is abrupt: the chunk that ends a stream properly does not come."""
    with SimulatedNode(tmp_path) as node:
        streams = [open_stream(node), open_stream(node)]
        for stream in streams:
            stream.event()
        node.drop_stream()
        for stream in streams:
            with pytest.raises(EOFError):
                stream.chunk()
        again = open_stream(node)
        again.event()
        assert node.commit().txid == again.txid()


def test_the_stream_can_be_kept_away(tmp_path: Path, open_stream: OpenStream) -> None:
    """Streams end and are not taken, while files and the rest of the API go on."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        node.stream_available = False
        with pytest.raises(EOFError):
            stream.chunk()
        assert open_stream(node).head == b""
        node.restart()
        assert open_stream(node).head == b""
        assert get(node, "/info")[0] == 200
        position = node.commit()
        assert (node.litefs_dir / "app.db-pos").read_bytes() == f"{position}\n".encode()
        node.stream_available = True
        assert open_stream(node).role() == ("init", True, None)


def test_any_bytes_can_be_sent_as_an_event(tmp_path: Path, open_stream: OpenStream) -> None:
    """In a chunk of their own, or outside of any."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        node.raw_event(b'{"type":\xff')
        assert stream.chunk() == b'{"type":\xff'
        node.raw_event(b"no chunk\r\n", framed=False)
        assert stream.file.readline() == b"no chunk\r\n"


def test_another_program_can_have_the_port(tmp_path: Path, open_stream: OpenStream) -> None:
    """Every request gets its answer until the node is LiteFS again."""
    with SimulatedNode(tmp_path) as node:
        node.respond_with(302, headers={"Location": "http://example.com/", "Content-Type": "text/html"}, body=b"<html>")
        assert get(node, "/info") == (302, b"<html>")
        head = open_stream(node).head
        assert head.startswith(b"HTTP/1.1 302 Found\r\n")
        assert b"Location: http://example.com/\r\n" in head
        assert b"Content-Type: text/html\r\n" in head
        node.respond_with(500)
        assert get(node, "/events") == (500, b"")
        node.respond_normally()
        assert open_stream(node).role() == ("init", True, None)


def test_one_can_wait_for_streams(tmp_path: Path, open_stream: OpenStream) -> None:
    """For so many at least, or for none; a timeout tells how many there are."""
    with SimulatedNode(tmp_path) as node:
        node.wait_for_streams(0)
        with pytest.raises(WaitTimeout, match="0 event streams"):
            node.wait_for_streams(timeout=0)
        opening = threading.Timer(0.01, lambda: open_stream(node))
        opening.start()
        node.wait_for_streams(1)
        opening.join()
        stream = open_stream(node)
        node.wait_for_streams(2)
        statistics = node.statistics()
        assert (statistics.streams, statistics.connections, statistics.events) == (2, 2, 0)
        stream.close()
        node.drop_stream()
        node.wait_for_streams(0)


def test_a_half_open_stream_stays_and_carries_nothing(tmp_path: Path, open_stream: OpenStream) -> None:
    """Its reader is not told; a new one gets all that happens, and a cut ends both."""
    with SimulatedNode(tmp_path) as node:
        old = open_stream(node)
        old.event()
        node.half_open_streams()
        assert node.statistics().streams == 0
        new = open_stream(node)
        new.event()
        assert node.commit().txid == new.txid()
        old.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            old.socket.recv(1)
        old.socket.settimeout(10)
        node.drop_stream()
        for stream in (old, new):
            with pytest.raises(EOFError):
                stream.chunk()


def test_what_happens_on_the_disk_of_a_dead_process_is_there(tmp_path: Path) -> None:
    """LTX files included, though nothing shows it before it is back."""
    with SimulatedNode(tmp_path) as node:
        for end in (node.kill, node.stop):
            end()
            position = node.commit()
            assert f"{position.txid:016x}-{position.txid:016x}.ltx" in os.listdir(node.data_dir / "dbs" / "app.db" / "ltx")
            node.restart()
    assert sorted(os.listdir(tmp_path)) == ["data", "litefs"]


def test_who_asks_is_answered_after_a_look(tmp_path: Path, open_stream: OpenStream) -> None:
    """What is committed by then is known: `on_look` has been called, without the node's lock."""
    with SimulatedNode(tmp_path) as node:

        def look() -> None:
            thread = threading.Thread(target=node.commit)
            thread.start()
            thread.join(10)

        node.on_look = look
        get(node, "/info")
        assert node.position().txid > 1
        before = node.position()
        open_stream(node)
        assert node.position() > before
