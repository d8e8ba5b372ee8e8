"""What is wrong with a node, and what to do: `litefs-watch doctor`.

- `facts`: what was seen, as plain values.
- `gathering`: sees it: the directory, LiteFS's API, the data directory, this machine. Nothing of it waits for long.
- `configs`: what ``litefs.yml`` and ``fly.toml`` say.
- `findings`: what that means. Pure.
"""
