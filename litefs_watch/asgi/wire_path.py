"""The path of a request as the client's request line has it, whatever the server makes of it."""

from __future__ import annotations

from urllib.parse import quote

from litefs_watch.asgi.types import Receive, Scope


def wire_path(scope: Scope, receive: Receive) -> bytes:
    """The path to ask the primary for, in bytes, so that it puts its own root path before it just as this node did.

    ASGI's ``raw_path`` is as it came, with hypercorn, granian and daphne. uvicorn puts its ``--root-path`` before it. Where
    the server is not known (another middleware has its own ``receive``) it may be uvicorn: then the root path is taken off,
    and the primary's application, which knows the same root path, finds the same route either way.
    """
    raw: bytes | None = scope.get("raw_path")
    path = raw.partition(b"?")[0] if raw else quote(scope["path"].encode("utf-8", "surrogateescape")).encode()
    path = path if path.startswith(b"/") else b"/" + path
    root = _root_path(scope)
    if root and _may_be_uvicorn(receive) and (path == root or path.startswith(root + b"/")):
        return path[len(root) :] or b"/"
    return path


def _root_path(scope: Scope) -> bytes:
    """The server's: Starlette's mounts add their own, and keep it as ``app_root_path``."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root.rstrip("/").encode("utf-8", "surrogateescape")


def _may_be_uvicorn(receive: Receive) -> bool:
    owner = getattr(receive, "__self__", None)
    while (inner := getattr(owner, "_receive", None)) is not None:  # one of ours
        owner = getattr(inner, "__self__", None)
    return owner is None or type(owner).__module__.startswith("uvicorn.")
