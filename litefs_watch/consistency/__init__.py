"""Reading one's own writes over HTTP: everything that is decided, and nothing that is done.

- `tokens`: a position or a TXID as text, signed or not; the cookie.
- `options`: what an application can choose.
- `exchange`: a request, the node, and what may be done: plain values.
- `marks`: what a handler says of its request. `mark_written`, `mark_failed`.
- `hops`: how often a request has been sent on: what travels with a replay.
- `faults`: what an application's exception says.
- `policy`: what is done with a request, with its rules at the top; `carrying`: what its response carries, likewise.
- `answers`: the responses that are ours.

No framework, no I/O, no clock: `litefs_watch.asgi`, ``wsgi`` and ``django`` do what is decided here.
"""

from litefs_watch.consistency.answers import ERROR, Answer, named, refusal
from litefs_watch.consistency.carrying import SAFE_METHODS
from litefs_watch.consistency.exchange import (
    RUN,
    SCOPE_KEY,
    Action,
    Confirm,
    Exchange,
    Hold,
    Look,
    Node,
    Refuse,
    Replay,
    Run,
    Wait,
)
from litefs_watch.consistency.faults import is_refused_write
from litefs_watch.consistency.marks import (
    current_exchange,
    exchange_of,
    lost_transaction,
    mark_failed,
    mark_written,
    note_halted,
    note_refused,
)
from litefs_watch.consistency.options import OptionKeywords, Options
from litefs_watch.consistency.policy import Policy
from litefs_watch.consistency.tokens import PIN, Cookie, Token, Tokens, Verdict

__all__ = [
    "ERROR",
    "PIN",
    "RUN",
    "SAFE_METHODS",
    "SCOPE_KEY",
    "Action",
    "Answer",
    "Confirm",
    "Cookie",
    "Exchange",
    "Hold",
    "Look",
    "Node",
    "OptionKeywords",
    "Options",
    "Policy",
    "Refuse",
    "Replay",
    "Run",
    "Token",
    "Tokens",
    "Verdict",
    "Wait",
    "current_exchange",
    "exchange_of",
    "is_refused_write",
    "lost_transaction",
    "mark_failed",
    "mark_written",
    "named",
    "note_halted",
    "note_refused",
    "refusal",
]
