"""The short way into `keyvault read` takes a line as cyclopts does, or leaves it to cyclopts."""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from keyvault_client.cli_app import app
from keyvault_client.cli_key_options import DEFAULT_KEYS
from keyvault_client.cli_quick_read import ADDRESS, TIMEOUT, parse
from keyvault_client.connection_options import DEFAULT_CONNECTION

LEFT = {"revision", "output", "profile", "insecure"}
"""Options of `read` that only cyclopts takes."""
PLAIN = ["prod/db", "--key", "a.key"]
LINES = 80


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files, and a user without a profile."""
    for name in ("a.key", "ca.pem"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("KEYVAULT_", "XDG_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def by_cyclopts(words: Sequence[str]) -> dict[str, Any]:
    """The values of all options. Raises what cyclopts raises for a line that it refuses."""
    _, bound, _ = app.parse_args(["read", *words], exit_on_error=False, print_error=False)
    values = {"key_id": bound.args[0], "raw": False, "json": False} | bound.kwargs
    connection, keys = values.pop("connection", DEFAULT_CONNECTION), values.pop("keys", DEFAULT_KEYS)
    return (
        values
        | {name: getattr(connection, name) for name in connection.__slots__}
        | {"key": keys.key, "keys": keys.keys}
    )


def quickly(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The same, if the line is taken."""
    found = parse(words, environment)
    if found is None:
        return None
    defaults = {name: getattr(DEFAULT_CONNECTION, name) for name in DEFAULT_CONNECTION.__slots__}
    return defaults | {"raw": False, "json": False, "key": None, "keys": None} | found


@pytest.mark.slow
def test_what_is_taken_means_what_it_means_to_cyclopts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of words in a random order, from a fixed seed."""
    chance, taken = random.Random(1), 0
    words = [
        ["--key", "a.key"],
        ["--key", "none.key"],
        ["--keys", "."],
        ["--keys", "none"],
        ["--address", "127.0.0.1:1"],
        ["--timeout", "2.5"],
        ["--timeout", "0"],
        ["--ca", "ca.pem"],
        ["--certificate", "ca.pem", "--private-key", "a.key"],
        ["--token-file", "ca.pem"],
        ["--server-name", "vault.example"],
        ["--state", ""],
        ["--state", "seen.json"],
        ["--tls"],
        ["--raw"],
        ["--json"],
        ["--no-state"],
        ["--no_state"],
        ["prod/more"],
        ["--unknown"],
    ]
    variables = {
        "ADDRESS": "h:1",
        "KEY": "a.key",
        "CA": "ca.pem",
        "TIMEOUT": "7",
        "STATE": "",
        "KEYS": "",
        "CERTIFICATE": "",
    }
    for _ in range(LINES):
        given = [["prod/db"], *chance.sample(words, chance.randint(0, 3))]
        given += [["--key", "a.key"]] if chance.random() < 0.6 else []
        chance.shuffle(given)
        line = [word for group in given for word in group]
        environment = {f"KEYVAULT_{name}": variables[name] for name in chance.sample(list(variables), 2)}
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            if (found := quickly(line, environment)) is not None:
                taken += 1
                assert found == by_cyclopts(line), (line, environment)
    assert taken > LINES / 5


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["prod/db"],
        ["--key", "a.key"],
        [*PLAIN, "--key", "a.key"],
        [*PLAIN, "prod/other"],
        [*PLAIN, "--raw", "--json"],
        [*PLAIN, "--raw=false"],
        [*PLAIN, "--timeout", "-1"],
        [*PLAIN, "--timeout"],
        [*PLAIN, "--help"],
        [*PLAIN, "--certificate", "ca.pem"],
        [*PLAIN, "--server-name", "vault.example"],
        [*PLAIN, "--address", ""],
        [*PLAIN, "--key_id", "x"],
        ["--key-id", "--key", "a.key"],
        ["--", *PLAIN],
        ["-h", "--key", "a.key"],
    ],
    ids=" ".join,
)
def test_a_line_with_something_to_refuse_is_left(words: list[str]) -> None:
    assert parse(words, {}) is None


@pytest.mark.parametrize("name", ["PROFILE", "INSECURE", "ADDRES", "REVISION"])
def test_a_variable_that_is_not_known_leaves_the_line(name: str) -> None:
    assert parse(PLAIN, {"HOME": "/"}) is not None
    assert parse(["prod/db_password-1", *PLAIN[1:]], {}) is not None
    assert parse(PLAIN, {f"KEYVAULT_{name}": "1"}) is None


def test_a_file_of_profiles_leaves_the_line(folder: Path) -> None:
    file = folder / ".config" / "keyvault" / "config.toml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert parse(PLAIN, {}) is None


def test_a_line_without_a_key_is_taken_if_there_is_a_folder(folder: Path) -> None:
    assert parse(["prod/db", "--keys", "."], {}) == {"key_id": "prod/db", "keys": "."}
    assert parse(["prod/db"], {"KEYVAULT_KEYS": str(folder)}) == {"key_id": "prod/db", "keys": str(folder)}
    for line, environment in (([], {"KEYVAULT_KEYS": ""}), (["--keys", "none"], {}), (["--keys", ""], {}), ([], {})):
        assert parse(["prod/db", *line], environment) is None
    (folder / ".config" / "keyvault" / "keys").mkdir(parents=True)
    assert parse(["prod/db"], {}) == {"key_id": "prod/db"}


def test_every_option_is_taken_or_left_on_purpose() -> None:
    found = app["read"].assemble_argument_collection()
    options = {one.name.removeprefix("--").replace("-", "_") for one in found if one.name.startswith("--")}
    samples: dict[str, list[str]] = {
        "timeout": ["1"],
        "state": ["x"],
        "address": ["h:1"],
        "server_name": ["h", "--tls"],
        "keys": ["."],
    }
    files = {"ca", "key", "token_file"}
    for name in options - LEFT - {"certificate", "private_key"}:
        value = ["ca.pem"] if name in files else samples.get(name, [])
        start = ["prod/db"] if name == "key" else PLAIN
        assert parse([*start, f"--{name.replace('_', '-')}", *value], {}) is not None, name
    for name in LEFT:
        assert parse([*PLAIN, f"--{name}", "1"], {}) is None
    assert (DEFAULT_CONNECTION.address, DEFAULT_CONNECTION.timeout) == (ADDRESS, TIMEOUT)
