"""``litefs-watch top``: the node, its neighbours and its databases, live.

- `history`: what was seen over the last minutes: lags, rates, changes. It decides what there is to show.
- `asking`: the application, who waits there; doctor, what is wrong.
- `screen`: that, in so many columns and lines.
- `keys`: the terminal, key by key, and as it was afterwards.
- `command`: what keeps them together.
"""

from litefs_watch.cli.top.command import command

__all__ = ["command"]
