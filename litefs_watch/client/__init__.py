"""Requests of this node's own: to the primary, or to another service that has the middleware. Needs the extra ``client``.

- `PrimaryClient`, `BlockingPrimaryClient`: an httpx2 client whose requests go to the primary, whoever that is, and which
  waits until what they wrote is here.
- `TokenTransport`, `BlockingTokenTransport`: carries each service's ``litefs-txid``, and nothing else.

Within: `session` (tokens, and what an answer means; no I/O), `tasks` and `threads` (the two clients).
"""

from litefs_watch.client.tasks import PrimaryClient, TokenTransport
from litefs_watch.client.threads import BlockingPrimaryClient, BlockingTokenTransport
from litefs_watch.errors import NotHereYet

__all__ = ["BlockingPrimaryClient", "BlockingTokenTransport", "NotHereYet", "PrimaryClient", "TokenTransport"]
