"""The responses that are ours."""

from __future__ import annotations

from dataclasses import dataclass

from litefs_watch.printable import safe

RETRY_AFTER = 1
"""Seconds, in the ``retry-after`` of a refusal. A fail-over takes 2 to 10, and some of them have been waited here."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response: status, headers (names in lower case), body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""

    @classmethod
    def of(cls, status: int, *headers: tuple[str, str], text: str = "") -> Answer:
        """An answer that no cache keeps."""
        body = text.encode()
        given = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if body:
            given.append((b"content-type", b"text/plain; charset=utf-8"))
        given += [(b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        return cls(status, tuple(given), body)


ERROR = Answer.of(500, text="Internal Server Error\n")
"""What servers answer for an exception of the application's."""


def named(method: str, path: str) -> str:
    """What the log calls a request: one line, whatever stands in the path, which is a client's, and decoded."""
    return f"{method} {safe(path)}"


def refusal(reason: str, status: int = 503, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """503, for now: with ``retry-after``, and the reason as text. 500 where nobody knows what has been done. ``headers`` are
    those of a request that has been done: it is not to be tried again."""
    again = [("retry-after", str(RETRY_AFTER))] if status == 503 and not headers else []
    answer = Answer.of(status, *again, text=reason + "\n")
    return Answer(status, answer.headers + headers, answer.body)
