"""A request and a response, and how a machine's application is asked in-process: ASGI awaited, WSGI called."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from litefs_watch.asgi.types import App, Message

BACK_OFF = 0.02
"""Seconds that a client waits after a server's error: else most requests would be made where nothing works."""


@dataclass(frozen=True)
class Request:
    """Names of headers are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """Names of headers are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        """The first of that name."""
        return next(iter(self.all(name)), None)


@dataclass(frozen=True)
class Sent:
    """A request on its way to one machine."""

    hostname: str
    request: Request


Conversation = Generator[Sent, Response, None]
"""What a client sends, and is answered with: whoever drives it does the I/O."""


async def converse(conversation: Conversation, apps: Mapping[str, App]) -> None:
    """Drive it, on an event loop."""
    try:
        sent = next(conversation)
        while True:
            response = await ask_asgi(apps[sent.hostname], sent.request)
            if response.status >= 500:
                await anyio.sleep(BACK_OFF)
            sent = conversation.send(response)
    except StopIteration:
        pass


def converse_blocking(conversation: Conversation, apps: Mapping[str, Any]) -> None:
    """Drive it, in this thread."""
    try:
        sent = next(conversation)
        while True:
            response = ask_wsgi(apps[sent.hostname], sent.request)
            if response.status >= 500:
                time.sleep(BACK_OFF)
            sent = conversation.send(response)
    except StopIteration:
        pass


async def ask_asgi(app: App, request: Request) -> Response:
    """As an ASGI server would: what the application raises is a 500."""
    messages: list[Message] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in request.headers.items()],
        "client": ("192.0.2.7", 1234),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001
        return Response(500, body=repr(error).encode())
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in messages[0]["headers"])
    return Response(messages[0]["status"], headers, b"".join(message.get("body", b"") for message in messages[1:]))


def ask_wsgi(app: Callable[..., Any], request: Request) -> Response:
    """As a WSGI server would: what the application raises is a 500."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    environ |= {"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers.items()}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        started.append((status, headers))
        return lambda data: None

    try:
        answered = app(environ, start_response)
        body = b"".join(answered)
        if hasattr(answered, "close"):
            answered.close()
    except Exception as error:  # noqa: BLE001
        return Response(500, body=repr(error).encode())
    status, headers = started[-1]
    return Response(int(status[:3]), tuple((name.lower(), value) for name, value in headers), body)
