"""Who may talk to the primary: connections to use again, and uploads that make room. No I/O and no lock of its own."""

from __future__ import annotations

import socket
from collections import deque
from typing import Generic, Protocol, TypeVar

from litefs_watch.web.forwarding import KEEP_ALIVE, SPARED, Origin, is_readable


class Connection(Protocol):
    """What is kept."""

    origin: Origin

    @property
    def sock(self) -> socket.socket: ...


class Upload(Protocol):
    """A request whose body is still to come."""

    def cut(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Idle(Generic[C]):
    """Connections that wait for another request, the newest first out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: deque[tuple[float, C]] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, connection: C, now: float) -> list[C]:
        """Keep one. Returns those to close."""
        self._kept.append((now, connection))
        return self.given_up(now)

    def take(self, origin: Origin, now: float) -> tuple[C | None, list[C]]:
        """One to ``origin`` that the other side has not closed, if there is any; and those to close."""
        closing = self.given_up(now)
        for index in range(len(self._kept) - 1, -1, -1):
            connection = self._kept[index][1]
            if connection.origin == origin:
                del self._kept[index]
                if not is_readable(connection.sock):
                    return connection, closing
                closing.append(connection)
        return None, closing

    def given_up(self, now: float, room: int = 0) -> list[C]:
        """Take out what is too old, or one too many where ``room`` more are to be open."""
        closing = []
        while self._kept and (now > self._kept[0][0] + KEEP_ALIVE or len(self._kept) + room > self._most):
            closing.append(self._kept.popleft()[1])
        return closing

    def take_all(self) -> list[C]:
        return [self._kept.popleft()[1] for _ in range(len(self._kept))]


class Silent:
    """Uploads that hold a connection and wait for their clients, those that have done so for longest first."""

    def __init__(self) -> None:
        self._since: dict[Upload, float] = {}

    def add(self, upload: Upload, now: float) -> None:
        self._since[upload] = now

    def remove(self, upload: Upload) -> None:
        self._since.pop(upload, None)

    def make_room(self, now: float) -> float:
        """End the upload that has been silent for longest, where that is `SPARED`. Returns when to try again, in seconds."""
        for upload, since in self._since.items():
            if (left := since + SPARED - now) > 0:
                return left
            del self._since[upload]
            upload.cut()
            break
        return SPARED
