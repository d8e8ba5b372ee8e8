"""``litefs-watch demo --web``: the simulated cluster as a page, to play with.

- `nodes`: the cluster, a watcher for each node, and what one can do to them.
- `guestbook`: the application on each node, once bare and once behind `LiteFSMiddleware`.
- `edge`: sends a request to a node, and again to where ``fly-replay`` says, as Fly.io's does.
- `feed`: what happens, for the page, as server-sent events.
- `server`: the routes, and the process around them.
- ``page/``: plain HTML, CSS and JavaScript; it asks for nothing from elsewhere.
"""
