"""Beside the peers, on two real LiteFS nodes (``LITEFS_BIN``): how soon a waiting read is answered, what a read costs that
need not wait, and what a crowd of waiting requests costs.

- `ways`: the servers on the replica, each in a process of its own: the application alone, behind `LiteFSMiddleware`, behind
  LiteFS's proxy, litefs-js's own package under node, and litefs-js's loop put right, in Python.
- `asking`: requests over connections that stay open.
- `measuring`: all of them in turn, in one run.
"""

from benchmarks.peers.measuring import main

__all__ = ["main"]
