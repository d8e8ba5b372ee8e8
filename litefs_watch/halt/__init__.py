"""HALT: write from any node. LiteFS stops the primary's writes, and sends ours there with each commit.

The lock is byte 72 of the file ``DB-lock`` in LiteFS's mount, and belongs to one opening of that file (``F_OFD_SETLKW``;
LiteFS's ``fuse/lock_node.go``). LiteFS releases it as soon as *any* descriptor of that opening is closed, and a process that
is forked has such a descriptor and closes it when it ends or execs. Within the application, any subprocess started inside
would lose the lock. So a small process of our own holds it: nothing that the application starts can inherit it, and it ends
with the application.

LiteFS frees an overdue lock on the primary only, 30 to 35 s after it was granted, and does not tell the replica. Measured on
0.5.14: once the primary has written, the replica's database stays locked, and even giving the lock back hangs. So it is
given back here when its 30 s are over, before that can happen.

========== =====================================================================================================
`blocks`   ``halt`` and ``halted``: what is awaited, what is shielded, which error passes
`client`   the application's side of one lock: asks the process that holds it, and tells what its answers mean
`launch`   starts that process, from whatever kind of application
`holder`   the program that it runs: on its own, with the standard library only
========== =====================================================================================================
"""

from __future__ import annotations

from litefs_watch.halt.blocks import halt, halted
from litefs_watch.halt.client import Halt

__all__ = ["Halt", "halt", "halted"]
