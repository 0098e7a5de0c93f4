"""Profiles: which options a file gives, which win over it, and what is wrong with a file in one line."""

import os
from pathlib import Path
from typing import Any

import pytest

from keyvault_client.cli_app import app
from keyvault_client.cli_key_options import KeyOptions
from keyvault_client.connection_options import ConnectionOptions
from keyvault_client.errors import InvalidRequest
from keyvault_client.profiles import MAX_FILE, OPTIONS, config_file

FILE = """
default_profile = "dev"

[profile.dev]
address = "127.0.0.1:1"

[profile.prod]
address = "vault.example:2"
timeout = 3
ca = "ca.pem"
tls = true
state = "~/state"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("KEYVAULT_STATE", "KEYVAULT_KEYS"):  # which the tests set
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "keyvault" / "config.toml"
    path.parent.mkdir()
    (path.parent / "ca.pem").touch()
    path.write_text(FILE)
    return path


def options(line: str) -> ConnectionOptions:
    """Return the connection options of a command line."""
    _, bound, _ = app.parse_args(f"whoami {line}", exit_on_error=False, print_error=False)
    found: Any = bound.arguments.get("connection", ConnectionOptions())
    assert isinstance(found, ConnectionOptions)
    return found


def test_the_default_profile_gives_what_nothing_else_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options("").address == "127.0.0.1:1"
    monkeypatch.setenv("KEYVAULT_ADDRESS", "127.0.0.1:5")
    assert options("").address == "127.0.0.1:5"
    assert options("--address 127.0.0.1:6").address == "127.0.0.1:6"


def test_a_profile_of_a_variable_yields_to_other_variables(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_PROFILE", "prod")
    monkeypatch.setenv("KEYVAULT_TIMEOUT", "5")
    found = options("")
    assert (found.address, found.timeout, found.tls) == ("vault.example:2", 5.0, True)


def test_a_profile_that_is_typed_wins_over_variables(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_PROFILE", "dev")
    monkeypatch.setenv("KEYVAULT_ADDRESS", "127.0.0.1:5")
    found = options("--profile prod --timeout 4")
    assert (found.address, found.timeout) == ("vault.example:2", 4.0)


def test_paths_begin_at_the_file_or_at_home(file: Path) -> None:
    found = options("--profile prod")
    assert (found.ca, found.state) == (file.parent / "ca.pem", "/home/me/state")


def test_no_file_is_no_profile(file: Path) -> None:
    file.unlink()
    assert options("") == ConnectionOptions()
    with pytest.raises(InvalidRequest, match=r"no profile 'prod': .*config\.toml does not exist"):
        options("--profile prod")


def test_a_file_without_a_default_gives_nothing_by_itself(file: Path) -> None:
    file.write_text('[profile.dev]\naddress = "127.0.0.1:1"\n')
    assert options("") == ConnectionOptions()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[profile.dev]\nadress = 'x'", r"\[profile\.dev\] unknown name 'adress': did you mean address\?"),
        ("[profiles.dev]\naddress = 'x'", r"unknown name 'profiles': did you mean profile\?"),
        ("[profile.dev]\ntoken = 'x'", r"\[profile\.dev\] unknown name 'token': did you mean token_file\?"),
        ("[profile.dev]\ntls = 'yes'", r"\[profile\.dev\] tls: must be true or false"),
        ("[profile.dev]\ntimeout = true", r"\[profile\.dev\] timeout: must be a number"),
        ("[profile.dev]\naddress = 1", r"\[profile\.dev\] address: must be a text in quotes"),
        ("default_profile = 'prod'\n[profile.dev]", r"no profile 'prod' in .*: it has dev"),
        ("default_profile = 'prod'", r"no profile 'prod' in .*: it has none"),
        ("default_profile = 1", "default_profile must be the name of a profile, in quotes"),
        ("profile = 1", r"profile must be tables, such as \[profile\.dev\]"),
        ("profile = ", "not TOML: "),
    ],
)
def test_a_mistake_in_the_file_is_one_line(file: Path, content: str, sentence: str) -> None:
    file.write_text(f"default_profile = 'dev'\n{content}" if content.startswith("[profile.dev") else content)
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        options("")
    assert str(file) in str(refused.value)


def test_a_value_that_cannot_be_used_names_the_file(file: Path) -> None:
    (file.parent / "ca.pem").unlink()
    with pytest.raises(Exception, match=r"config\.toml: \[profile\.prod\] ca"):
        options("--profile prod")
    file.write_text("default_profile = 'dev'\n[profile.dev]\naddress = ''\n")
    with pytest.raises(Exception, match=r"\[profile\.dev\] address is empty: give it a value, or leave it out"):
        options("")


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    file.chmod(0o646)
    with pytest.raises(InvalidRequest, match="so others can write it"):
        options("")


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="not TOML"):
        options("")
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(InvalidRequest, match="larger than"):
        options("")


def test_every_connection_option_can_be_in_a_profile() -> None:
    assert set(OPTIONS) - {"keys"} == set(ConnectionOptions.__dataclass_fields__) - {"profile", "no_state"}


def test_a_profile_names_a_folder_of_keys(file: Path) -> None:
    file.write_text("default_profile = 'dev'\n[profile.dev]\nkeys = 'keys/dev'\n")
    _, bound, _ = app.parse_args("read prod/db", exit_on_error=False, print_error=False)
    assert bound.arguments["keys"] == KeyOptions(keys=str(file.parent / "keys" / "dev"))
    app.parse_args("whoami", exit_on_error=False, print_error=False)


def test_the_file_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert config_file() == Path("/home/me/.config/keyvault/config.toml")


def test_commands_without_a_server_need_no_profile(file: Path) -> None:
    file.write_text("nonsense")
    app.parse_args("inspect", exit_on_error=False, print_error=False)
    assert os.environ["XDG_CONFIG_HOME"]
