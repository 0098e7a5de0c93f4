"""`keyvault` with keys in a folder: which key a command takes, `generate-key` and `keys`."""

import json
from pathlib import Path

import pytest

from keyvault_client import DataKey, InvalidRequest, KeyRing
from keyvault_client.key_folder import NEW_SUFFIX
from keyvault_client.key_sources import default_folder, folder_of, open_ring_if_there
from tests.support.shell import Shell, in_shell, one_line

KEY = DataKey("default", "prod/", b"wrapped", bytes(32))


@pytest.fixture
def folder(shell: Shell) -> Path:
    """The user's key folder, empty."""
    del shell.environment["KEYVAULT_KEYS"]  # the tests' environment has KEYVAULT_KEYS=
    shell.environment["XDG_CONFIG_HOME"] = str(shell.directory / "config")
    folder = shell.directory / "config" / "keyvault" / "keys"
    folder.mkdir(parents=True, mode=0o700)
    return folder


@pytest.mark.slow
def test_commands_find_their_key_by_the_name_of_the_record(shell: Shell, folder: Path) -> None:
    saved = shell.ok("generate-key byscope/").decode()
    assert saved == f"saved the key for byscope/ in {folder}/byscope%2F.key\n"
    shell.ok("create byscope/db", b"one")
    shell.ok("update byscope/db", b"two")
    assert shell.ok("read byscope/db") == b"two"
    shell.ok("restore byscope/db --revision 1")
    sealed = shell.ok("seal byscope/db --revision 9", b"offline")
    assert shell.ok("open byscope/db", sealed) == b"offline"
    waiting = folder / f"new{NEW_SUFFIX}"
    shell.ok(f"generate-key byscope/db --save {waiting}")
    shell.ok(f"rotate-key byscope/db --new-key {waiting}")
    assert shell.ok("read byscope/db") == b"one"
    waiting.rename(folder / "new.key")
    shell.ok("delete byscope/db")


@pytest.mark.slow
def test_a_key_file_overrides_a_variable_and_both_the_folder(shell: Shell, folder: Path) -> None:
    for name in ("one", "two"):
        shell.ok(f"generate-key override/ --save {name}.key")
    shell.ok("generate-key override/")
    shell.ok("create override/db --key one.key", b"1")
    assert f"tried {folder}" in shell.refused("read override/db")
    shell.environment["KEYVAULT_KEY"] = "one.key"
    assert shell.ok("read override/db") == b"1"
    assert "another key" in shell.refused("read override/db --key two.key")


def test_a_key_goes_to_the_folder_unless_asked_otherwise(shell: Shell, folder: Path) -> None:
    """A second one of the same scope is refused: which one a record needs would be a guess."""
    shell.ok("generate-key where/")
    message = shell.refused("generate-key where/")
    assert f"{folder}/where%2F.key: has a key for where/ already" in message
    assert DataKey.from_json(shell.ok("generate-key where/ --stdout")).scope == "where/"
    assert "exclude each other" in shell.refused("generate-key where/ --stdout --save a.key", status=2)
    shell.environment["KEYVAULT_KEYS"] = ""
    assert DataKey.from_json(shell.ok("generate-key where/")).scope == "where/", "as without a folder"
    assert [path.name for path in folder.iterdir()] == ["where%2F.key"]


def test_where_a_key_was_saved_is_reported_as_json(shell: Shell, folder: Path) -> None:
    saved = json.loads(shell.ok("generate-key json/ --json"))
    assert saved == {
        "scope": "json/",
        "tenant": "default",
        "file": f"{folder}/json%2F.key",
        "plaintext": True,
        "new": False,
    }
    assert json.loads(shell.ok("generate-key json/ --save b.key.new --json"))["new"] is True
    (folder / "json%2F.key").rename(shell.directory / "mine.key")
    assert json.loads(shell.ok("keys add mine.key --json")) == saved


def test_a_folder_that_is_named_has_to_be_there(shell: Shell) -> None:
    """Or a typing error sends a key to standard output."""
    shell.environment["KEYVAULT_KEYS"] = "absent"
    for line in ("generate-key prod/", "read prod/x", "keys"):
        assert "absent: no such folder: make it" in shell.refused(line, status=2)


def test_keys_are_listed_without_secrets(shell: Shell, folder: Path) -> None:
    ring = KeyRing(folder)
    ring.save(KEY)
    ring.save(DataKey("acme", "dev", b"wrapped", None))
    KEY.save(folder / f"prod{NEW_SUFFIX}")
    assert shell.ok("keys").decode().splitlines() == [
        f"dev  acme  {folder}/dev.key  without plaintext",
        f"prod/  default  {folder}/prod%2F.key",
        f"prod/  default  {folder}/prod.key.new  new key of a rotation",
    ]
    first, *_ = map(json.loads, shell.ok("keys --json").splitlines())
    assert first == {"scope": "dev", "tenant": "acme", "file": f"{folder}/dev.key", "plaintext": False, "new": False}


def test_a_list_of_keys_names_each_file_that_cannot_be_used(shell: Shell, folder: Path) -> None:
    KeyRing(folder).save(KEY)
    for name in ("a.key", "b.key"):
        (folder / name).write_text("")
    done = shell.run("keys")
    assert done.stdout.decode() == f"prod/  default  {folder}/prod%2F.key\n"
    message = one_line(done, 2)
    assert "a.key has mode" in message
    assert "b.key has mode" in message
    assert "a.key has mode" in shell.refused("read prod/x", status=2)


def test_a_key_is_added_to_a_folder_that_is_made(shell: Shell, folder: Path) -> None:
    folder.rmdir()
    KEY.save(shell.directory / "prod.key")
    assert shell.ok("keys add prod.key") == f"saved the key for prod/ in {folder}/prod%2F.key\n".encode()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert KeyRing(folder)["prod/x"] == KEY
    assert "already" in shell.refused("keys add prod.key")


def test_a_name_without_a_key_says_what_to_do(shell: Shell, folder: Path) -> None:
    message = shell.refused("read prod/x", status=2)
    assert f"no key for prod/x in {folder}" in message
    assert "--key" in message
    folder.rmdir()
    message = shell.refused("read prod/x", status=2)
    assert (
        message == f"keyvault: no key for prod/x: give --key FILE, or make the key folder: `mkdir -p -m 700 {folder}`\n"
    )
    shell.environment["KEYVAULT_KEYS"] = ""
    assert "set KEYVAULT_KEYS, which is empty" in shell.refused("read prod/x", status=2)
    assert "set KEYVAULT_KEYS, which is empty" in shell.refused("keys", status=2)


def test_output_to_a_file_in_the_folder_is_refused(shell: Shell, folder: Path) -> None:
    path = KeyRing(folder).save(KEY)
    before = path.read_bytes()
    done = in_shell(shell, f"keyvault read prod/x >> {path}")
    assert "standard output is the key file" in one_line(done, 2)
    assert path.read_bytes() == before


def test_the_folder_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "keyvault" / "keys"
    for invalid in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", invalid)
        monkeypatch.setenv("HOME", "/home/somebody")
        assert default_folder() == Path("/home/somebody/.config/keyvault/keys")


def test_without_a_home_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert open_ring_if_there(None) is None
    with pytest.raises(
        InvalidRequest, match=r"^no key for x: set KEYVAULT_KEYS .* without HOME there is no default one$"
    ):
        folder_of(None, "no key for x:")
