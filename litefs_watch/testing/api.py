"""What LiteFS's HTTP API says: its events (``store.go``) and the answer of ``GET /info`` (``litefs.go``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from litefs_watch.position import Position
from litefs_watch.testing.http1 import Response

PAGE_SIZE = 4096
"""Bytes; SQLite's default."""


def role_event(kind: str, is_primary: bool, primary: str | None) -> Mapping[str, Any]:
    """``init`` or ``primaryChange``: the hostname is left out where it is empty, unknown, or the node is the primary."""
    data: dict[str, Any] = {"isPrimary": is_primary}
    if primary:
        data["hostname"] = primary
    return {"type": kind, "data": data}


def tx_event(database: str, position: Position, pages: int) -> Mapping[str, Any]:
    """A transaction that can be read; ``pages`` is the database's size after it, 0 for a dropped one."""
    data = {
        "txID": f"{position.txid:016x}",
        "postApplyChecksum": f"{position.checksum:016x}",
        "pageSize": PAGE_SIZE,
        "commit": pages,
        "timestamp": _now(),
    }
    return {"type": "tx", "db": database, "data": data}


def _now() -> str:
    """The time as Go's RFC3339Nano prints one that is whole milliseconds: without trailing zeros."""
    date, _, fraction = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00").partition(".")
    fraction = fraction.rstrip("0")
    return f"{date}.{fraction}Z" if fraction else f"{date}Z"


def info(*, is_primary: bool, candidate: bool, path: str, primary: str) -> Response:
    """``GET /info``. ``primary`` is a hostname, on the primary its own."""
    body = {
        "clusterID": CLUSTER_ID,
        "isPrimary": is_primary,
        "candidate": candidate,
        "path": path,
        "primary": {"hostname": primary},
    }
    return Response(200, json.dumps(body, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


CLUSTER_ID = "LFSC0123456789ABCDEF"
ROUTES = {"/info": "GET", "/events": "GET", "/promote": "POST"}
"""The paths that are served, and the one method of each."""
