"""The HTTP API: byte for byte what LiteFS answers, without delay, and with its limit for slow readers."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litefs_watch.testing import SimulatedNode

OpenStream = Callable[[SimulatedNode], Any]


def ask(node: SimulatedNode, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", int(node.api_url.rpartition(":")[2])), timeout=10) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


def request(node: SimulatedNode, method: str, path: str) -> tuple[int, bytes]:
    answer = ask(node, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_the_stream_is_what_go_sends(tmp_path: Path, open_stream: OpenStream) -> None:
    """HTTP/1.1, chunked, one JSON object and a newline in each chunk, without spaces, and Go's escapes."""
    with SimulatedNode(tmp_path, primary="n&b-é") as node:
        stream = open_stream(node)
        assert stream.head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: application/json\r\n" in stream.head
        assert b"Transfer-Encoding: chunked\r\n" in stream.head
        assert stream.chunk() == '{"type":"init","data":{"isPrimary":false,"hostname":"n\\u0026b-é"}}\n'.encode()
        node.lose_primary()
        assert stream.chunk() == b'{"type":"primaryChange","data":{"isPrimary":false}}\n'
        node.commit("<b>.db", txid=0xABC, checksum=0xE04F)
        line = stream.chunk()
        assert line.startswith(
            b'{"type":"tx","db":"\\u003cb\\u003e.db","data":{"txID":"0000000000000abc",'
            b'"postApplyChecksum":"000000000000e04f","pageSize":4096,"commit":2,"timestamp":"2'
        )
        assert line.endswith(b'Z"}}\n')


def test_info_is_what_go_sends(tmp_path: Path) -> None:
    """Indented JSON with the data directory and the primary's hostname, on the primary its own."""
    with SimulatedNode(tmp_path, hostname="h") as node:
        status, body = request(node, "GET", "/info")
        assert status == 200
        assert body.startswith(b'{\n  "clusterID": "')
        info = json.loads(body)
        assert info.pop("clusterID")
        assert info == {"isPrimary": True, "candidate": True, "path": str(tmp_path / "data"), "primary": {"hostname": "h"}}
        node.candidate = False
        for hostname in ("p", ""):
            if hostname:
                node.set_primary(hostname)
            else:
                node.lose_primary()
            info = json.loads(request(node, "GET", "/info")[1])
            assert (info["isPrimary"], info["candidate"], info["primary"]) == (False, False, {"hostname": hostname})


def test_other_paths_and_methods_are_refused(tmp_path: Path) -> None:
    """404 for what LiteFS has not got, 405 for a wrong method, 400 for what is no HTTP."""
    with SimulatedNode(tmp_path) as node:
        assert request(node, "GET", "/") == (404, b"404 page not found\n")
        assert request(node, "POST", "/events") == (405, b"method not allowed\n")
        assert request(node, "GET", "/promote")[0] == 405
        assert ask(node, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_promote_asks_for_the_role(tmp_path: Path) -> None:
    """409 for no candidate, 500 while no primary is known, else 200; a node on its own takes the role, or calls back."""
    with SimulatedNode(tmp_path, primary="b") as node:
        node.candidate = False
        assert request(node, "POST", "/promote")[0] == 409
        node.candidate = True
        asked: list[bool] = []
        node.on_promote = lambda: asked.append(True)
        assert request(node, "POST", "/promote") == (200, b"")
        assert asked == [True]
        assert not node.is_primary
        node.on_promote = None
        assert request(node, "POST", "/promote")[0] == 200
        assert node.is_primary
        assert request(node, "POST", "/promote")[0] == 200
        node.lose_primary()
        assert request(node, "POST", "/promote")[0] == 500


def test_a_connection_serves_one_request_after_the_other(tmp_path: Path) -> None:
    """Also when they come at once, or in pieces, and the last one may be the stream."""
    with (
        SimulatedNode(tmp_path) as node,
        socket.create_connection(("127.0.0.1", int(node.api_url.rpartition(":")[2])), timeout=10) as sock,
        sock.makefile("rb") as file,
    ):
        sock.sendall(b"GET /info HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /nothing HTTP/1.1\r\n\r\nGET /ev")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        while not file.readline().startswith(b"HTTP/1.1 404"):
            pass
        sock.sendall(b"ents HTTP/1.1\r\n\r\n")
        while not file.readline().startswith(b'{"type":"init"'):
            pass


def test_an_event_is_written_by_the_thread_that_caused_it(tmp_path: Path, open_stream: OpenStream) -> None:
    """When `commit` has returned, the bytes are there to be read; nobody else had to wake up for it."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        node.wait_for_streams()
        stream.socket.setblocking(False)
        took = []
        for _ in range(200):
            began = time.perf_counter()
            node.commit()
            took.append(time.perf_counter() - began)
            assert b'"tx"' in stream.socket.recv(4096)
        assert statistics.median(took) < 0.005


def test_a_reader_that_is_1024_events_behind_is_cut_off(tmp_path: Path) -> None:
    """It gets what LiteFS holds for it and then a proper end, and others are not held up."""
    with SimulatedNode(tmp_path) as node, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(10)
        slow.connect(("127.0.0.1", int(node.api_url.rpartition(":")[2])))
        slow.sendall(b"GET /events HTTP/1.1\r\n\r\n")
        node.wait_for_streams(1)
        sent = 0
        while node.statistics().streams:
            node.raw_event(b"x" * 8192)
            sent += 1
            assert sent < 20_000
        assert sent > 1024
        received = b""
        while data := slow.recv(1 << 20):
            received = received[-16:] + data
        assert received.endswith(b"\r\n0\r\n\r\n")


def test_a_slow_reader_gets_everything_if_it_is_not_too_slow(tmp_path: Path, open_stream: OpenStream) -> None:
    """What its socket does not take at once follows, in order."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        stream.event()
        for number in range(900):
            node.raw_event(b"%08d" % number * 1024)
        for number in range(900):
            assert stream.chunk() == b"%08d" % number * 1024


@pytest.mark.parametrize("end", [b"", b"GET /info HTTP/1.1\r\n"])
def test_a_client_that_goes_away_is_forgotten(tmp_path: Path, open_stream: OpenStream, end: bytes) -> None:
    """A closed stream, or half a request, leaves nothing behind."""
    with SimulatedNode(tmp_path) as node:
        stream = open_stream(node)
        node.wait_for_streams(1)
        stream.socket.sendall(end)
        stream.close()
        node.wait_for_streams(0)
        node.commit()
        assert request(node, "GET", "/info")[0] == 200
