"""``/openapi.json`` (OpenAPI 3.1), and the page that shows it: plain, with nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

from pydantic import BaseModel

from litefs_watch import __version__
from litefs_watch.operate.health import CHECKS, PARAMETERS
from litefs_watch.serve.questions import PositionQuestion, WaitQuestion

PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
}
_TXID = {"type": "integer", "description": "More than 2^53 is possible: JavaScript takes the text."}
_POSITION = {"type": "string", "pattern": "^[0-9a-f]{16}/[0-9a-f]{16}$", "description": "LiteFS's text: TXID/CHECKSUM."}
_ROLE = {"type": "string", "enum": ["primary", "replica", "unknown"]}
_NAME = {"type": ["string", "null"], "description": "The primary's hostname, on a replica of a named one."}
_TIME = {"type": "string", "format": "date-time"}

_SCHEMAS: dict[str, Any] = {
    "Position": {
        "type": "object",
        "required": ["txid", "position"],
        "properties": {"database": {"type": "string"}, "txid": _TXID, "position": _POSITION},
    },
    "Marked": {
        "allOf": [{"$ref": "#/components/schemas/Position"}],
        "properties": {"role": _ROLE, "primary": _NAME},
        "required": ["database", "role", "primary"],
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What is wrong, what was seen, what to do."}},
    },
    "Unmet": {
        "allOf": [{"$ref": "#/components/schemas/Error"}],
        "description": "And where the database is instead.",
        "properties": {
            "database": {"type": "string"},
            "txid": {"type": ["integer", "null"]},
            "position": {"type": ["string", "null"]},
            "role": _ROLE,
            "primary": _NAME,
        },
    },
    "Status": {
        "type": "object",
        "required": ["hostname", "role", "primary", "lag", "replicated", "positions", "sources", "faults"],
        "properties": {
            "hostname": {"type": "string"},
            "role": _ROLE,
            "primary": _NAME,
            "lag": {"type": ["number", "null"], "description": "Seconds since this replica last heard of its primary."},
            "replicated": {"type": ["boolean", "null"], "description": "Whether the first replication is done."},
            "positions": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Position"}},
            "sources": {"type": "object", "description": "How the watcher knows, and whether that is well."},
            "faults": {"type": "object", "additionalProperties": {"type": "string"}},
            "sidecar": {"type": "object"},
        },
    },
    "Event": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "id": {"type": "string", "description": "In a line; a server-sent event has it before its data."},
            "type": {
                "enum": ["status", "tx", "primaryChange", "missed", "alive", "closing"],
                "description": "status: what is true, at first and after missed. tx: database, txid, position, previous. "
                "primaryChange: role, primary, previousRole, previousPrimary. missed: count of events that are gone, or "
                "null where nobody knows. alive: nothing happens. closing: the sidecar ends.",
            },
            "time": _TIME,
        },
    },
    "Health": {
        "type": "object",
        "required": ["ok", "reason"],
        "properties": {"ok": {"type": "boolean"}, "reason": {"type": ["string", "null"]}},
    },
}
_UNMET = ("Unmet", "It did not come within the timeout, or only the primary can tell.")
_WAIT_ANSWERS = {
    200: ("Position", "It is here: where the database is."),
    400: ("Error", "The question can't be meant."),
    408: _UNMET,
    410: ("Unmet", "It is lost: a fail-over has dropped it. It will not come."),
    429: ("Error", "Too many wait: come back after retry-after."),
    503: ("Error", "The directory is not LiteFS's mount, or the sidecar ends."),
}
_HEALTH_SAYS = {
    "livez": "The sidecar answers.",
    "readyz": "It can serve: the role is known, the first replication is done, the lag is under ?lag= (10s).",
    "health": "A primary is known.",
    "primary": "This node is the primary.",
    "replica": "This node follows a primary, with a lag under ?lag=.",
    "read-only": "Either of these two.",
}
_HEALTH_TAKES = {
    "lag": {
        "name": "lag",
        "in": "query",
        "schema": {"type": "string", "examples": ["10s"], "description": "The limit: 500ms, 10s, or a number of seconds."},
    },
    "verbose": {
        "name": "verbose",
        "in": "query",
        "allowEmptyValue": True,
        "schema": {"type": "string", "description": "With the whole status, and who waits."},
    },
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document. Not to be changed."""
    event = {"schema": {"$ref": "#/components/schemas/Event"}}
    streams = {"text/event-stream": event, "application/x-ndjson": event}
    last = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}, "description": "The last that was seen."}
    body = WaitQuestion.model_json_schema(ref_template="#/components/schemas/{model}")
    wait = _operation("Wait until a transaction is here: before a read", _WAIT_ANSWERS)
    sent = {"required": True, "content": {"application/json": {"schema": body}}}
    paths: dict[str, Any] = {
        "/wait": {
            "get": {**wait, "parameters": _parameters(WaitQuestion)},
            "post": {**_with_body(wait), "requestBody": sent},
        },
        "/position": {
            "get": {
                **_operation(
                    "Where a database is, by its file: after COMMIT, to mark a write",
                    {
                        200: ("Marked", "Where it is, and whether this node is the primary."),
                        400: _WAIT_ANSWERS[400],
                        404: ("Error", "There is no such database: which there are."),
                        429: ("Error", "Too many ask: come back after retry-after."),
                        503: ("Error", "LiteFS does not let it be read: read from the primary instead."),
                    },
                ),
                "parameters": _parameters(PositionQuestion),
            }
        },
        "/events": {
            "get": {
                "summary": "Follow transactions and changes of the primary",
                "description": "Server-sent events; with accept: application/x-ndjson one JSON object a line.",
                "parameters": [last],
                "responses": {
                    "200": {"description": "A stream, that ends when the sidecar does.", "content": streams},
                    **_answers(
                        {429: ("Error", "Too many follow: come back after retry-after."), 503: ("Error", "It ends.")}
                    ),
                },
            }
        },
        "/status": {
            "get": _operation(
                "All that is known", {200: ("Status", "As of one moment."), 503: ("Error", "The watcher does not run.")}
            )
        },
        "/metrics": {
            "get": {
                "summary": "For Prometheus",
                "responses": {
                    "200": {"description": "Its text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    **_answers({501: ("Error", "prometheus-client is not installed.")}),
                },
            }
        },
    }
    for name in CHECKS:
        answers = {200: ("Health", "Yes."), 400: _WAIT_ANSWERS[400], 503: ("Health", "No, and why.")}
        parameters = [_HEALTH_TAKES[parameter] for parameter in PARAMETERS.get(name, ())]
        paths[f"/{name}"] = {"get": {**_operation(_HEALTH_SAYS[name], answers), "parameters": parameters}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "litefs-watch serve",
            "version": __version__,
            "description": "What this node of LiteFS knows: wait before a read, mark a write, follow changes.",
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Where the sidecar has one."}},
        },
    }


def _operation(summary: str, answers: dict[int, tuple[str, str]]) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(answers)}


def _with_body(operation: dict[str, Any]) -> dict[str, Any]:
    more = {413: ("Error", "The body is too large."), 415: ("Error", "The body is not application/json.")}
    return {**operation, "responses": {**operation["responses"], **_answers(more)}}


def _answers(answers: dict[int, tuple[str, str]]) -> dict[str, Any]:
    return {
        str(status): {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
        for status, (schema, text) in answers.items()
    }


def _parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    found = []
    for name, field in model.model_json_schema()["properties"].items():
        schema = {key: value for key, value in field.items() if key != "title"}
        found.append({"name": name, "in": "query", "schema": schema})
    return found


STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 0; font-size: 1.1rem; } h2 code { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th { width: 8rem; }
th { text-align: left; font-weight: normal; white-space: nowrap; vertical-align: top; padding: .15rem 1rem .15rem 0; }
td { padding: .15rem 0; } p { margin: .3rem 0; } pre { overflow-x: auto; }
"""


def page(record: dict[str, Any]) -> str:
    """The document as HTML."""
    info = record["info"]
    parts = [part for path, methods in record["paths"].items() for part in _section(path, methods)]
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style>\n"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>\n<p>{escape(info['description'])}\n"
        f"<p>The same for machines: <a href=openapi.json>openapi.json</a>. What is true now: <a href=status>status</a>. "
        f"With a token: <code>authorization: Bearer TOKEN</code>.\n{''.join(parts)}</html>\n"
    )


def _section(path: str, methods: dict[str, Any]) -> Iterator[str]:
    operation = methods["get"]
    names = ", ".join(name.upper() for name in methods)
    yield f"<h2><code>{names} {escape(path)}</code></h2>\n<p>{escape(operation['summary'])}\n"
    if "description" in operation:
        yield f"<p>{escape(operation['description'])}\n"
    rows = [
        (parameter["name"], parameter.get("description") or _described(parameter["schema"]))
        for parameter in operation.get("parameters", ())
    ]
    answers: dict[str, Any] = {}
    for each in methods.values():
        answers |= each["responses"]
    rows += [(status, answers[status]["description"]) for status in sorted(answers)]
    cells = "".join(f"<tr><th><code>{escape(name)}</code><td>{escape(text)}" for name, text in rows)
    yield f"<table>{cells}</table>\n"


def _described(schema: dict[str, Any]) -> str:
    """A parameter in words; pydantic puts what may be left out into one of two."""
    first = schema.get("anyOf", [schema])[0]
    examples = ", ".join(json.dumps(example).strip('"') for example in first.get("examples", ()))
    default = schema.get("default")
    return " ".join(
        part
        for part in (
            first.get("description", ""),
            f"For example {examples}." if examples else "",
            f"Without it: {default:g}." if isinstance(default, float) else "",
        )
        if part
    )
