"""Key files: who may read them, how they are replaced, and what a shell's redirection does to them."""

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault_client import DataKey, InvalidRequest
from keyvault_client.file_locks import locked_folder
from keyvault_client.key_files import replace_file, write_private
from keyvault_client.key_folder import save_key
from keyvault_client.terminal import write_key
from tests.support.shell import Shell, in_shell, one_line

KEY = DataKey("default", "prod/", b"wrapped", bytes(32))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    KEY.save(tmp_path / "prod.key")
    return tmp_path / "prod.key"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_a_key_file_that_others_may_use_is_refused(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    with pytest.raises(InvalidRequest, match=f"prod.key has mode {mode:04o}.*chmod go-rwx"):
        DataKey.load(saved)


@needs_root
def test_a_key_file_of_another_user_is_refused(saved: Path) -> None:
    os.chown(saved, 12345, -1)
    with pytest.raises(InvalidRequest, match=r"prod.key belongs to another user \(uid 12345\)"):
        DataKey.load(saved)


@needs_root
def test_a_group_may_use_a_key_file_if_it_is_ours(saved: Path) -> None:
    saved.chmod(0o660)
    os.chown(saved, -1, os.getegid())
    assert DataKey.load(saved) == KEY
    os.chown(saved, -1, 12345)
    with pytest.raises(InvalidRequest, match="others can read or write it"):
        DataKey.load(saved)


def test_a_pipe_may_hold_a_key() -> None:
    reading, writing = os.pipe()
    os.write(writing, KEY.to_json().encode())
    os.close(writing)
    try:
        assert DataKey.load(f"/dev/fd/{reading}") == KEY
    finally:
        os.close(reading)


def test_a_replaced_file_keeps_its_mode_and_its_link(saved: Path, tmp_path: Path) -> None:
    saved.chmod(0o400)
    link = tmp_path / "link.key"
    link.symlink_to("prod.key")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert (saved.read_bytes(), mode_of(saved)) == (b"new", 0o400)
    assert {path.name for path in tmp_path.iterdir()} == {"prod.key", "link.key"}


def test_a_replacement_that_fails_leaves_the_old_file(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        replace_file(saved, b"new")
    assert error.value.filename == str(saved)
    assert DataKey.load(saved) == KEY
    assert [path.name for path in tmp_path.iterdir()] == ["prod.key"]


def test_the_old_file_stays_until_the_new_one_is_on_disk(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    rename, sync = Path.replace, os.fsync

    def traced_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def traced_rename(draft: Path, path: Path) -> Path:
        steps.append("rename")
        return rename(draft, path)

    monkeypatch.setattr(os, "fsync", traced_sync)
    monkeypatch.setattr(Path, "replace", traced_rename)
    replace_file(saved, b"new")
    assert steps == ["file", "rename", "folder"]


def test_an_error_names_the_file_that_the_user_knows(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that became read-only fails the removal of a draft, too."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    attempts: dict[Path, Callable[[], object]] = {
        saved: lambda: replace_file(saved, b"new"),
        tmp_path / "new.key": lambda: KEY.save(tmp_path / "new.key"),
        tmp_path / "prod%2F.key": lambda: save_key(tmp_path, KEY),
        tmp_path / "nosuch" / "file": lambda: write_private(tmp_path / "nosuch" / "file", b"new"),
    }
    for path, attempt in attempts.items():
        with pytest.raises(OSError, match=r"Read-only|No such") as error:
            attempt()
        assert error.value.filename == str(path)


def test_a_key_that_another_program_exchanged_stays(saved: Path) -> None:
    other = DataKey("default", "prod/", b"of a rotation", bytes(32))
    other.replace(saved, old=KEY)
    with pytest.raises(InvalidRequest, match=r"prod\.key: another program has exchanged the key: nothing was written"):
        KEY.replace(saved, old=KEY)
    assert DataKey.load(saved) == other
    saved.unlink()
    with pytest.raises(InvalidRequest, match="another program has exchanged the key"):
        KEY.replace(saved, old=other)
    assert not saved.exists()


def test_a_key_is_not_replaced_while_another_run_does_that(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvault_client.file_locks.LOCK_SECONDS", 0.02)
    with locked_folder(saved.parent), pytest.raises(OSError, match="locked by another run") as error:
        KEY.replace(saved)
    assert error.value.filename == str(saved.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find the folder of a descriptor")
def test_a_redirected_key_is_on_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/dev/fd/{descriptor}").readlink()))
    with (tmp_path / "out.key").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        write_key(KEY, None)
    assert synced == [tmp_path / "out.key", tmp_path]


@pytest.mark.parametrize("command", ["create prod/x", "update prod/x", "seal prod/x --revision 1"])
def test_empty_input_is_refused_unless_asked_for(shell: Shell, command: str) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    message = shell.refused(f"{command} --key prod.key", status=2)
    assert "standard input is empty" in message
    assert "--allow-empty" in message


def test_a_failed_producer_does_not_empty_a_record(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    shell.ok("create prod/kept --key prod.key", b"kept")
    done = in_shell(shell, "false | keyvault update prod/kept --key prod.key")
    assert "standard input is empty" in one_line(done, 2)
    assert shell.ok("read prod/kept --key prod.key") == b"kept"
    shell.ok("update prod/kept --key prod.key --allow-empty")
    assert shell.ok("read prod/kept --key prod.key") == b""


def test_empty_data_can_be_created_and_sealed(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    shell.ok("create prod/empty --key prod.key --allow-empty")
    sealed = shell.ok("seal prod/empty --key prod.key --revision 1 --allow-empty")
    assert shell.ok("open prod/empty --key prod.key", sealed) == b""


@pytest.mark.slow
def test_a_key_is_rewrapped_and_unwrapped_in_place(shell: Shell) -> None:
    shell.ok("generate-key prod/unwrap --save m.key")
    file = shell.directory / "m.key"
    old = DataKey.load(file)
    assert shell.ok("rewrap-key --key m.key --in-place") == b""
    new = DataKey.load(file)
    assert (new.plaintext_key, new.scope) == (old.plaintext_key, old.scope)
    assert new.wrapped_key != old.wrapped_key
    assert mode_of(file) == 0o600
    shell.ok("generate-key prod/unwrap --without-plaintext --save bare.key")
    assert shell.ok("unwrap-key --key bare.key --in-place") == b""
    assert DataKey.load(shell.directory / "bare.key").plaintext_key is not None


@pytest.mark.parametrize("command", ["rewrap-key", "unwrap-key"])
def test_in_place_and_save_exclude_each_other(shell: Shell, command: str) -> None:
    shell.ok("generate-key prod/unwrap --save m.key")
    message = shell.refused(f"{command} --key m.key --in-place --save other.key", status=2)
    assert "--in-place" in message
    assert "--save" in message


def test_output_to_the_keys_own_file_is_refused(shell: Shell) -> None:
    shell.ok("generate-key prod/unwrap --save m.key")
    kept = (shell.directory / "m.key").read_bytes()
    for line in ("rewrap-key", "unwrap-key", "seal prod/unwrap --revision 1", "read prod/unwrap", "open prod/unwrap"):
        done = in_shell(shell, f"echo x | keyvault {line} --key m.key >> m.key")
        message = one_line(done, 2)
        assert "standard output is the key file m.key" in message
        assert (shell.directory / "m.key").read_bytes() == kept
    assert "--in-place" in one_line(in_shell(shell, "keyvault rewrap-key --key m.key > m.key"), 2)


@pytest.mark.parametrize("line", ["generate-key prod/", "rewrap-key --key m.key"])
def test_a_key_does_not_go_to_a_file_that_others_may_open(shell: Shell, line: str) -> None:
    shell.ok("generate-key prod/ --save m.key")
    done = in_shell(shell, f"umask 022; keyvault {line} > open.key")
    message = one_line(done, 1)
    assert "--save" in message
    assert (shell.directory / "open.key").read_bytes() == b""
    closed = in_shell(shell, f"umask 077; keyvault {line} > closed.key")
    assert (closed.returncode, closed.stderr) == (0, b"")
    assert DataKey.load(shell.directory / "closed.key").scope == "prod/"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda file: file.chmod(0o666), id="mode"),
        pytest.param(lambda file: os.chown(file, 12345, -1), id="owner", marks=needs_root),
    ],
)
def test_an_import_refuses_a_planted_key(shell: Shell, spoil: Callable[[Path], None]) -> None:
    shell.ok("generate-key prod/planted --save planted.key")
    spoil(shell.directory / "planted.key")
    record = b'{"data": "iUHv/I2qo0JfDgVnxZ3k4g==", "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'
    message = shell.refused("import-legacy prod/planted --key planted.key", status=2, given=record)
    assert "planted.key" in message
