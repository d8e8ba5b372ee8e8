"""What drives the decisions of `litefs_watch.consistency` for one request: waiting, sending on, hearing of errors."""
