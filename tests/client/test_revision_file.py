"""The file that keeps proved revisions across runs: the rollback that a new run notices, and what the file survives."""

import fcntl
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from keyvault_client import DataKey, InvalidRequest, KeyVault, RolledBack
from keyvault_client.revision_file import RevisionFile, default_path
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.servers import on_ports
from tests.support.shell import Shell
from tests.support.trails import small_files

NAME = "prod/db-password"
ADDRESS = "127.0.0.1:50051"
KEY = DataKey("default", "prod/", b"w", bytes(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keyvault" / "revisions.json"


def entries(path: Path) -> dict[str, int]:
    content: dict[str, dict[str, int]] = json.loads(path.read_text())
    return content["revisions"]


async def test_a_new_run_notices_a_rolled_back_store(path: Path) -> None:
    records = FakeRecordStore()
    async with on_ports(FakeKeyService(), records) as server:
        async with KeyVault(server.address, state_file=path) as first:
            key = await first.generate_key("prod/")
            await first.create(NAME, b"one", key=key)
            old = dict(records.records)
            await first.update(NAME, b"two", key=key)
        records.records.update(old)
        async with KeyVault(server.address, state_file=path) as second:
            with pytest.raises(RolledBack) as rolled:
                await second.read(NAME, key=key)
            assert (rolled.value.revision, rolled.value.seen) == (1, 2)
            with pytest.raises(RolledBack):
                await second.update(NAME, b"three", key=key)
        async with KeyVault(server.address) as without:
            assert (await without.read(NAME, key=key)).plaintext == b"one"


async def test_a_revision_that_was_read_is_kept(path: Path) -> None:
    async with on_ports(FakeKeyService(), FakeRecordStore()) as server:
        async with KeyVault(server.address) as writer:
            key = await writer.generate_key("prod/")
            await writer.create(NAME, b"one", key=key)
        async with KeyVault(server.address, state_file=path) as reader:
            await reader.read(NAME, key=key)
        assert RevisionFile(path, server.address).get(key, NAME) == 1


def test_the_file_is_private_and_shows_no_name(path: Path) -> None:
    previous = os.umask(0)
    try:
        RevisionFile(path, ADDRESS).note(KEY, NAME, 3)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (name,) = entries(path)
    assert len(bytes.fromhex(name)) == 16
    assert NAME not in path.read_text()


def test_a_revision_only_rises(path: Path) -> None:
    for revision in (3, 5, 4):
        RevisionFile(path, ADDRESS).note(KEY, NAME, revision)
    assert RevisionFile(path, ADDRESS).get(KEY, NAME) == 5


def test_each_server_key_tenant_and_name_is_apart(path: Path) -> None:
    RevisionFile(path, ADDRESS).note(KEY, NAME, 3)
    for address, key, name in (
        ("127.0.0.1:50052", KEY, NAME),
        (ADDRESS, DataKey("other", "prod/", b"w", bytes(32)), NAME),
        (ADDRESS, DataKey("default", "prod/", b"w", bytes([1]) * 32), NAME),
        (ADDRESS, KEY, "prod/other"),
    ):
        assert RevisionFile(path, address).get(key, name) == 0
    rewrapped = DataKey("default", "prod/", b"rewrapped", bytes(32))
    assert RevisionFile(path, ADDRESS).get(rewrapped, NAME) == 3


def test_the_names_used_longest_ago_are_forgotten(path: Path) -> None:
    file = RevisionFile(path, ADDRESS, max_entries=2)
    for name, revision in (("prod/a", 1), ("prod/b", 1), ("prod/a", 2), ("prod/c", 1)):
        file.note(KEY, name, revision)
    assert [RevisionFile(path, ADDRESS).get(KEY, name) for name in ("prod/a", "prod/b", "prod/c")] == [2, 0, 1]


INVALID = [
    b"",
    b"{}",
    b"[]",
    b"[" * 100_000,
    b'{"revisions": {"a": "1"}}',
    b'{"revisions": {"a": 0}}',
    b"\xff",
    b" " * 5_000_000,
]


@pytest.mark.parametrize("content", INVALID, ids=lambda content: repr(content[:24]))
def test_invalid_content_is_refused_before_the_call(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="not a file of revisions: remove it"):
        RevisionFile(path, ADDRESS).get(KEY, NAME)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    file = RevisionFile(tmp_path / "file" / "revisions.json", ADDRESS)
    assert file.get(KEY, NAME) == 0
    for revision in (1, 2):
        file.note(KEY, NAME, revision)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a rolled back store may go unnoticed" in caplog.text


def test_a_full_disk_is_reported_with_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_files(size=10):
        RevisionFile(path, ADDRESS).note(KEY, NAME, 1)
    assert f"{path}: File too large" in caplog.text


def test_a_lock_that_is_never_released_is_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyvault_client.file_locks.LOCK_SECONDS", 0.05)
    path.parent.mkdir(parents=True)
    with Path(f"{path}.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        RevisionFile(path, ADDRESS).note(KEY, NAME, 1)
    assert "locked by another run" in caplog.text
    assert not path.exists()


def test_a_run_that_was_killed_leaves_nothing_in_the_way(path: Path) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}.new").write_bytes(b'{"rev')
    RevisionFile(path, ADDRESS).note(KEY, NAME, 1)
    assert RevisionFile(path, ADDRESS).get(KEY, NAME) == 1
    assert not Path(f"{path}.new").exists()


def _note_many(path: Path, names: range) -> None:
    for number in names:
        RevisionFile(path, ADDRESS).note(KEY, f"prod/{number}", 1)


@pytest.mark.process
@pytest.mark.slow
def test_runs_at_the_same_time_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=_note_many, args=(path, range(start, start + 20))) for start in (0, 20, 40)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert len(entries(path)) == 60


def test_the_default_path_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for state in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert default_path() == tmp_path / ".local/state/keyvault/revisions.json"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    assert default_path() == tmp_path / "own/keyvault/revisions.json"


def test_without_a_home_there_is_no_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_path() is None


@pytest.mark.slow
def test_the_command_keeps_revisions_by_default(shell: Shell) -> None:
    kept = shell.directory / "own/keyvault/revisions.json"
    shell.environment |= {"XDG_STATE_HOME": str(shell.directory / "own")}
    shell.ok("generate-key prod/", out="prod.key")
    shell.ok("create prod/state --key prod.key", b"1")  # the tests' environment has KEYVAULT_STATE=
    del shell.environment["KEYVAULT_STATE"]
    shell.ok("read prod/state --key prod.key --no-state")
    assert not kept.exists()
    shell.ok("update prod/state --key prod.key", b"2")
    ((name, revision),) = entries(kept).items()
    assert revision == 2
    kept.write_text(json.dumps({"revisions": {name: 9}}))
    assert "has seen revision 9: the store was rolled back" in shell.refused("read prod/state --key prod.key")
    assert shell.ok("read prod/state --key prod.key --state other.json") == b"2"
    kept.write_text("{}")
    assert "not a file of revisions" in shell.refused("read prod/state --key prod.key", status=2)


def test_a_state_that_cannot_be_kept_fails_no_command(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    (shell.directory / "file").touch()
    shell.environment |= {"KEYVAULT_STATE": "file/revisions.json"}
    done = shell.run("create prod/no-state --key prod.key", b"1")
    assert done.returncode == 0
    assert done.stderr.startswith(b"cannot keep revisions across runs, a rolled back store may go unnoticed: file: ")
    assert done.stderr.count(b"\n") == 1
