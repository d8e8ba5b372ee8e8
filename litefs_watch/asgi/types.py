"""ASGI's own types, as plain as they are.

Each framework has others for the same (Litestar's and Quart's scopes are unions of ``TypedDict``), none of which fits the
rest: what an application is, and is called with, is therefore left open where it is theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

WATCHER_KEY = "litefs_watch.watcher"
"""Where the middleware's watcher is in a scope: whatever runs it, and whether the server knows lifespans or not."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
"""``await app(scope, receive, send)``, in any framework's types."""
Strategy = Callable[[Scope, Receive, Send, str], Awaitable[None]]
"""``await strategy(scope, receive, send, hostname)`` answers an HTTP request that belongs on ``hostname``."""
