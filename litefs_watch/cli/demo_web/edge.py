"""A stand-in for Fly.io's edge: it sends a request to a machine, and again to the one that ``fly-replay`` names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope

REPLAYS = 3
"""More than so many, and it is a loop."""


@dataclass
class Answer:
    """What an application answered, whole."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trail: list[str] = field(default_factory=list)
    """The nodes that the request was at, in order."""

    def header(self, name: bytes) -> str | None:
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), None)


class Edge:
    """``apps`` by hostname; ``lives`` says whether a machine can be reached."""

    def __init__(self, apps: Mapping[str, ASGIApp], lives: Callable[[str], bool]) -> None:
        self._apps = apps
        self._lives = lives

    async def fetch(self, hostname: str, scope: Scope, body: bytes, receive: Receive) -> Answer:
        """Send it on its way. ``receive`` tells when the client has left."""
        trail: list[str] = []
        headers = list(scope["headers"])
        for _ in range(1 + REPLAYS):
            trail.append(hostname)
            if not self._lives(hostname):
                return failure(502, f"{hostname} is down", trail)
            answer = await call(self._apps[hostname], {**scope, "headers": headers, "state": {}}, body, receive)
            answer.trail = trail
            replay = answer.header(b"fly-replay")
            if replay is None:
                return answer
            fields = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in replay.split(";"))}
            source = f"instance={hostname};t={time.time_ns() // 1000};state={fields.get('state', '')}"
            headers = [*scope["headers"], (b"fly-replay-src", source.encode("latin-1"))]
            hostname = fields.get("instance", "")
            if hostname not in self._apps:
                return failure(502, f"there is no machine {hostname!r}", trail)
        return failure(508, "a loop", trail)


async def call(app: ASGIApp, scope: Scope, body: bytes, receive: Receive) -> Answer:
    """One request to an application. What it raises is a 500, as under any server."""
    answer = Answer()
    sent = False

    async def receive_body() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(bytes(key), bytes(value)) for key, value in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    try:
        await app(scope, receive_body, send)
    except Exception as error:  # noqa: BLE001 - whatever the application raises
        return failure(500, f"{type(error).__name__}: {error}", [])
    return answer


def failure(status: int, text: str, trail: list[str]) -> Answer:
    return Answer(status, [(b"content-type", b"text/plain; charset=utf-8")], text.encode(), trail)
