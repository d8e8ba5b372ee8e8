"""What LiteFS asks of Consul: sessions, and a key that one of them holds."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Consul(ThreadingHTTPServer):
    """A session that is not renewed within its TTL is gone, and with it the keys that it holds. Any TTL will do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ConsulHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys: dict[str, tuple[bytes, str]] = {}
        """Each key's value, and the session that holds it."""
        self.sessions: dict[str, tuple[float, float]] = {}
        """Each session's TTL in seconds, and when it ends."""
        self.changing = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Consul]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def put(self, path: str, fields: dict[str, str], body: bytes) -> object:
        kind, _, name = path.removeprefix("/v1/").partition("/")
        if kind == "session":
            return self._session(*name.partition("/")[::2], body)
        _, holder = self.keys.get(name, (b"", ""))
        if "release" in fields:
            if holder == fields["release"]:
                self.keys[name] = (body, "")  # LiteFS sends none: nobody is the primary
            return holder == fields["release"]
        session = fields.get("acquire", "")
        if holder not in ("", session) or (session and session not in self.sessions):
            return False
        self.keys[name] = (body, session)
        return True

    def _session(self, action: str, session: str, body: bytes) -> object:
        if action == "create":
            session = str(uuid.uuid4())
            seconds = float(json.loads(body)["TTL"].removesuffix("s"))
            self.sessions[session] = (seconds, time.monotonic() + seconds)
            return {"ID": session}
        if action == "destroy":
            self._end(session)
            return True
        if session not in self.sessions:
            return None
        seconds, _ = self.sessions[session]
        self.sessions[session] = (seconds, time.monotonic() + seconds)
        return [{"ID": session}]

    def get(self, path: str) -> object:
        name = path.removeprefix("/v1/kv/")
        if name not in self.keys:
            return None
        value, session = self.keys[name]
        return [{"Key": name, "Value": base64.b64encode(value).decode(), "Session": session, "Flags": 0}]

    def expire(self) -> None:
        """End the sessions whose time is over."""
        now = time.monotonic()
        for session in [session for session, (_, until) in self.sessions.items() if until < now]:
            self._end(session)

    def end_all(self) -> None:
        """End every session now: whoever held a key has died."""
        with self.changing:
            for session in list(self.sessions):
                self._end(session)

    def _end(self, session: str) -> None:
        self.sessions.pop(session, None)
        self.keys = {key: held for key, held in self.keys.items() if not session or held[1] != session}


class _ConsulHandler(BaseHTTPRequestHandler):
    server: Consul

    def do_PUT(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.changing:
            self.server.expire()
            self._answer(self.server.put(parts.path, dict(urllib.parse.parse_qsl(parts.query)), body))

    def do_GET(self) -> None:
        with self.server.changing:
            self.server.expire()
            self._answer(self.server.get(urllib.parse.urlsplit(self.path).path))

    def _answer(self, value: object) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
