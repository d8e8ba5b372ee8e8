from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from litefs_watch import ConfigError, LiteFSWatchError, Settings


def test_the_environment_has_litefs_js_names() -> None:
    """Who comes from litefs-js sets nothing new."""
    settings = Settings.from_env(
        {
            "LITEFS_DIR": "/litefs",
            "DATABASE_FILENAME": "sqlite.db",
            "INTERNAL_PORT": "8080",
            "PORT": "8081",
            "FLY_APP_NAME": "app",
            "FLY_REGION": "ams",
            "FLY_MACHINE_ID": "148e21",
            "LITEFS_API_URL": "http://localhost:9999/",
        }
    )
    assert settings == Settings(
        "/litefs",
        "sqlite.db",
        internal_port=8080,
        app_name="app",
        region="ams",
        hostname="148e21",
        api_url="http://localhost:9999",
    )


def test_port_serves_where_internal_port_is_not_set() -> None:
    """As litefs-js reads them."""
    assert Settings.from_env({"LITEFS_DIR": "/l", "PORT": "3000"}).internal_port == 3000
    assert Settings.from_env({"LITEFS_DIR": "/l", "INTERNAL_PORT": "", "PORT": "3000"}).internal_port == 3000


def test_a_keyword_wins_over_the_environment() -> None:
    """``from_env(database=…)`` overrides DATABASE_FILENAME."""
    assert Settings.from_env({"LITEFS_DIR": "/l", "DATABASE_FILENAME": "a.db"}, database="b.db").database == "b.db"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, os.environ."""
    monkeypatch.setenv("LITEFS_DIR", "/litefs")
    assert Settings.from_env().litefs_dir == Path("/litefs")


def test_a_missing_directory_says_what_to_set_and_names_standalone() -> None:
    """The first error that every newcomer meets."""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({})
    for word in ("LITEFS_DIR", "fuse.dir", "standalone=True", "LITEFS_STANDALONE=1"):
        assert word in str(caught.value)
    assert isinstance(caught.value, LiteFSWatchError)
    assert isinstance(caught.value, ValueError)


def test_standalone_needs_no_directory() -> None:
    """Development without LiteFS."""
    assert Settings.from_env({"LITEFS_STANDALONE": "1"}).standalone
    assert Settings(standalone=True).litefs_dir is None


@pytest.mark.parametrize("url", ["none", "None", "off"])
def test_the_stream_can_be_turned_off(url: str) -> None:
    """LITEFS_API_URL=none."""
    assert Settings.from_env({"LITEFS_DIR": "/l", "LITEFS_API_URL": url}).api_url is None


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"database": "data/app.db"}, "without a path"),
        ({"database": ".."}, "without a path"),
        ({"database": ""}, "without a path"),
        ({"api_url": "https://localhost"}, "plain HTTP"),
        ({"api_url": "localhost:20202"}, "plain HTTP"),
        ({"api_url": "http://localhost:99999"}, "plain HTTP"),
        ({"api_url": "http://local host"}, "plain HTTP"),
        ({"api_url": "http://localhost\r\nx: y"}, "plain HTTP"),
        ({"start_timeout": 6}, "less than or equal to 5"),
        ({"settle": 0}, "greater than 0"),
        ({"silence": float("inf")}, "finite"),
        ({"internal_port": 70000}, "65535"),
        ({"databse": "a.db"}, "databse"),
    ],
)
def test_what_can_not_work_is_a_config_error(options: dict[str, Any], what: str) -> None:
    """Each says what was seen."""
    with pytest.raises(ConfigError, match=what):
        Settings("/litefs", **options)


def test_settings_are_frozen() -> None:
    """One node's settings do not change while it is watched."""
    with pytest.raises(ValueError, match="frozen"):
        Settings("/litefs").database = "b.db"


def test_this_node_is_named_as_litefs_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """hostname, else FLY_MACHINE_ID, else the machine's own."""
    monkeypatch.delenv("FLY_MACHINE_ID", raising=False)
    assert Settings("/l").node_name == socket.gethostname()
    monkeypatch.setenv("FLY_MACHINE_ID", "148e21")
    assert Settings("/l").node_name == "148e21"
    assert Settings("/l", hostname="a").node_name == "a"


def test_a_given_environment_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping without FLY_MACHINE_ID, or with an empty one, means the machine's own name, whatever this process has."""
    monkeypatch.setenv("FLY_MACHINE_ID", "148e21")
    for name in ("DATABASE_FILENAME", "FLY_APP_NAME", "FLY_REGION", "LITEFS_API_URL", "LITEFS_STANDALONE", "PORT"):
        monkeypatch.setenv(name, "elsewhere")
    assert Settings.from_env({"LITEFS_DIR": "/l"}) == Settings("/l", hostname=socket.gethostname())
    for environ in ({"LITEFS_DIR": "/l"}, {"LITEFS_DIR": "/l", "FLY_MACHINE_ID": ""}):
        assert Settings.from_env(environ).node_name == socket.gethostname()
    assert Settings.from_env({"LITEFS_DIR": "/l"}, hostname="a").node_name == "a"
    assert Settings.from_env({"LITEFS_DIR": "/l"}, hostname=None).node_name == socket.gethostname()
    assert Settings.from_env({"LITEFS_DIR": "/l", "FLY_MACHINE_ID": "b"}).node_name == "b"
    for name in ("LITEFS_API_URL", "LITEFS_STANDALONE", "PORT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LITEFS_DIR", "/l")
    assert Settings.from_env().node_name == "148e21"


def test_silence_is_no_shorter_than_the_pause_between_two_looks() -> None:
    """Between two re-reads, a quiet node would be UNKNOWN; the error says what was seen and what to set."""
    for options in ({"idle_interval": 60}, {"silence": 0.5}, {"idle_interval": 60, "silence": 59.9}):
        with pytest.raises(ConfigError, match=r"silence=\S+ is below idle_interval=\S+: .*; set silence= to \d+ "):
            Settings("/l", **options)
    with pytest.raises(ConfigError, match="idle_interval=60"):
        Settings.from_env({"LITEFS_DIR": "/l"}, idle_interval=60)


@pytest.mark.parametrize(
    "options",
    [
        {"silence": 60, "idle_interval": 60},
        {"silence": 0.5, "idle_interval": 0.1},
        {"settle": 10},  # longer than `silence` and `start_timeout`: a new primary counts late, but it counts
        {"blind_interval": 5},  # longer than `idle_interval`: who waits is served by that one
        {"start_timeout": 5, "silence": 1},
        {"start_timeout": 0.001},
    ],
)
def test_what_is_only_slow_is_accepted(options: dict[str, Any]) -> None:
    """It works, and may be what a test wants."""
    assert Settings("/l", **options).model_dump().items() >= options.items()


def test_a_call_without_a_database_needs_a_default() -> None:
    """And says where to set it."""
    with pytest.raises(ConfigError, match="DATABASE_FILENAME"):
        Settings("/l").database_or_default(None)
    assert Settings("/l").database_or_default("a.db") == "a.db"
    assert Settings(standalone=True).database_or_default(None)
    assert Settings("/l", "a.db").database_or_default(None) == "a.db"
    with pytest.raises(ConfigError, match="without a path"):
        Settings("/l", "a.db").database_or_default("../a.db")


def test_peers_are_addresses_or_flys() -> None:
    """One text as in the environment, or a sequence; none is the default."""
    environ = {"LITEFS_DIR": "/l", "LITEFS_PEERS": "http://a:20202, http://b:20202/"}
    assert Settings.from_env(environ).peers == ("http://a:20202", "http://b:20202")
    assert Settings("/l", peers=["http://a:1"]).peers == ("http://a:1",)
    assert Settings.from_env({"LITEFS_DIR": "/l", "LITEFS_PEERS": "fly", "FLY_APP_NAME": "shop"}).peers == "fly"
    assert Settings("/l").peers == ()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"peers": "node-b"}, "'node-b' is not an address like http://localhost:20202"),
        ({"peers": ["http://a:1", "http://a:1/"]}, "each once"),
        ({"peers": [f"http://a:{port}" for port in range(1, 40)]}, "at most 32 addresses"),
        ({"peers": "fly"}, "FLY_APP_NAME"),
        ({"peers": "http://a:1", "api_url": None}, "peers need api_url"),
        ({"peers": 7}, "peers"),
    ],
)
def test_peers_that_cant_work(options: dict[str, Any], reason: str) -> None:
    """Each says what to set."""
    with pytest.raises(ConfigError, match=reason):
        Settings("/l", **options)
