"""Tokens that name a history: what is served, what waits, what is lost, and what pins."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import Position, Role
from litefs_watch.asgi import LiteFSMiddleware, lost_transaction, mark_written
from litefs_watch.asgi.types import Scope
from litefs_watch.consistency import PIN, Options, Tokens, Verdict, Wait
from litefs_watch.testing.ltx import ltx_file, ltx_name
from litefs_watch.web.waiting import AsyncGate
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, unknown

HERE, AHEAD, ELSEWHERE, UNTOLD = Position(10, 1), Position(12, 1), Position(10, 2), Position(9, 1)


def cookie(token: object) -> list[tuple[str, str]]:
    return [("cookie", f"litefs_pos={token}")]


async def ask(watcher: FakeWatcher, method: str, token: object, handler: Handler | None = None, **options: Any) -> Reply:
    middleware = LiteFSMiddleware(handler or Handler(), watcher.watcher, **options)
    return await call(middleware, method, "/", cookie(token) if token is not None else [])


def put_ltx(data_dir: Path, position: Position) -> None:
    """LiteFS's file of that transaction."""
    folder = data_dir / "dbs" / "app.db" / "ltx"
    folder.mkdir(parents=True)
    before = Position(position.txid - 1, 5)
    (folder / ltx_name(position, before)).write_bytes(ltx_file(position, before, 2))


def not_yet_following() -> FakeWatcher:
    watcher = replica()
    watcher.follows = False
    return watcher


SERVED, WAITS = "served at once", "waits"


@pytest.mark.parametrize(
    ("token", "on_replica", "while_unknown"),
    [
        (HERE, SERVED, SERVED),
        (AHEAD, WAITS, WAITS),
        (ELSEWHERE, WAITS, WAITS),
        (UNTOLD, SERVED, WAITS),
        (10, SERVED, WAITS),
        (12, WAITS, WAITS),
    ],
)
async def test_what_a_read_meets(token: Position | int, on_replica: str, while_unknown: str) -> None:
    """On a replica that follows; while the role is UNKNOWN; and on one that has a primary and does not follow it yet, where
    nothing but a position that is here is known to stay."""
    for watcher, outcome in ((replica(), on_replica), (unknown(), while_unknown), (not_yet_following(), while_unknown)):
        reply = await ask(watcher, "GET", token, hold_writes=0)
        assert (reply.status == 200) == (outcome == SERVED)
        waited = [] if outcome == SERVED else [("tx", token, 0.5)]
        assert watcher.waits == waited


@pytest.mark.parametrize(("token", "status"), [(AHEAD, 200), (ELSEWHERE, 409)])
async def test_another_history_is_never_served(token: Position, status: int) -> None:
    """Not even where stale is better than nothing: it is no older state, it is one that never was."""
    reply = await ask(replica(), "GET", token, on_timeout="stale")
    assert (reply.status, reply.header("litefs-stale")) == (status, "true" if status == 200 else None)


@pytest.mark.parametrize("token", [AHEAD, ELSEWHERE])
async def test_the_primary_says_what_is_lost(token: Position, caplog: pytest.LogCaptureFixture) -> None:
    """In the response, in the log, in the statistics, and to the application; the token is replaced by where it is."""
    watcher, seen = FakeWatcher(), []

    def during(scope: Scope) -> None:
        seen.append((lost_transaction(scope), scope["state"]["litefs_lost"]))

    with caplog.at_level(logging.WARNING):
        reply = await ask(watcher, "GET", token, Handler(during))
    assert (reply.status, reply.header("litefs-lost")) == (200, f"{token.txid:016x}")
    assert (reply.cookie or "").startswith(f"litefs_pos={HERE}; ")
    assert seen == [(token.txid, token.txid)]
    assert watcher.lost == 1
    assert caplog.text.count("is lost") == 1
    assert watcher.waits == [("primary?", 5.0)]


@pytest.mark.parametrize("token", [HERE, UNTOLD, 10, None])
async def test_nothing_else_is_called_lost(token: object) -> None:
    """Nor does the primary wait for it."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "GET", token)
    assert (reply.header("litefs-lost"), reply.cookie, watcher.lost, watcher.waits) == (None, None, 0, [])


async def test_lost_is_what_the_file_says() -> None:
    """The watcher may know less than this very node has handed out a moment ago: nothing is said, nothing replaced."""
    watcher = FakeWatcher()
    watcher.file = Position(12, 1)
    reply = await ask(watcher, "GET", AHEAD)
    assert (reply.status, reply.header("litefs-lost"), reply.cookie) == (200, None, None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_primary_that_is_one_no_longer_says_nothing(method: str) -> None:
    """A node that was frozen believes for a moment that it still is: another history than the client's makes it look."""
    watcher, handler = FakeWatcher(), Handler()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-b")
    reply = await ask(watcher, method, ELSEWHERE, handler)
    assert (reply.status, reply.header("fly-replay"), handler.runs) == (409, "instance=node-b", 0)


@pytest.mark.parametrize("token", [AHEAD, ELSEWHERE, 12])
async def test_who_can_not_tell_whether_it_is_the_primary_calls_nothing_lost(token: Position | int) -> None:
    """Neither where no look tells, nor where so many wait that none can be waited for: it answers 503, and runs nothing."""
    for tells, room, waits in ((False, 10, [("primary?", 5.0)]), (True, 0, [])):
        watcher, handler = FakeWatcher(), Handler()
        watcher.tells = tells
        reply = await ask(watcher, "GET", token, handler, max_waiting=room)
        assert (reply.status, reply.header("litefs-lost"), reply.cookie, handler.runs) == (503, None, None, 0)
        assert watcher.waits == waits


async def test_reads_that_wait_take_no_look_from_the_primary() -> None:
    """A node that takes over while some still wait on it looks whether it is the primary, and refuses nobody for them."""
    middleware = LiteFSMiddleware(Handler(), FakeWatcher().watcher, max_waiting=1)
    assert isinstance(middleware._gate, AsyncGate)
    with middleware._gate.budget.spent_on(Wait(AHEAD, 0.5)):
        assert (await call(middleware, "GET", "/", [("cookie", f"litefs_pos={AHEAD}")])).status == 200


async def test_a_primary_that_is_reset_while_it_is_read_answers_nothing() -> None:
    """What the client had seen was here when its request came, and is not when its answer goes."""
    watcher = FakeWatcher()

    def reset(scope: Scope) -> None:
        watcher.known = Position(9, 7)

    assert (await ask(watcher, "GET", HERE, Handler(reset))).status == 503


async def test_a_primary_that_is_demoted_while_it_tells_of_a_loss_tells_nothing() -> None:
    """It was not the primary whose history counts; the one that is now has its own."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "GET", ELSEWHERE, Handler(lambda scope: watcher.become(Role.REPLICA, "node-b")))
    assert (reply.status, reply.header("litefs-lost"), reply.header("fly-replay")) == (409, None, "instance=node-b")


@pytest.mark.parametrize(("checksum", "lost"), [(UNTOLD.checksum, None), (77, f"{UNTOLD.txid:016x}")])
async def test_what_a_node_no_longer_knows_is_looked_up_on_its_disk(tmp_path: Path, checksum: int, lost: str | None) -> None:
    """LiteFS keeps its transactions for ten minutes: one that is there with another checksum is lost."""
    put_ltx(tmp_path, Position(UNTOLD.txid, checksum))
    for watcher, status in ((FakeWatcher(), 200), (replica(), 200 if lost is None else 409)):
        watcher.data_dir = tmp_path
        reply = await ask(watcher, "GET", UNTOLD)
        assert reply.status == status
        assert reply.header("litefs-lost") == (lost if watcher.role is Role.PRIMARY else None)


async def test_it_is_looked_up_when_the_wait_is_over_too(tmp_path: Path) -> None:
    """Who is held until this node is the primary has not been looked at before."""
    put_ltx(tmp_path, Position(UNTOLD.txid, 77))
    watcher = unknown()
    watcher.data_dir, watcher.confirmed = tmp_path, False

    def take_over() -> None:
        watcher.confirmed = True
        watcher.become(Role.PRIMARY)

    watcher.during = take_over
    assert (await ask(watcher, "GET", UNTOLD)).header("litefs-lost") == f"{UNTOLD.txid:016x}"


async def test_what_was_here_before_a_reset_is_the_primarys_to_judge(tmp_path: Path) -> None:
    """A replica that has a new primary's snapshot can't tell whether its old transactions are in it. Its disk can, where
    there was no snapshot."""
    watcher = replica()
    watcher.replaced = True
    for on_timeout, status in (("replay", 409), ("stale", 409), ("error", 503)):
        assert (await ask(watcher, "GET", UNTOLD, on_timeout=on_timeout)).status == status
    assert watcher.waits == []
    put_ltx(tmp_path, UNTOLD)
    watcher.data_dir = tmp_path
    assert (await ask(watcher, "GET", UNTOLD)).status == 200


async def test_what_the_disk_said_of_a_history_is_nothing_once_there_is_another_one(tmp_path: Path) -> None:
    """It was met by LiteFS's files, and a snapshot removed them while the handler ran."""
    watcher = FakeWatcher(Role.REPLICA, "node-b")
    watcher.replaced, watcher.data_dir = True, tmp_path
    put_ltx(tmp_path, UNTOLD)
    served = await ask(watcher, "GET", UNTOLD)
    assert (served.status, watcher.waits) == (200, [])

    def reset(scope: Scope) -> None:
        watcher.known = Position(20, 8)

    assert (await ask(watcher, "GET", UNTOLD, Handler(reset))).status == 409


async def test_a_gap_in_what_a_replica_has_heard_is_no_reset(tmp_path: Path) -> None:
    """A look has run ahead of the stream while the handler ran: what the disk said of the token before still holds, and the
    disk is not asked again."""
    watcher = replica()
    watcher.data_dir, watcher.era = tmp_path, object()
    put_ltx(tmp_path, UNTOLD)

    def run_ahead(scope: Scope) -> None:
        watcher.known = Position(20, 8)
        watcher.data_dir = None

    assert (await ask(watcher, "GET", UNTOLD, Handler(run_ahead))).status == 200


@pytest.mark.parametrize(("replaced", "status"), [(False, 200), (True, 503)])
async def test_a_gap_in_what_a_primary_has_heard_is_no_reset(tmp_path: Path, replaced: bool, status: int) -> None:
    """Two transactions of its own while the handler ran, of which one look tells: what the disk said of the token holds for
    as long as it leads."""
    watcher = FakeWatcher()
    watcher.data_dir = tmp_path
    put_ltx(tmp_path, UNTOLD)

    def commit_twice(scope: Scope) -> None:
        watcher.known = Position(12, 8)
        watcher.term += replaced

    assert (await ask(watcher, "GET", UNTOLD, Handler(commit_twice))).status == status


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_primary_that_can_not_tell_says_so(method: str, tmp_path: Path) -> None:
    """It was given a snapshot before it took over: once for each token, which it replaces."""
    watcher = FakeWatcher()
    watcher.replaced = True
    watcher.file = Position(11, 1)
    reply = await ask(watcher, method, UNTOLD)
    assert (reply.status, reply.header("litefs-lost"), watcher.waits) == (200, None, [])
    assert reply.header("litefs-doubted") == f"{UNTOLD.txid:016x}"
    assert (reply.cookie or "").startswith(f"litefs_pos={watcher.file}; ")
    put_ltx(tmp_path, UNTOLD)
    watcher.data_dir = tmp_path
    assert (await ask(watcher, "GET", UNTOLD)).header("litefs-doubted") is None


async def test_a_doubt_that_can_not_replace_the_token_is_told_at_the_next_request() -> None:
    """The position is unreadable."""
    watcher = FakeWatcher()
    watcher.replaced, watcher.file = True, OSError("frozen")
    reply = await ask(watcher, "GET", UNTOLD)
    assert (reply.status, reply.header("litefs-doubted"), reply.cookie) == (200, None, None)


async def test_lost_transactions_are_not_logged_each_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A fail-over loses many; all are counted."""
    watcher = FakeWatcher()
    middleware = LiteFSMiddleware(Handler(), watcher.watcher)
    for _ in range(5):
        await call(middleware, "GET", "/", cookie(AHEAD))
    assert (watcher.lost, caplog.text.count("is lost")) == (5, 1)


@pytest.mark.parametrize("after", [Position(7, 3), Position(10, 9), Position(15, 3)])
async def test_who_was_reset_while_the_handler_ran_sends_it_to_the_primary(after: Position) -> None:
    """What was read may be of neither history. The node comes back from a fail-over, and had what the client has seen."""
    watcher = replica()

    def during(scope: Scope) -> None:
        watcher.known, watcher.replaced = after, True

    reply = await ask(watcher, "GET", HERE, Handler(during))
    assert (reply.status, reply.header("fly-replay"), reply.body) == (409, "instance=node-b", b"")


async def test_who_goes_on_while_the_handler_runs_answers() -> None:
    """Newer transactions are no reset; nor is LiteFS's going away, which proves nothing."""
    for after in (Position(11, 3), None):
        watcher = replica()

        def during(scope: Scope, watcher: FakeWatcher = watcher, after: Position | None = after) -> None:
            watcher.known = after or watcher.known
            watcher.confirmed = after is not None

        assert (await ask(watcher, "GET", HERE, Handler(during))).status == 200


# Pins.


@pytest.mark.parametrize("watcher", [replica(), unknown(), not_yet_following()])
async def test_a_pin_is_met_by_the_primary_alone(watcher: FakeWatcher) -> None:
    """Without a wait for what no replica will ever have."""
    watcher.waits.clear()
    reply = await ask(watcher, "GET", "pin", hold_writes=0)
    assert reply.status == (409 if watcher.role is Role.REPLICA else 503)
    assert watcher.waits == []


async def test_a_signed_pin_does_not_wait_either() -> None:
    """However far ahead a signed token may be."""
    watcher = replica()
    token = Options(secret="s").tokens("app.db").encode(PIN)
    assert (await ask(watcher, "GET", token, secret="s")).status == 409
    assert watcher.waits == []


async def test_the_primary_replaces_a_pin() -> None:
    """By where it is when it answers, which has what was written before."""
    reply = await ask(FakeWatcher(), "GET", "pin")
    assert (reply.cookie or "").startswith(f"litefs_pos={HERE}; ")
    assert reply.header("litefs-lost") is None
    assert reply.header("vary") == "cookie"


async def test_a_pin_stays_where_the_position_is_unreadable() -> None:
    """Nothing promises more."""
    watcher = FakeWatcher()
    watcher.file = OSError("frozen")
    assert (await ask(watcher, "GET", "pin")).cookie is None


# Cookies of an older deployment.


async def test_an_older_deployments_cookie_is_read_where_there_is_none_of_ours() -> None:
    """A migration from litefs-js loses nobody's token; ours names a history, and goes first."""
    for headers, waited in (
        ([("cookie", "a=b; txnum=12")], [("tx", 12, 0.5)]),
        ([("cookie", "__txid=000000000000000c")], [("tx", 12, 0.5)]),
        ([("cookie", f"txnum=12; litefs_pos={HERE}")], []),
        ([("cookie", "txnum=x")], []),
        ([("cookie", "other=12")], []),
    ):
        watcher = replica()
        middleware = LiteFSMiddleware(Handler(), watcher.watcher, accept=["txnum", "__txid"])
        assert (await call(middleware, "GET", "/", headers)).cookie is None
        assert watcher.waits == waited


async def test_an_older_deployments_cookie_that_is_lost_is_deleted() -> None:
    """It would be lost once more with each request."""
    middleware = LiteFSMiddleware(Handler(), FakeWatcher().watcher, accept=["txnum"])
    reply = await call(middleware, "GET", "/", [("cookie", "txnum=99")])
    ours, theirs = reply.all("set-cookie")
    assert ours.startswith(f"litefs_pos={HERE}; ")
    assert theirs.startswith("txnum=; Max-Age=0; Path=/")
    assert reply.header("litefs-lost") == f"{99:016x}"


# What a client may send.


@pytest.mark.parametrize(
    ("raw", "token"),
    [
        (str(AHEAD), AHEAD),
        (str(AHEAD).upper(), AHEAD),
        ("12", 12),
        ("000000000000000c", 12),
        ("pin", PIN),
        ("ffffffffffffffff/0000000000000000", Position(2**64 - 1, 0)),
        ("18446744073709551615", PIN),
        ("18446744073709551616", Verdict.GARBAGE),
        ("000000000000000c/", Verdict.GARBAGE),
        ("000000000000000c/12", Verdict.GARBAGE),
        ("000000000000000c/zzzzzzzzzzzzzzzz", Verdict.GARBAGE),
        (f"{AHEAD}\n", Verdict.GARBAGE),
        (f" {AHEAD}", Verdict.GARBAGE),
        (f"{AHEAD}.AAAAAAAAAAAAAAAAAAAAAA", Verdict.GARBAGE),
        ("PIN", Verdict.GARBAGE),
    ],
)
def test_what_is_a_token(raw: str, token: object) -> None:
    """A position, a TXID alone in either way of writing it, a pin; all else is garbage."""
    assert Options().tokens("app.db").decode(raw.encode()) == token


def test_a_signature_is_of_one_database_and_one_cookie() -> None:
    """Another application with the same secret, or another database of this one, takes it for forged."""
    ours = Options(secret="s").tokens("app.db")
    for token in (AHEAD, PIN, 12):
        signed = ours.encode(token).encode()
        assert ours.decode(signed) == token
        assert Options(secret="s").tokens("other.db").decode(signed) is Verdict.FORGED
        assert Options(secret="s", cookie="other").tokens("app.db").decode(signed) is Verdict.FORGED
        hexadecimal = Options(secret="s", cookie_format="hex").tokens("app.db").encode(0x42)
        assert Options(secret="s", cookie_format="decimal").tokens("app.db").decode(hexadecimal.encode()) is Verdict.FORGED
        assert Options(secret="s", cookie="other").accepted("txnum")[1].decode(signed) is Verdict.GARBAGE


def test_a_position_in_a_cookie_of_another_deployment_is_its_txid() -> None:
    """litefs-js and LiteFS's proxy know no more."""
    assert Tokens("txnum", "decimal").encode(AHEAD) == "12"
    assert Tokens("__txid", "hex").encode(AHEAD) == "000000000000000c"


async def test_a_forged_pin_is_ignored() -> None:
    """With a secret, nobody can send a read to the primary by making one up."""
    watcher = replica()
    assert (await ask(watcher, "GET", "pin", secret="s")).status == 200
    assert watcher.waits == []


async def test_a_mark_without_a_position_on_a_replica_pins() -> None:
    """It has written under the HALT lock, and what it wrote is on the primary."""
    watcher = replica()
    watcher.file = OSError("frozen")
    reply = await ask(watcher, "GET", None, Handler(mark_written))
    assert (reply.cookie or "").startswith("litefs_pos=pin; ")


# What changes while the handler runs.


async def test_a_write_whose_database_went_back_is_not_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    """Whether it came before that or after it, nobody knows: no 503, which says that nothing was done."""
    watcher = FakeWatcher()
    watcher.file = Position(8, 7)
    reply = await ask(watcher, "POST", None)
    assert (reply.status, reply.cookie, reply.header("litefs-txid")) == (500, None, None)
    assert "may be lost" in reply.body.decode()
    assert "went back from" in caplog.text


@pytest.mark.parametrize("token", [None, str(Position(10, 1))], ids=["without a token", "with one that is met"])
async def test_nor_is_a_get_that_writes(token: str | None) -> None:
    """As sessions do: nothing is decided of it before it runs, and where the database was then is known all the same."""
    watcher = FakeWatcher()
    watcher.file = Position(8, 7)
    reply = await ask(watcher, "GET", token, Handler(mark_written))
    assert (reply.status, reply.cookie, reply.header("litefs-txid")) == (500, None, None)
    assert "may be lost" in reply.body.decode()


async def test_a_write_whose_node_has_followed_another_one_meanwhile_is_pinned() -> None:
    """What the file says may be of another history, and what was heard last may be too old. Cookies of LiteFS's proxy have
    no pin: they carry what the file says."""
    for options, carried in (({}, "litefs_pos=pin"), ({"cookie": "__txid"}, "__txid=000000000000000e")):
        for role, primary in ((Role.REPLICA, "node-b"), (Role.PRIMARY, None)):
            watcher = FakeWatcher()
            watcher.file = Position(14, 9)

            def follow(scope: Scope, w: FakeWatcher = watcher, role: Role = role, primary: str | None = primary) -> None:
                w.term += 1
                w.become(role, primary)

            reply = await ask(watcher, "POST", None, Handler(follow), **options)
            assert (reply.status, (reply.cookie or "").partition(";")[0]) == (200, carried)


@pytest.mark.parametrize("token", [HERE, UNTOLD, "pin"])
async def test_a_write_that_was_let_in_before_its_node_followed_another_one_says_that_all_may_be_lost(token: Any) -> None:
    """What the client had seen was here when the write was let in; what the answer shows may be of another history."""
    watcher = FakeWatcher()
    watcher.file = Position(14, 9)

    def follow(scope: Scope) -> None:
        watcher.term += 1
        watcher.known = Position(14, 9)

    reply = await ask(watcher, "POST", token, Handler(follow))
    said = "pin" if token == "pin" else f"{token.txid:016x}"
    assert (reply.status, reply.header("litefs-doubted"), reply.header("litefs-txid")) == (200, said, "pin")
    watcher.known = HERE
    reply = await ask(watcher, "POST", HERE, Handler(lambda scope: setattr(watcher, "term", 9)))
    assert reply.header("litefs-doubted") is None


async def test_a_write_on_who_is_the_primary_no_more_is_where_the_file_says() -> None:
    """Until it follows another one it is not reset: a hand-over has begun, or LiteFS has lost its lease."""
    watcher = FakeWatcher()
    watcher.file = Position(14, 9)
    reply = await ask(watcher, "POST", None, Handler(lambda scope: watcher.become(Role.UNKNOWN)))
    assert (reply.status, (reply.cookie or "").partition(";")[0]) == (200, f"litefs_pos={Position(14, 9)}")


READS = {"monotonic": {"monotonic": True}, "own writes": {}}


@pytest.mark.parametrize("options", READS.values(), ids=list(READS))
async def test_a_monotonic_read_tells_the_position_of_what_it_read(options: dict[str, Any]) -> None:
    """Or it goes to the primary: where that is unreadable; where another primary was named meanwhile; where it went back,
    or moved and nobody vouches for it, or for what it was. Without ``monotonic`` nothing is promised of it."""

    def unreadable(watcher: FakeWatcher) -> None:
        watcher.file = OSError("frozen")

    def another_primary(watcher: FakeWatcher) -> None:
        watcher.term += 1

    def reset(watcher: FakeWatcher) -> None:
        watcher.file = Position(9, 9)

    def unvouched(watcher: FakeWatcher) -> None:
        watcher.file, watcher.follows = Position(11, 9), False

    def vouched(watcher: FakeWatcher) -> None:
        watcher.file, watcher.follows = Position(11, 9), True

    for change in (unreadable, another_primary, reset, unvouched, vouched):
        watcher = replica()
        watcher.follows = change is not vouched
        reply = await ask(watcher, "GET", None, Handler(lambda scope, w=watcher, c=change: c(w)), **options)  # type: ignore[misc]
        assert reply.status == (409 if options else 200), change
    watcher = replica()
    watcher.file = Position(11, 1)
    assert (await ask(watcher, "GET", None, **options)).status == 200


async def test_without_events_a_monotonic_read_begins_with_a_look() -> None:
    """What is known is late then: the database was at 12 when it was read, and was reset to 11 while the handler ran."""
    watcher = replica()
    watcher.streaming, watcher.file = False, Position(12, 5)

    def reset(scope: Scope) -> None:
        watcher.file = Position(11, 1)

    assert (await ask(watcher, "GET", HERE, Handler(reset), monotonic=True)).status == 409


async def test_a_new_primary_can_not_tell_what_a_pin_was_for() -> None:
    """The one before may have taken it along. Who has been the primary for as long as a pin lives gave it itself."""
    for since, said in ((float("-inf"), None), (time.monotonic() - 301, None), (time.monotonic() - 100, "pin")):
        watcher = FakeWatcher()
        watcher.since = since
        reply = await ask(watcher, "GET", "pin", max_age=300)
        assert (reply.status, reply.header("litefs-doubted")) == (200, said)
        assert (reply.cookie or "").startswith(f"litefs_pos={HERE}; ")
