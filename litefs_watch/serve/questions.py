"""What is asked, parsed: the query of a GET, the JSON of a POST. What can't be meant is said, with what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import parse_qsl

import anyio
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema, model_validator
from pydantic_core import from_json
from starlette.requests import Request

from litefs_watch.asgi.types import Receive
from litefs_watch.errors import WireError
from litefs_watch.operate.health import duration
from litefs_watch.position import Position, check_database_name, check_txid, parse_txid
from litefs_watch.printable import did_you_mean, safe
from litefs_watch.serve.endpoints import Refusal

LARGEST_BODY = 4096
"""Bytes."""
BODY_TIMEOUT = 5.0
"""Seconds that the body of a request may take."""
_FIELDS = 8
_SHOWN = 60


def _database(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a database is a file name in LITEFS_DIR, not {_seen(value)}")  # noqa: TRY004 - pydantic's word
    try:
        return check_database_name(value)
    except (ValueError, UnicodeError):
        raise ValueError(f"a database is a file name in LITEFS_DIR, without a path, not {_seen(value)}") from None


def _txid(value: object) -> int:
    try:
        return parse_txid(value) if isinstance(value, str) else check_txid(value)
    except ValueError:
        hint = f": write 0x{value} for LiteFS's hexadecimal" if isinstance(value, str) and _looks_like_hex(value) else ""
        what = "a TXID is a whole number from 0 to 2^64-1, decimal or hexadecimal (0x2a)"
        raise ValueError(f"{what}, not {_seen(value)}{hint}") from None


def _looks_like_hex(text: str) -> bool:
    return len(text) == 16 and all(char in "0123456789abcdefABCDEF" for char in text)


def _position(value: object) -> Position:
    try:
        if isinstance(value, str):
            return Position.parse(value)
    except WireError:
        pass
    raise ValueError(f"a position is LiteFS's text, 16 hexadecimal digits, '/', and 16 more, not {_seen(value)}")


def _seconds(value: object) -> float:
    try:
        if isinstance(value, str):
            return duration(value)
    except ValueError:
        pass
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:  # nan is not
        return float(value)
    raise ValueError(f"a timeout is a number of seconds, or 500ms, 10s, 1m, not {_seen(value)}")


def _seen(value: object) -> str:
    return repr(value if isinstance(value, str | int | float | bool | None) else type(value).__name__)[:_SHOWN]


Database = Annotated[
    str,
    BeforeValidator(_database),
    WithJsonSchema({"type": "string", "maxLength": 250, "examples": ["app.db"], "description": "Its file name. Without it: "
                    "the one that the sidecar was started with."}),
]  # fmt: skip
Txid = Annotated[
    int,
    BeforeValidator(_txid),
    WithJsonSchema({"type": ["integer", "string"], "minimum": 0, "examples": [42, "0x2a"], "description": "A number alone: "
                    "whether the transaction was lost can't be told by it."}),
]  # fmt: skip
WholePosition = Annotated[
    Position,
    BeforeValidator(_position),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{16}/[0-9a-fA-F]{16}$", "examples":
                    ["000000000000002a/9b3c5a1f0e7d2468"], "description": "What /position has answered."}),
]  # fmt: skip
Timeout = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": ["number", "string"], "minimum": 0, "examples": [0.5, "500ms"], "description": "Seconds; the "
                    "sidecar has a limit of its own (--max-timeout)."}),
]  # fmt: skip


class Question(BaseModel):
    """Of one database."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    db: Database | None = None


class PositionQuestion(Question):
    """Of ``/position``."""

    timeout: Timeout = 2.0


class WaitQuestion(Question):
    """Of ``/wait``."""

    txid: Txid | None = None
    position: WholePosition | None = None
    timeout: Timeout = 0.5

    @model_validator(mode="after")
    def _one_of_two(self) -> WaitQuestion:
        if (self.txid is None) == (self.position is None):
            raise ValueError(
                "what is to be waited for? position=, or txid=" + (", not both" if self.txid is not None else "")
            )
        return self

    @property
    def wanted(self) -> int | Position:
        found = self.txid if self.position is None else self.position
        assert found is not None  # noqa: S101 - the validator's word
        return found


class NoQuestion(BaseModel):
    """Of paths that take no parameters."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", defer_build=True)


AskedT = TypeVar("AskedT", bound=BaseModel)


def in_query(model: type[AskedT], request: Request) -> AskedT:
    """What the query asks. Raises `Refusal` (400)."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_FIELDS)
    except ValueError:
        raise Refusal(400, f"more than {_FIELDS} parameters") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refusal(400, "a parameter stands there twice")
    return _checked(model, fields)


async def in_body(model: type[AskedT], request: Request) -> AskedT:
    """What the JSON of the body asks. Raises `Refusal` (400, 413, 415)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a browser's page of elsewhere can't send without asking
        raise Refusal(415, f"the body is to be application/json, not {safe(kind[:_SHOWN]) or 'nothing that is named'}")
    in_query(NoQuestion, request)
    try:
        fields = from_json(await _body(request.receive), allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {safe(str(error)[:200])}") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "the body is to be a JSON object")
    return _checked(model, fields)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    with anyio.move_on_after(BODY_TIMEOUT):
        while more and len(body) <= LARGEST_BODY:
            message = await receive()
            more = message.get("more_body", False)
            body += message.get("body", b"")
    if len(body) > LARGEST_BODY:
        raise Refusal(413, f"the body is larger than {LARGEST_BODY} bytes", {"connection": "close"})
    if more:
        raise Refusal(400, f"the body was not whole after {BODY_TIMEOUT:g} s", {"connection": "close"})
    return body


def _checked(model: type[AskedT], fields: Mapping[str, Any]) -> AskedT:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Refusal(400, "; ".join(_said(model, problem) for problem in error.errors())[:1000]) from None


def _said(model: type[BaseModel], problem: Any) -> str:
    name = ".".join(safe(str(part)[:_SHOWN]) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name} is no parameter of this path{did_you_mean(name, model.model_fields)}"
    message = safe(str(problem["msg"]).removeprefix("Value error, "))
    return f"{name}: {message}" if name else message
