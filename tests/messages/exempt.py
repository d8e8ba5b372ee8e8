"""What the code says, and the page does not have as it stands there: the reason for each.

Either nobody meets it, or it hands on what others say, which stands on the page as it is met.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.messages.catalog import Said


class Exempt(NamedTuple):
    where: str
    """The file, or a pattern."""
    kind: str
    code: str
    """The beginning of its text, or of the call where that has none; empty: whichever."""
    reason: str

    def covers(self, each: Said) -> bool:
        """Whether it is of that place."""
        named = fnmatchcase(each.where, self.where) and fnmatchcase(each.kind, self.kind)
        return named and (each.text.startswith(self.code) or each.code.startswith(self.code))


CAUGHT = "caught within the package, which answers or logs something else"
HANDED_ON = "the text is another error's, or a source's, which the page has"
VARIES = "made of a variable: the page has what comes of it"
LOGGED = "for the log, whose page has the line that it stands in"
OURS = "not without a fault of this library's, which Python's own traceback tells best"

EXEMPT: list[Exempt] = [
    Exempt("__init__.py", "AttributeError", "module …", "Python's own words for a name that is none"),
    Exempt("asgi/forwarder.py", "Failed", "it needs wsproto", LOGGED),
    Exempt("web/forwarding.py", "Failed", "", LOGGED),
    Exempt("[aw]sgi/*", "late", "", VARIES),
    Exempt("[aw]sgi/*", "broke_off", "", VARIES),
    Exempt("[aw]sgi/*", "unreachable", "", VARIES),
    Exempt("*/*", "malformed", "", VARIES),
    Exempt("wsgi/forwarder.py", "silent", "", VARIES),
    Exempt("*/*", "Broken", "", CAUGHT),
    Exempt("[aw]sgi/responder.py", "refusal", "", VARIES),
    Exempt("django/middleware.py", "refusal", "", VARIES),
    Exempt("[aw]sgi/responder.py", "TypeError", "not an answer", OURS),
    Exempt("django/middleware.py", "TypeError", "not an answer", OURS),
    Exempt(
        "asgi/websockets.py", "websocket.close", "{'type': 'websocket.close', 'code': int(code)", "the primary's own words"
    ),
    Exempt("cli/deadline.py", "WaitTimeout", "", HANDED_ON),
    Exempt("cli/demo_web/*", "*", "", "the demo's own page asks for nothing that is answered so"),
    Exempt("position.py", "ValueError", "ValueError(text)", CAUGHT),
    Exempt("sources/shared_watch.py", "RuntimeError", "it ended by itself", LOGGED),
    Exempt("cli/*", "BadParameter", "", "click puts 'Invalid value for …' before it"),
    Exempt("cli/*", "first_error", "", HANDED_ON),
    Exempt("cli/while_primary.py", "CommandFailedError", "", LOGGED),
    Exempt("client/*", "late", "", HANDED_ON),
    Exempt("client/session.py", "NotHereYet", "", VARIES),
    Exempt("consistency/answers.py", "of", "Answer.of(status", VARIES),
    Exempt("consistency/options.py", "ConfigError", "… is …, not …", VARIES),
    Exempt("django/checks.py", "Warning", "", "a check of manage.py's: docs/doctor.md has those"),
    Exempt("django/conf.py", "ImproperlyConfigured", "", HANDED_ON),
    Exempt("django/management/commands/litefs_status.py", "CommandError", "", HANDED_ON),
    Exempt("halt/client.py", "HaltError", "HaltError(self._refusal", VARIES),
    Exempt("halt/client.py", "HaltError", "HaltError(why_not", VARIES),
    Exempt("halt/client.py", "HaltError", "the HALT lock is not wanted", "who no longer wants it is gone"),
    Exempt("jobs/celery.py", "_instead", "", HANDED_ON),
    Exempt("jobs/celery.py", "RuntimeError", "it must not run", OURS),
    Exempt("jobs/django.py", "EnqueuedAgain", "task …: …", OURS),
    Exempt("jobs/dramatiq.py", "*", "", HANDED_ON),
    Exempt("jobs/huey.py", "*", "", HANDED_ON),
    Exempt("jobs/taskiq.py", "NoResultError", "", "Taskiq's own, of a task that has been sent back"),
    Exempt("jobs/guard.py", "ConfigError", "there is no …", VARIES),
    Exempt("jobs/tokens.py", "TokenError", "… is no token…", VARIES),
    Exempt("litefs_js.py", "NotPrimary", "", "the error's own text"),
    Exempt("operate/health.py", "Answer", "Answer(", VARIES),
    Exempt("operate/health.py", "Answer", "there is no …", VARIES),
    Exempt("operate/health.py", "WatcherClosed", "", HANDED_ON),
    Exempt("operate/health.py", "_read", "lag=…", HANDED_ON),
    Exempt("serve/*", "Refusal", "Refusal(", VARIES),
    Exempt("serve/*", "WatcherClosed", "", HANDED_ON),
    Exempt("serve/questions.py", "ValueError", "", VARIES),
    Exempt("settings.py", "ConfigError", "ConfigError(", HANDED_ON),
    Exempt("sources/connection.py", "*", "", "stands behind 'no connection to …'"),
    Exempt("sources/peers.py", "OSError", "… has no address", "stands behind 'no connection to …'"),
    Exempt("sources/peers.py", "Disconnected", "Disconnected(event.reason)", HANDED_ON),
    Exempt("sources/*", "broken_http", "", VARIES),
    Exempt("sources/http.py", "Disconnected", "… within … s", VARIES),
    Exempt("sources/reread.py", "OSError", "OSError(batch.faults", HANDED_ON),
    Exempt("sources/reread.py", "OSError", "the look at … failed", OURS),
    Exempt("sources/shared_watch.py", "RuntimeError", "it ended by itself", CAUGHT),
    Exempt("sources/stream.py", "Disconnected", "…: …", HANDED_ON),
    Exempt("sources/wire.py", "_too_long", "", VARIES),
    Exempt("status.py", "unseen", "", "stands in WaitTimeout and in the status routes"),
    Exempt("testing/fuse_server.py", "*", "", "of another process, which is told errno alone, or how it ended"),
    Exempt("testing/server.py", "OSError", "no free port", "not reached"),
    Exempt("watchers/run.py", "WaitTimeout", "", VARIES),
    Exempt("watchers/threads.py", "OSError", "", HANDED_ON),
    Exempt("watchers/faces.py", "NoPrimary", "", VARIES),
    Exempt("watchers/faces.py", "NotPrimary", "", "the error's own text"),
    Exempt("watchers/while_primary.py", "RuntimeError", "", LOGGED),
    Exempt("web/gate.py", "*", "", "becomes an answer of the middleware's"),
    Exempt("wsgi/environ.py", "*", "", CAUGHT),
    Exempt("wsgi/late.py", "RuntimeError", "", "not reached: who writes has called start_response"),
    Exempt("wsgi/middleware.py", "Refuse", "Nobody waits", "nobody waits for it"),
]
