"""One simulated LiteFS node: its mount, its data directory, and its HTTP API, which say what the test wants them to say.

It can also be nasty, as the real one is: change the truth and tell no one, freeze, die, flap, and go back in history.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from litefs_watch.position import TXID_MAX, Position, check_database_name, check_txid
from litefs_watch.settings import Settings
from litefs_watch.testing import api
from litefs_watch.testing.files import DROPPED_CHECKSUM, LAG_UNKNOWN_MS, position_text, primary_text
from litefs_watch.testing.http1 import Response, error
from litefs_watch.testing.process import NodeProcess


class SimulatedNode(NodeProcess):
    """A LiteFS node, as far as an application can see one. A context manager; or call `start`, and `close` at the end.

    ``directory`` gets two folders, ``litefs`` (the mount) and ``data``; None makes a temporary one. ``primary`` is None for
    a node that starts as the primary, else the hostname of the primary that it follows, ``""`` for one without a name (a
    static lease without ``lease.hostname``). Each of ``databases`` starts at TXID 1, or where a mapping says.
    ``lag_file=False`` leaves ``.lag`` out, as LiteFS before 0.5 does. ``port`` is the API's, 0 for any. ``fuse=True`` mounts
    a real FUSE file system, on which inotify is as silent as on LiteFS's (see `litefs_watch.testing.fuse_available`).

    Every call may come from any thread, and its effect can be seen before it returns.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        hostname: str = "node-a",
        primary: str | None = None,
        databases: Iterable[str] | Mapping[str, Position] = ("app.db",),
        lag_file: bool = True,
        port: int = 0,
        fuse: bool = False,
        region: str | None = None,
    ) -> None:
        names = [databases] if isinstance(databases, str) else databases
        given = databases if isinstance(databases, Mapping) else {}
        self._positions = {check_database_name(n): given.get(n) or Position(1, random_checksum()) for n in names}
        super().__init__(directory, hostname, port, fuse)
        self.region = region
        """The Fly.io region, for `settings`."""
        self.candidate = True
        """Whether this node may become the primary. If not, ``POST /promote`` answers 409."""
        self.on_position: Callable[[str, Position], object] | None = None
        """Called, with the node's lock held, when ``-pos`` shows a new position, before the event is sent: to take times."""
        self.on_promote: Callable[[], None] | None = None
        """Called for a ``POST /promote`` that asks this replica's primary for a hand-off; it must not block. None: this
        node just becomes the primary."""
        self.heartbeats = True
        """Whether the primary is heard once a second. If not, as when that is frozen, ``.lag`` grows beside ``.primary``."""
        self.catching_up: bool = False
        """Whether LiteFS's initial replication is under way: what arrives leaves ``.lag`` as it is, until a heartbeat."""
        self.notifies = True
        """Whether it tells of what happens. If not, as with ``notify=False``, files change without an event or an LTX file;
        what was missed is not made up for."""
        self._lag_file = lag_file
        self._dropped: set[str] = set()
        self._is_primary = primary is None
        self._primary = primary
        self._connected = primary is not None  # heartbeats of the primary arrive
        self._heard: float | None = None  # when the primary was last heard, monotonic seconds
        self._pinned_lag: int | None = None

    def restart(self, *, primary: str | Literal[False] | None = False) -> None:
        """Stop if need be, and come back on the same port, with the same positions, in the same role.

        ``primary`` gives another role, as for a new node; False keeps it. A replica's ``.lag`` begins at 2147483647 ms.
        """
        self.stop()
        with self._lock:
            if primary is not False:
                self._is_primary, self._primary = primary is None, primary
            self._connected = self._primary is not None
            self._heard = self._pinned_lag = None
        self.start()

    # What it is.

    @property
    def is_primary(self) -> bool:
        """Whether it says of itself that it is the primary."""
        return self._is_primary

    @property
    def primary(self) -> str | None:
        """The primary's hostname, ``""`` for one without a name; None where none is known, or it is this node."""
        return self._primary

    @property
    def databases(self) -> list[str]:
        """The databases' names, dropped ones included."""
        return list(self._positions)

    @property
    def lag_ms(self) -> int:
        """What ``.lag`` says at this moment, in milliseconds."""
        with self._lock:
            if self._pinned_lag is not None:
                return self._pinned_lag
            if self._is_primary:
                return 0
            if self._heard is None:
                return LAG_UNKNOWN_MS
            return max(1, round((time.monotonic() - self._heard) * 1000))

    def path(self, database: str | None = None) -> Path:
        """The database's file in the mount; without an argument, the first database's."""
        return self.litefs_dir / self._name(database)

    def database_file(self, database: str | None = None) -> Path:
        """The database's file in the data directory, to which the mount links; made, empty, where there is none."""
        return self._data.create(self._name(database))

    def position(self, database: str | None = None) -> Position:
        """The truth, whoever knows it. Raises `KeyError` for a database that this node has not got."""
        return self._positions[self._name(database)]

    def settings(self, **overrides: Any) -> Settings:
        """`Settings` for a watcher of this node; the keywords win."""
        known = {
            "litefs_dir": self.litefs_dir,
            "database": next(iter(self._positions), None),
            "api_url": self.api_url,
            "hostname": self.hostname,
            "data_dir": self.data_dir,
            "region": self.region,
            "silence": max(3.0, 3 * overrides.get("idle_interval", 1.0)),  # must be no shorter
        }
        return Settings(**(known | overrides))

    def _name(self, database: str | None) -> str:
        if database is not None:
            return check_database_name(database)
        if not self._positions:
            raise ValueError(f"the simulated node {self.hostname!r} has no database: name one")
        return next(iter(self._positions))

    # Transactions.

    def commit(
        self, database: str | None = None, *, notify: bool = True, txid: int | None = None, checksum: int | None = None
    ) -> Position:
        """A transaction, local or replicated: an LTX file, then ``-pos``, then the event. Returns the new position.

        The next TXID, unless ``txid`` is given; a lower one is history going back, as when a replica is reset. A database
        that this node has not got is created. ``notify=False`` changes the truth and tells no one: ``-pos`` has it for
        whoever reads it, but there is neither an event nor an LTX file.
        """
        name = self._name(database)
        with self._lock:
            known = self._positions.get(name, Position(0)).txid
            number = min(known + 1, TXID_MAX) if txid is None else check_txid(txid)
            position = Position(number, random_checksum() if checksum is None else checksum)
            self.record(name, position, notify=notify)
        return position

    def record(
        self, database: str, position: Position, *, notify: bool = True, pages: int = 2, snapshot: bool = False
    ) -> None:
        """As `commit`, for a known position. ``pages``: the database's size after it, in its pages; 0: it was dropped.

        ``snapshot``: it doesn't follow from what this node has, but replaces it, LTX files included, as when LiteFS resets a
        replica. A TXID that isn't higher can't come otherwise.
        """
        with self._lock:
            known = self._positions.get(database)
            self._positions[database] = position
            created = known is None or database in self._dropped
            previous = known if known is not None and known.txid < position.txid and not snapshot else None
            if pages == 0:
                self._dropped.add(database)
            else:
                self._dropped.discard(database)
                if created:
                    self._do(self._show_database, database)
            notify = notify and self.notifies
            if notify:
                self._do_on_disk(self._data.add_ltx, database, position, previous, pages)
            if pages == 0:
                self._do(self._drop_files, database)
            self._do(self._mount.show, f"{database}-pos", position_text(position), listed=pages > 0)
            if self.on_position is not None:
                self._do(self.on_position, database, position)
            if self._connected and not self.catching_up:
                self._hear()
            if notify:
                self._do(self._publish, api.tx_event(database, position, pages))

    def drop_database(self, database: str | None = None) -> Position:
        """Drop a database: its file goes, ``-pos`` stays with the next TXID and the checksum 8000000000000000.

        On LiteFS, and with ``fuse=True``, the directory then lists neither of them, while ``-pos`` can still be opened.
        Raises `KeyError` for a database that this node has not got.
        """
        name = self._name(database)
        with self._lock:
            position = Position(self._positions[name].txid + 1, DROPPED_CHECKSUM)
            self.record(name, position, pages=0)
        return position

    # The primary.

    def set_primary(self, hostname: str, *, notify: bool = True) -> None:
        """This node is a replica of ``hostname``: ``""`` for one without a name, or, as LiteFS has it at times, itself."""
        self._set_role(is_primary=False, primary=hostname, connected=True, notify=notify)

    def become_primary(self, notify: bool = True) -> None:
        """This node is the primary."""
        self._set_role(is_primary=True, primary=None, connected=False, notify=notify)

    def lose_primary(self, notify: bool = True) -> None:
        """No primary is known. ``.lag`` is 2147483647 where it was this node itself, else it grows from where it was."""
        self._set_role(is_primary=False, primary=None, connected=False, notify=notify)

    def flap(self, primary: str = "node-x", times: int = 3, hold: float = 0.001, every: float = 0.01) -> None:
        """Do as a replica that can't reach its primary: name it for ``hold`` seconds, then nobody; that ``times`` times.

        ``every`` is the number of seconds from one to the next (LiteFS's own is 1). Returns after the last.
        """
        for attempt in range(times):
            began = time.monotonic()
            self._set_role(is_primary=False, primary=primary, connected=False, notify=True)
            time.sleep(hold)
            self._set_role(is_primary=False, primary=None, connected=False, notify=True)
            if attempt + 1 < times:
                time.sleep(max(0.0, began + every - time.monotonic()))

    def set_lag(self, milliseconds: int | None) -> None:
        """``.lag`` says this, which may be negative, until the role changes; None lets it follow the primary again."""
        with self._lock:
            self._pinned_lag = milliseconds
            self._do(self._show_lag)

    def heartbeat(self) -> None:
        """Hear the primary now, not only at the next full second. Does nothing where none is connected."""
        with self._lock:
            if self._connected:
                self._hear()

    def _set_role(self, *, is_primary: bool, primary: str | None, connected: bool, notify: bool) -> None:
        with self._lock:
            if is_primary or self._is_primary:
                self._heard = None
            self._is_primary, self._primary, self._connected, self._pinned_lag = is_primary, primary, connected, None
            # No reader may meet '.lag' at zero without '.primary', which means PRIMARY, on the way to another role.
            if not is_primary:
                self._do(self._show_lag)
            self._do(self._show_primary, primary)
            if is_primary:
                self._do(self._show_lag)
            if notify and self.notifies:
                self._do(self._publish, api.role_event("primaryChange", is_primary, primary))

    def _hear(self) -> None:
        self.catching_up = False
        self._heard = time.monotonic()
        self._do(self._show_lag)

    # What the process asks for.

    def _show_everything(self) -> None:
        self._show_lag()
        self._show_primary(self._primary)
        for database, position in self._positions.items():
            if database not in self._dropped:
                self._show_database(database)
            self._mount.show(f"{database}-pos", position_text(position), listed=database not in self._dropped)

    def _show_primary(self, primary: str | None) -> None:
        if primary is None:
            self._mount.hide(".primary")
        else:
            self._mount.show(".primary", primary_text(primary))

    def _show_lag(self) -> None:
        if self._lag_file:
            self._mount.show_lag(self.lag_ms, None if self._pinned_lag is not None else self._heard)

    def _show_database(self, database: str) -> None:
        self._mount.link(database, self._data.create(database))
        self._mount.show(f"{database}-lock", b"", listed=False)

    def _drop_files(self, database: str) -> None:
        self._mount.hide(database)
        self._mount.hide(f"{database}-lock")
        self._data.drop(database)

    def _tick(self) -> None:
        if self._connected and self.heartbeats:
            self._hear()
        elif not self._is_primary:
            self._show_lag()

    def _opening_event(self) -> Mapping[str, Any]:
        return api.role_event("init", self._is_primary, self._primary)

    def _route(self, method: str, path: str) -> Response:
        if path not in api.ROUTES:
            return error(404, "404 page not found")
        if method != api.ROUTES[path]:
            return error(405, "method not allowed")
        if path == "/info":
            primary = self.hostname if self._is_primary else self._primary or ""
            return api.info(is_primary=self._is_primary, candidate=self.candidate, path=str(self.data_dir), primary=primary)
        return self._promote()

    def _promote(self) -> Response:
        """LiteFS's ``handlePostPromote``."""
        if not self.candidate:
            return error(409, "not eligible to become primary")
        if not self._is_primary:
            if self._primary is None:
                return error(500, "no primary is currently available for handoff, cannot promote")
            (self.on_promote or self.become_primary)()
        return Response()


def random_checksum() -> int:
    """LiteFS sets the top bit of every checksum (``ltx.ChecksumFlag``)."""
    return random.getrandbits(63) | 1 << 63
