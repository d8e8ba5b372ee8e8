"""How often a request has been sent on, by whom, and how long it has waited: what travels with a replay. Bytes in and out.

======================================================  ===============================================================
header                                                  from
======================================================  ===============================================================
``fly-replay-src: instance=HOST;region=…;state=STATE``  Fly's edge, with the ``state`` that `FlyReplay` has given
``litefs-forwarded: HOST;state=STATE``                  `Forward`: the node that has sent it on
``fly-replay-failed: …``                                Fly's edge: it may not be replayed again
======================================================  ===============================================================

STATE is ``litefs.HOPS.TENTHS``: hops made, and tenths of a second waited in all. The first hop of a request that has hardly
waited needs none, and looks as litefs-js's does; so does one of somebody who does not count, or who has a state of his own.

The rules.

1. **A count grants nothing.** Who sends none has all hops before him; with any of these headers it is fewer. So a client
   that makes one up fails sooner, and harms nobody.
2. **What is not understood has no hop left**: two of one header or field, no sender, this very node as the sender, a state
   like ours that is none, or that none of our secrets has signed.
3. Of several headers (forwarded by one node, replayed by another) the largest count holds, and all senders.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from litefs_watch.consistency.tokens import sign

MOST_HOPS = 3
"""The first, to whom a node believes to be the primary; from the old primary to the new one; and one more, where that one
has handed over, too."""

HOSTNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
"""A name that can be sent to, or has sent: nothing in it can end a header, a field or a host."""

REPLAYED = b"fly-replay-src"
FORWARDED = b"litefs-forwarded"
FAILED = b"fly-replay-failed"

UNSAID = 0.5
"""Seconds of waiting that a first hop does not tell of: it stays what litefs-js sends. A tenth of what a write is held."""

_HEADERS = frozenset((REPLAYED, FORWARDED, FAILED))
_OURS = b"litefs."
_STATE = re.compile(rb"(litefs\.([1-3])\.([0-9]{1,4}))(?:\.([A-Za-z0-9_-]{22}))?")
_PURPOSE = b"litefs_watch\0hops\0"


class Trail(NamedTuple):
    """How a request came here."""

    hops: int = 0
    """So often another node has sent it on."""
    waited: float = 0.0
    """Seconds that it was held there, in all."""
    senders: frozenset[str] = frozenset()
    """Who has sent it on last; of what is not understood, nobody."""

    def __str__(self) -> str:
        return f"{', '.join(sorted(self.senders)) or 'nobody'}, hop {self.hops} of {MOST_HOPS}"


_STRAIGHT = Trail()
_NO_MORE = Trail(MOST_HOPS)


class Hops:
    """Reads and writes the counts of one cluster. With ``secrets`` the first signs, and each is believed."""

    def __init__(self, secrets: Sequence[bytes] = ()) -> None:
        self._secrets = tuple(secrets)

    def read(self, headers: Iterable[tuple[bytes, bytes]], own: str) -> Trail:
        """The trail of a request that has come to the node ``own``. Never raises."""
        trail, seen = _STRAIGHT, set[bytes]()
        for name, value in headers:
            if name in _HEADERS:
                found = _NO_MORE if name in seen else self._read(name, value, own)
                seen.add(name)
                waited = max(trail.waited, found.waited)
                trail = Trail(max(trail.hops, found.hops), waited, trail.senders | found.senders)
        return trail

    def state(self, hops: int, waited: float) -> str:
        """What goes with a request that is sent on: it is the hop number ``hops``, and it has waited so many seconds. Empty
        where nothing needs to be said."""
        if hops == 1 and waited < UNSAID:
            return ""
        tenths = min(round(waited * 10), 9999)
        text = f"litefs.{hops}.{tenths}"
        return f"{text}.{sign(self._secrets[0], _PURPOSE + text.encode()).decode()}" if self._secrets else text

    def _read(self, name: bytes, value: bytes, own: str) -> Trail:
        fields = _fields(b"instance=" + value if name == FORWARDED else value)
        sender = fields.get(b"instance", b"").decode("latin-1") if fields is not None else ""
        if name == FAILED or fields is None or HOSTNAME.fullmatch(sender) is None or sender == own:
            return _NO_MORE
        hops, waited = self._counted(fields.get(b"state", b""))
        return Trail(hops, waited, frozenset((sender,)))

    def _counted(self, state: bytes) -> tuple[int, float]:
        if not state.startswith(_OURS):  # none, or somebody else's
            return 1, 0.0
        match = _STATE.fullmatch(state)
        if match is None or not self._is_signed(match[1], match[4] or b""):
            return MOST_HOPS, 0.0
        return int(match[2]), int(match[3]) / 10

    def _is_signed(self, text: bytes, signature: bytes) -> bool:
        signatures = (sign(secret, _PURPOSE + text) for secret in self._secrets)
        return not self._secrets or any(hmac.compare_digest(each, signature) for each in signatures)


def _fields(value: bytes) -> dict[bytes, bytes] | None:
    """``NAME=VALUE;NAME=VALUE``; None where a name is there twice, or where several headers were joined to one."""
    fields: dict[bytes, bytes] = {}
    for field in value.split(b";"):
        name, _, text = field.partition(b"=")
        name = name.strip(b" \t")
        if name in fields or b"," in field:
            return None
        fields[name] = text.strip(b" \t")
    return fields
