"""HTTP/1.1 as Go's ``net/http`` and ``encoding/json`` write it."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_REASONS = {200: "OK", 301: "Moved Permanently", 302: "Found", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {409: "Conflict", 500: "Internal Server Error", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer of the API, or of the program that stands in its place."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, close: bool) -> bytes:
        headers = {
            "Date": now(),
            "Content-Length": str(len(self.body)),
            "Content-Type": "text/plain; charset=utf-8",
        }
        headers |= self.headers
        if close:
            headers["Connection"] = "close"
        return head(self.status, headers) + self.body


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The status line and the headers of an answer."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *(f"{key}: {value}" for key, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def now() -> str:
    """The value of a ``Date`` header."""
    return email.utils.formatdate(usegmt=True)


def error(status: int, message: str) -> Response:
    """What Go's ``http.Error`` answers."""
    return Response(status, f"{message}\n".encode(), {"X-Content-Type-Options": "nosniff"})


def encode_event(event: Mapping[str, Any]) -> bytes:
    """The event as a line, as Go's ``json.Encoder`` writes it."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace") + b"\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
