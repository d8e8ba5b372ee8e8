"""A WSGI request taken apart (PEP 3333): path, target and headers, as bytes came in; and its body."""

from __future__ import annotations

import select
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from litefs_watch.replay import as_it_came, target

LOST_KEY = "litefs_watch.lost"
"""Where the environ, and the ``META`` of Django's request, has what `lost_transaction` says, if that is anything."""

CHUNK = 64 * 1024
"""Bytes of a body that are read at a time."""


def path_of(environ: Mapping[str, Any]) -> str:
    """The whole path, decoded: WSGI hands bytes over as latin-1."""
    return _decoded(environ).decode("utf-8", "replace")


def route_of(environ: Mapping[str, Any]) -> str:
    """The path that the application routes by, decoded: without the prefix of its server, or of who has mounted it."""
    path = str(environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode("utf-8", "replace")
    return path or "/"


def target_of(environ: Mapping[str, Any]) -> str:
    """Path and query, percent-encoded."""
    return target(_decoded(environ).decode("utf-8", "surrogateescape"), raw_path_of(environ), query_of(environ))


def wire_target_of(environ: Mapping[str, Any]) -> bytes:
    """Path and query as the client's request line has them, where the server tells; else as good as can be."""
    uris = (str(environ.get(key, "")) for key in ("RAW_URI", "REQUEST_URI"))
    uri = next((uri for uri in uris if uri.startswith("/")), "")
    if uri:
        return as_it_came(uri.partition("#")[0].encode("latin-1", "replace"))
    query = query_of(environ)
    path = quote(_decoded(environ)).encode() or b"/"
    return as_it_came(path + b"?" + query if query else path)


def raw_path_of(environ: Mapping[str, Any]) -> bytes:
    """The path as the client wrote it, where the server tells (PEP 3333 does not ask it to); else nothing."""
    uris = (str(environ.get(key, "")) for key in ("RAW_URI", "REQUEST_URI"))
    return next((uri.encode("latin-1", "replace").partition(b"?")[0] for uri in uris if uri.startswith("/")), b"")


def query_of(environ: Mapping[str, Any]) -> bytes:
    """The query as the client wrote it."""
    return str(environ.get("QUERY_STRING", "")).encode("latin-1", "replace")


def headers_of(environ: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The headers, with their names in lower case. Several of one name are one, as the server has joined them."""
    return [
        (key[5:].lower().replace("_", "-").encode("latin-1", "replace"), str(value).encode("latin-1", "replace"))
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]


def sent_headers_of(environ: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """As `headers_of`, but each line of cookies by itself: HTTP/2 clients send several, and servers join them with commas,
    which hide ours from who splits at semicolons. No token has one."""
    headers, cookies = headers_of(environ), str(environ.get("HTTP_COOKIE", ""))
    if "," not in cookies:
        return headers
    lines = [(b"cookie", line.encode("latin-1", "replace")) for line in cookies.split(",")]
    return [header for header in headers if header[0] != b"cookie"] + lines


class Headers:
    """As `headers_of`, made when they are asked for: most requests are let in for what `carried_of` finds."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(headers_of(self._environ))


def keys_of(names: Collection[bytes]) -> dict[str, bytes]:
    """Where an environ has the headers of these names, which are in lower case."""
    return {"HTTP_" + name.decode().upper().replace("-", "_"): name for name in names}


def carried_of(environ: Mapping[str, Any], keys: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """Of `sent_headers_of` those at ``keys``."""
    carried = []
    for key, name in keys.items():
        value = environ.get(key)
        if value is None:
            continue
        if name == b"cookie" and "," in value:
            carried += [(name, line.encode("latin-1", "replace")) for line in value.split(",")]
        else:
            carried.append((name, value.encode("latin-1", "replace")))
    return carried


def entity_headers_of(environ: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The two headers that WSGI keeps apart from the others."""
    pairs = ((b"content-type", environ.get("CONTENT_TYPE")), (b"content-length", environ.get("CONTENT_LENGTH")))
    return [(name, str(value).encode("latin-1", "replace")) for name, value in pairs if value]


def _decoded(environ: Mapping[str, Any]) -> bytes:
    """The path without its percent-encoding."""
    return str(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1", "replace")


def socket_of(environ: Mapping[str, Any]) -> socket.socket | None:
    """The client's connection, with servers that tell and give it no time limit of their own."""
    found = (environ.get(key) for key in ("gunicorn.socket", "werkzeug.socket"))
    return next((sock for sock in found if isinstance(sock, socket.socket)), None)


def client_has_left(environ: Mapping[str, Any]) -> bool:
    """Whether the client has hung up, where anybody can tell: nobody reads the answer."""
    sock = socket_of(environ)
    if sock is None or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)  # and POLLHUP, POLLERR
    return bool(poll.poll(0))


class Body:
    """A request's ``wsgi.input`` that knows whether the application has taken some of it."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._input = environ["wsgi.input"]
        length = str(environ.get("CONTENT_LENGTH") or "")
        self._left = int(length) if length.isascii() and length.isdigit() else None
        # Without a length there is a body only where the server knows its end (chunked, with wsgi.input_terminated).
        self._ends = bool(environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" in environ)
        self.taken: bool = False

    @property
    def length(self) -> int | None:
        """How many bytes the client has announced."""
        return self._left

    def __bool__(self) -> bool:
        """Whether there is a body."""
        return bool(self._left) if self._left is not None else self._ends

    def __getattr__(self, name: str) -> Any:
        if name.startswith("read"):  # readinto, read1: PEP 3333 has none, and who asks for them can do without
            raise AttributeError(name)
        return getattr(self._input, name)

    def __iter__(self) -> Iterator[bytes]:
        self.taken = self.taken or bool(self)
        return iter(self._input)

    def read(self, *size: int) -> bytes:
        self.taken = self.taken or bool(self)
        return bytes(self._input.read(*size))

    def readline(self, *size: int) -> bytes:
        self.taken = self.taken or bool(self)
        return bytes(self._input.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        self.taken = self.taken or bool(self)
        return list(self._input.readlines(*hint))

    def chunks(self) -> Iterator[bytes]:
        """The whole body, as it comes. Raises `EOFError` where the client hangs up before its end."""
        left = self._left
        while left is None or left > 0:
            chunk = self._input.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                if left is None:
                    return
                raise EOFError(f"{left} bytes of the request's body are missing")
            if left is not None:
                left -= len(chunk)
            yield chunk
