"""Jobs that read what was written before they were sent, on whichever node their worker runs.

A job is sent right after a commit, and its worker may be on a replica that has not got there yet. So what the sender has
written or seen travels with the message, as a token, and the worker waits for it before the job's first query.

- `current_token`, `wait_for_token`: by hand, for any queue. `acurrent_token`, `await_token` in an event loop.
- `celery`, `dramatiq`, `taskiq`, `huey`: of these queues, done for every task.

Within: `tokens` (text, and nothing else), `around` (which watcher, which request or job), `calls`; and what the queues have
in common: `guard` (what a message carries), `arrival` (what becomes of a job that came too early, or to the wrong node).
"""

from litefs_watch.errors import TokenError
from litefs_watch.jobs.calls import acurrent_token, await_token, current_token, wait_for_token

__all__ = ["TokenError", "acurrent_token", "await_token", "current_token", "wait_for_token"]
