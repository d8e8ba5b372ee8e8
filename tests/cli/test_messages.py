"""What the command says where it was called wrongly: in its own words, and with what may be meant."""

from __future__ import annotations

import pytest

from litefs_watch import WaitTimeout
from litefs_watch.cli.app import run
from litefs_watch.cli.options import in_options, options_for_keywords


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("statsu", "No such command 'statsu'; did you mean 'status'? (see litefs-watch --help)"),
        ("whille-primary", "No such command 'whille-primary'; did you mean 'while-primary'?"),
        ("xyzzy", "No such command 'xyzzy' (see"),
        ("status --databse x", "'--database'"),
        ("status", "LITEFS_DIR is not set: set it (or --dir) to the directory where LiteFS is mounted"),
        ("status --dir /x --database a/b", "--database: a database is a file name in LITEFS_DIR, without a path, not 'a/b'"),
        ("status --dir /x --api-url ftp://x", "--api-url: 'ftp://x' is not an address like http://localhost:20202"),
        ("wait nine --dir /x -d app.db", "'nine' is no TXID: a whole number from 0 to 2^64-1"),
        ("wait 9 --dir /x", "which database? set DATABASE_FILENAME (or --database)\n"),
        ("wait 9 --dir /x -d app.db --timeout nan", "nan is no number of seconds"),
        ("run --dir /x", "Missing argument '-- COMMAND [ARGUMENT]...'"),
        ("while-primary --dir /x -- no-such-command", "no-such-command: no such command"),
    ],
)
def test_a_call_that_is_wrong(
    words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr: what was seen, and what to write instead; none of Python's names."""
    for name in ("LITEFS_DIR", "DATABASE_FILENAME", "LITEFS_API_URL", "LITEFS_STANDALONE"):
        monkeypatch.delenv(name, raising=False)
    assert run(words.split()) in (2, 127)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not any(name in err for name in ("litefs_dir", "api_url", "data_dir", "standalone=", "=)"))


def test_what_others_say_is_in_options_too() -> None:
    """Sources, the log: what is no option has its variable alone. Nothing else of it is touched."""
    assert options_for_keywords("set LITEFS_API_URL (api_url=), or LITEFS_PEERS, to it") == (
        "set LITEFS_API_URL (--api-url), or LITEFS_PEERS, to it"
    )
    assert options_for_keywords("set LITEFS_PEERS (or peers=) to them") == "set LITEFS_PEERS to them"
    assert options_for_keywords("database: lost (x=1), f(y=)") == "database: lost (x=1), f(y=)"


def test_a_wait_in_vain_is_told_in_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what a source says, on one line; and no more than the variable where there is no option."""

    def late(arguments: list[str]) -> int:
        raise WaitTimeout("not within 1 s (set LITEFS_API_URL (api_url=),\nor LITEFS_PEERS (or peers=), to it)")

    monkeypatch.setattr("litefs_watch.cli.app._run", late)
    assert run([]) == 124
    assert capsys.readouterr().err == (
        "litefs-watch: not within 1 s (set LITEFS_API_URL (--api-url), or LITEFS_PEERS, to it)\n"
    )


def test_other_errors_stay_as_they_are() -> None:
    """Also those with a colon."""
    assert in_options("app.db: it has not been seen") == "app.db: it has not been seen"
    assert in_options("LITEFS_API_URL: 'x' is no address; None turns it off").endswith("; 'none' turns it off")
