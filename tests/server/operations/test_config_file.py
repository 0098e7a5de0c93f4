"""A file of settings: what it has counts after flags and variables, and a mistake in it is one line."""

from pathlib import Path

import pytest

from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.permissions import UnsafeFile
from keyvault_server.operations.config_file import MAX_FILE, BadConfigFile
from keyvault_server.operations.environment import BadSettings, load_settings
from tests.support.forked import operate
from tests.support.pages import texts_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.touch(0o644)
    return path


def refused(file: Path, content: str) -> str:
    """Return the sentence without the path of the file, which it begins with."""
    file.write_text(content)
    with pytest.raises(OperatorError) as error:
        load_settings(file)
    assert str(error.value).startswith(f"{file}: ")
    return str(error.value).replace(f"{file}: ", "")


def test_flags_win_over_variables_and_these_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('listen = "127.0.0.1:1"\ndata = "of the file"\nhistory = 1\n')
    monkeypatch.setenv("KEYVAULT_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("KEYVAULT_DATA", "of a variable")
    settings = load_settings(file, listen="127.0.0.1:3")
    assert (settings.listen, settings.data, settings.history) == ("127.0.0.1:3", Path("of a variable"), 1)


def test_a_variable_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("history = 1\n")
    monkeypatch.setenv("KEYVAULT_CONFIG", str(file))
    assert load_settings().history == 1
    monkeypatch.setenv("KEYVAULT_CONFIG", "")
    with pytest.raises(BadSettings, match="KEYVAULT_CONFIG is empty"):
        load_settings()


def test_the_example_of_the_page_is_taken(file: Path) -> None:
    (example,) = texts_of("docs/settings.md", "toml")
    file.write_text(example)
    settings = load_settings(file)
    assert (settings.history, settings.access_log, settings.unwrap_scopes) == (5, False, ("prod/db",))
    assert settings.socket_mode == 0o660


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("lisen = 1", "unknown setting 'lisen': did you mean listen?"),
        ("KEYVAULT_HISTORY = 1", "unknown setting 'KEYVAULT_HISTORY': did you mean history?"),
        ("[server]\nx = 1", "unknown setting 'server': docs/settings.md lists them all"),
        ('policy = ""', "policy is empty: give it a value, or leave it out"),
        ("socket_mode = 600", 'socket_mode must be a text in quotes, such as "0600"'),
        ("history = 99", "history: Input should be less than or equal to 15"),
        ("history = [1]", "history: Input should be a valid integer"),
        ('policy = "nosuch.toml"', "policy: nosuch.toml: no such file"),
        ("history = ", "not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_mistake_is_named_with_the_file(file: Path, content: str, sentence: str) -> None:
    assert sentence in refused(file, content)


def test_what_is_wrong_in_file_and_variables_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVAULT_LISTNE", "x")
    file.write_text("histroy = 1\n")
    with pytest.raises(BadSettings, match=r"KEYVAULT_LISTNE.*; .*histroy"):
        load_settings(file)


def test_a_file_that_others_can_write_is_refused(file: Path) -> None:
    file.chmod(0o646)
    with pytest.raises(UnsafeFile, match="so others can write it"):
        load_settings(file)


def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    with pytest.raises(BadConfigFile, match="No such file"):
        load_settings(file.with_name("absent"))
    with pytest.raises(BadConfigFile, match="Is a directory"):
        load_settings(file.parent)
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(BadConfigFile, match="larger than"):
        load_settings(file)
    file.write_bytes(b"\xff")
    with pytest.raises(BadConfigFile, match="not TOML"):
        load_settings(file)


@pytest.mark.process
def test_commands_take_the_file(file: Path) -> None:
    file.write_text("history = 3\n")
    for done in (
        operate(["check-config", "--config", file], {}),
        operate(["check-config"], {"KEYVAULT_CONFIG": str(file)}),
    ):
        assert "KEYVAULT_HISTORY=3" in done.stdout.splitlines()
    refused = operate(["serve", "--config", file.with_name("absent.toml")], {})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"keyvault-server: {file.with_name('absent.toml')}: No such file or directory\n"
