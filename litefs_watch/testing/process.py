"""The process of a simulated LiteFS: it starts, stops, dies, comes back, freezes, and its streams can be cut.

What it shows while it runs is the business of `litefs_watch.testing.node`.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self

from litefs_watch.errors import WaitTimeout
from litefs_watch.testing import api
from litefs_watch.testing.data_directory import DataDirectory
from litefs_watch.testing.files import Mount, OrdinaryDirectory, Staging, temporary_directory
from litefs_watch.testing.fuse import FuseMount
from litefs_watch.testing.http1 import Response, chunk, encode_event
from litefs_watch.testing.server import ApiServer

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """What has happened at a node's HTTP API since it was last started."""

    streams: int
    """Event streams that are open."""
    connections: int
    """Connections that were accepted."""
    events: int
    """Events that were sent, each counted once for all streams together; ``init`` is not counted."""


class NodeProcess(ABC):
    """A process that may run, be frozen, or be down, with a mount and an HTTP API while it runs."""

    def __init__(self, directory: str | Path | None, hostname: str, port: int, fuse: bool) -> None:
        self.hostname = hostname
        self._remove: Callable[[], object] | None = None
        if directory is None:
            self.directory: Path = temporary_directory()
            self._remove = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        else:
            self.directory = Path(directory).absolute()
        self.litefs_dir: Path = self.directory / "litefs"
        """The mount (``fuse.dir``)."""
        self.data_dir: Path = self.directory / "data"
        """LiteFS's data directory (``data.dir``)."""
        self.on_look: Callable[[], object] | None = None
        """Called without the node's lock before a request of the API is answered, and, if it was set before the start,
        before ``-pos`` is read on a FUSE mount: to let the node know first what has been committed."""
        self._port = port
        self._lock = threading.RLock()
        self._staging = Staging(self.directory / "staging")
        self._data = DataDirectory(self.data_dir, self._staging)
        self._mount: Mount = FuseMount(self.litefs_dir) if fuse else OrdinaryDirectory(self.litefs_dir, self._staging)
        self._server = self._new_server()
        self._running = False
        self._withheld: list[Callable[[], object]] | None = None  # while frozen: what is seen at the thaw

    @abstractmethod
    def _show_everything(self) -> None:
        """Fill the mount, with the lock held."""

    @abstractmethod
    def _opening_event(self) -> Mapping[str, Any]:
        """What a stream begins with, with the lock held."""

    @abstractmethod
    def _route(self, method: str, path: str) -> Response:
        """Answer all requests but those for the stream, with the lock held."""

    @abstractmethod
    def _tick(self) -> None:
        """A second has passed; with the lock held."""

    def _new_server(self) -> ApiServer:
        return ApiServer(
            self._lock,
            opening=lambda: encode_event(self._opening_event()),
            route=self._route,
            tick=self._tick,
            before_answer=lambda: self.on_look and self.on_look(),
            headers={
                "Litefs-Id": f"{zlib.crc32(self.hostname.encode(errors='replace')):016X}",
                "Litefs-Cluster-Id": api.CLUSTER_ID,
            },
        )

    def _do(self, effect: Callable[P, object], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Let something be seen: now, at the thaw, or, while the process is down, not at all. With the lock held."""
        if self._withheld is not None:
            self._withheld.append(lambda: effect(*arguments, **keywords))
        elif self._running:
            effect(*arguments, **keywords)

    def _do_on_disk(self, effect: Callable[P, object], *arguments: P.args, **keywords: P.kwargs) -> None:
        """As `_do`, for what is on the disk of a process that is down, too."""
        if self._withheld is not None:
            self._withheld.append(lambda: effect(*arguments, **keywords))
        else:
            effect(*arguments, **keywords)

    # The life of it.

    @property
    def running(self) -> bool:
        """Whether it is neither stopped nor killed; a frozen process runs."""
        return self._running

    @property
    def frozen(self) -> bool:
        """Whether it is between `freeze` and `thaw`."""
        return self._withheld is not None

    @property
    def api_url(self) -> str:
        """The address of the HTTP API; after the first start it stays the same."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Mount and serve. Raises `RuntimeError` when it runs already or FUSE can't be used, `OSError` for a taken port."""
        with contextlib.ExitStack() as undo, self._lock:
            if self._running:
                raise RuntimeError(f"the simulated node {self.hostname!r} is running already: stop it first")
            before, self._server = self._server, self._new_server()
            self._server.stream_available, self._server.instead = before.stream_available, before.instead
            self._server.start(self._port)
            self._port = self._server.port
            self._running = True
            undo.callback(self.stop)  # without the lock
            # The lock stays: what happened in between would have no mount in which to show.
            self._staging.start()
            self._mount.before_read = self.on_look
            self._mount.start()
            self._show_everything()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """A clean stop: streams end, the port refuses, and the mount's place is an empty ordinary directory."""
        self._end()
        self._mount.stop()
        with self._lock:  # what is committed on the disk of a node that is down goes through there
            self._staging.remove()

    def kill(self) -> None:
        """What SIGKILL leaves: no port; with FUSE a mount that answers ENOTCONN, else the directory as it is."""
        self._end()
        self._mount.kill()

    def _end(self) -> None:
        with self._lock:
            running, self._running = self._running, False
            self._withheld = None
        if running:
            self._server.stop()

    def close(self) -> None:
        """Stop, and remove the directory where it is a temporary one."""
        self.stop()
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Faults.

    def freeze(self) -> None:
        """What SIGSTOP does: no answer and no event until `thaw`, and with FUSE every read of the mount blocks.

        An ordinary directory's files don't change. What happens meanwhile is seen at the thaw, all of it, in order.
        """
        with self._lock:
            if self._running and self._withheld is None:
                self._withheld = []
                self._server.freeze()
                self._mount.freeze()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        with self._lock:
            withheld, self._withheld = self._withheld, None
            if withheld is not None:
                for effect in withheld:
                    effect()
                self._mount.thaw()
                self._server.thaw()

    def drop_stream(self) -> None:
        """Cut all event streams abruptly. New ones are accepted."""
        with self._lock:
            self._server.drop_streams()

    def half_open_streams(self) -> None:
        """The event streams that are open stay open, and carry nothing any more, as when the way between has died.

        New ones work. `drop_stream` and the process's end cut them all; `statistics` and `wait_for_streams` count only those
        that work.
        """
        with self._lock:
            self._server.half_open_streams()

    @property
    def stream_available(self) -> bool:
        """Set to False, it cuts all event streams and keeps new ones away, through restarts; all else goes on."""
        return self._server.stream_available

    @stream_available.setter
    def stream_available(self, available: bool) -> None:
        with self._lock:
            self._server.stream_available = available
            if not available:
                self._server.drop_streams()

    def raw_event(self, data: bytes, *, framed: bool = True) -> None:
        """Send ``data`` on all streams as one HTTP chunk, or with ``framed=False`` as bytes that break HTTP's framing."""
        with self._lock:
            self._do(self._server.push, chunk(data) if framed else data)

    def respond_with(self, status: int = 200, *, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Answer every request like this until `respond_normally`: another program has this port. Open streams stay open."""
        with self._lock:
            self._server.instead = Response(status, body, headers or {})

    def respond_normally(self) -> None:
        """Be LiteFS again, after `respond_with`."""
        with self._lock:
            self._server.instead = None

    def statistics(self) -> NodeStatistics:
        """How busy the HTTP API is, since the last start."""
        with self._lock:
            return NodeStatistics(self._server.streams, self._server.accepted, self._server.events)

    def wait_for_streams(self, count: int = 1, timeout: float = 5.0) -> None:
        """Wait until at least ``count`` event streams are open, or for 0 until none is.

        Raises `WaitTimeout` after ``timeout`` seconds.
        """
        with self._lock:
            if not self._server.wait_for_streams(lambda n: n >= count if count else n == 0, timeout):
                seen = self._server.streams
                raise WaitTimeout(f"{seen} event streams are open after {timeout:g} s, not {count}: is the watcher started?")

    def _publish(self, event: Mapping[str, Any]) -> None:
        self._server.publish(encode_event(event))
