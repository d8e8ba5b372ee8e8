"""One request on its way: what is known of it, what the node is, and what may be done with it. Plain values."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from litefs_watch.changes import Role
from litefs_watch.consistency.faults import is_dead_connection, may_belong_elsewhere
from litefs_watch.consistency.tokens import PIN, Token
from litefs_watch.position import Position, Where

if TYPE_CHECKING:
    from litefs_watch.consistency.policy import Policy

HURRIED = 0.1
"""The part of its time that a request has which is one too many, where each that waits takes a thread."""

SCOPE_KEY = "litefs_watch.exchange"
"""Where the `Exchange` is: in an ASGI scope, a WSGI environ, or the ``META`` of Django's request."""

Headers = Iterable[tuple[bytes, bytes]]
"""As in an ASGI scope: names in lower case."""


class Node(NamedTuple):
    """This node, as of one moment."""

    role: Role
    primary: str | None
    hostname: str
    position: Position | None
    """Of the database, as last heard."""
    where: Callable[[Token], Where | None]
    """What it can say of a token; None while nothing confirms what it knew."""
    vouched: bool = True
    """Whether what is here is the cluster's: on the primary, and on a replica that follows it."""
    term: int = 0
    """Another number each time that this node may have been reset: somebody else was named as the primary."""
    new: bool = False
    """Whether this primary took over so lately that clients may have pins of the one before."""
    room: bool = True
    """Whether one more request may wait: for its TXID, or, on the primary, for a look."""
    hurried: bool = False
    """Whether it is one too many, and may wait for its TXID for a part of the time only (`HURRIED`)."""
    holds: bool = True
    """Whether one more may be held while no primary is known …"""
    hold_for: float = math.inf
    """… and the seconds that it may be, at most."""
    misplaced: str | None = None
    """Why the directory is not LiteFS's mount, though LiteFS answers: what is written there, nobody replicates."""

    @property
    def standalone(self) -> bool:
        """Whether everything is here, whatever is asked for: there are no other nodes, and nobody needs a token."""
        return self.where(PIN) is Where.HERE

    def has(self, token: Token) -> bool:
        """Whether a token is met. What only the cluster's word tells (a TXID alone, or one from before what is known) is
        not, while nobody vouches for what is here."""
        where = self.where(token)
        if where is Where.HERE:
            return self.vouched or isinstance(token, Position)
        if where is Where.DOUBTED:  # the primary was not replaced: who takes over has a history of its own
            return self.role is Role.PRIMARY
        return where is Where.UNTOLD and self.vouched


class Undone(Exception):
    """The database went back while the request wrote: a fail-over. What it has written is gone, or came after that."""


class Unreplicated(Exception):
    """A write stands here, and too few other nodes have it. ``headers`` are what its response would have carried of ours."""

    def __init__(self, having: int, wanted: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(f"{having} other nodes have it, {wanted} are asked for")
        self.having = having
        self.headers: tuple[tuple[bytes, bytes], ...] = tuple(headers)


class Exchange:
    """A request and its response. Mutable, one for each request, and shared with the handler through `SCOPE_KEY`.

    The defaults are the class's, and there is no ``__init__``: making one costs no more than what is set.
    """

    policy: Policy | None = None
    """Whose it is: set where it begins."""
    each: Sequence[Exchange] = ()
    """Of a request for several databases: what each of them sees."""

    method = "GET"
    headers: Headers = ()

    scheme = "https"
    """Set by the shell when the response starts: what the server says of how it came."""

    asks = False
    """Whether there is anything to `Policy.decide`: a write, or a token."""
    writes = False
    """Whether it must run on the primary: by its method, or by its path."""
    token: Token | None = None
    """What the client says it has seen: of these two the one with the larger TXID; without any, `accepted`."""
    cookie_token: Token | None = None
    header_token: Token | None = None
    accepted: Token | None = None
    """Of a cookie of an older deployment."""
    garbage = False
    """Whether our cookie is there and is no token."""

    found: tuple[object, Where] | None = None
    """Set by the shell: what the disk has said of a token that is from before what the watcher knows, and in which
    `View.era`. In another one it says nothing any more."""

    waited = False
    """Set by the shell when the wait for the TXID is over, however it ended."""
    held = False
    """Set by the shell when the hold for a primary is over, however it ended …"""
    held_for: float = 0.0
    """… and the seconds that it took."""
    asked = False
    """Set by the shell when `Confirm` is over, however it ended …"""
    confirmed = False
    """… and whether that has told that this node is the primary."""

    role: Role | None = None
    """This node's role when the request was let in; None before that."""
    term: int | None = None
    """`Node.term` then …"""
    vouched: bool = True
    """… and `Node.vouched`."""
    unreadable = False
    """Set by the shell when the position that a response should carry could not be read."""
    before: Position | None = None
    """The position when it was let in. What is known may be older than the file, so another request's write may seem to be
    this one's: then its client waits for a transaction that it need not have waited for, and nothing is lost."""
    stale = False
    """Whether it was let in although the TXID had not come."""
    touched: bool = False
    """Whether the response may get headers, even if nothing is marked as written."""

    written = False
    """Set by `mark_written`."""
    late = False
    """Set by the shell when the response starts: this request may commit after that, whatever the position is now."""
    replicated: int | None = None
    """Set by the shell when the response starts: how many other nodes have what it has written, where that is asked for …"""
    wanted: int | None = None
    """… and how many should, where they are too few."""
    spared = False
    """Set by the shell, of one of several databases: the position has not moved, and another one's has. It needs no pin."""
    reset: BaseException | None = None
    """Set when the response starts: this node was reset while the handler ran, to less than the client has seen, or than
    it has written (`Undone`)."""
    error: BaseException | None = None
    """Set by `mark_failed`, and by who sees that the framework turned an exception into a response."""
    refused: BaseException | None = None
    """Set by `refuse`: a write that SQLite has refused, whatever the application makes of it …"""
    shown: bool = False
    """… and whether it has made an error of it, which others see."""

    lost: int | None = None
    """The TXID of a transaction that this client has seen, and that is lost: a fail-over has dropped it."""
    doubted: int | None = None
    """That of one which may be lost: the primary can't tell, since it was given the database after that."""

    admitted: tuple[Role, Position | None] | None = None
    """Set by the shell where nothing was to be decided: role and position when it was let in."""
    looked = False
    """Set by the shell when `Look` is over, however it ended …"""
    after: Position | None = None
    """… and the position that it has read then from the file; None where it could not."""
    committed: int | None = None
    """Of a request that was let in as PRIMARY, and that failed since this node is not any more: what it has committed, if it
    has, is in a transaction up to this one. It is not sent on: it would run twice."""

    halted: bool = False
    """Whether it has held the HALT lock: it may have committed on a node that is no primary. It is not sent on, either."""

    outer: Exchange | None = None
    """Set by the shell: that of a middleware around this one, for another database."""

    started = False
    """Set by the shell when the response has started."""
    answered: BaseException | None = None
    """Set by the shell: the exception whose response was replaced."""

    tells: bool = False
    """Whether there may be something for the log when it is over: of what was refused, or withheld."""
    withheld: Sequence[Callable[[], object]] = ()
    """What tells the log of its error, until it is known whether this stays one."""
    spoken: bool = False
    """Whether that is known."""

    def refuse(self, error: BaseException) -> None:
        """A driver has raised ``error``, a write that SQLite refused."""
        self.refused, self.touched, self.tells = error, True, True

    def halt(self) -> None:
        """It holds the HALT lock."""
        self.halted, self.refused = True, None

    def withhold(self, tell: Callable[[], object]) -> None:
        """Keep back what tells the log of its error."""
        self.withheld, self.tells = (*self.withheld, tell), True

    def speak(self) -> None:
        """Its error stays one: tell of it."""
        self.spoken = True
        withheld, self.withheld = self.withheld, ()
        for tell in withheld:
            tell()

    def hidden_error(self, status: int) -> BaseException | None:
        """The exception behind a response that is about to start: one that was told of, or one that is being handled;
        and what is wrong with any response, however good it looks.

        ``status`` is the response's: an exception that is merely being handled counts behind a server's error only.
        """
        if self.reset is not None:
            return self.reset
        if status < 400:
            return None
        error = self.error or (sys.exception() if status >= 500 else None)
        if self.refused is None:
            return error
        self.shown = True
        return self.refused if error is None else self.blamed(error)

    def may_belong_elsewhere(self, error: BaseException) -> bool:
        """Whether `Policy.failed` is to be asked of an exception: see there. A connection that is dead is of no meaning for
        where a read belongs."""
        return may_belong_elsewhere(error) or (self.writes and is_dead_connection(error))

    def blamed(self, error: BaseException) -> BaseException:
        """What an exception comes of: a write that was refused before, where it says nothing of where this belongs."""
        return error if self.refused is None or self.may_belong_elsewhere(error) else self.refused

    @property
    def wrote(self) -> bool:
        """Whether it has written, or may have, on what was the primary when it was let in."""
        return self.role is Role.PRIMARY and (self.writes or self.written)


@dataclass(frozen=True, slots=True)
class Run:
    """Let the application handle it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the database has ``token``, for at most ``timeout`` seconds; set ``waited``; decide again."""

    token: Token
    timeout: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait until any primary is known, for at most ``timeout`` seconds; set ``held``, and ``held_for``; decide again."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Confirm:
    """Look anew whether this node is the primary, for at most ``timeout`` seconds; set ``asked``, and ``confirmed``; decide
    again."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Look:
    """Look anew whether this node is the primary, for at most ``timeout`` seconds, and then where the database is; set
    ``looked``, and ``after``; decide again."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Replay:
    """Send it to the node ``hostname``, which is safe to print into a header or an address."""

    hostname: str
    hops: int = 1
    """The how-manieth time it is sent on."""
    state: str = ""
    """What travels with it, as `litefs_watch.consistency.hops` writes it; as safe. Empty: nothing."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer 503. ``reason`` is for the client, ``detail`` for the log."""

    reason: str
    detail: str = ""
    status: int = 503
    """500 where nobody knows what has been done."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What it carries, of a request that has been done: nobody is asked to try again."""


Action = Run | Wait | Hold | Confirm | Look | Replay | Refuse
RUN = Run()
