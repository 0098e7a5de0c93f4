"""`keyvault rotate` and `rewrap-keys`: many keys exchanged, and nothing lost whenever the command is killed."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from keyvault_client import DataKey, KeyRing, KeyVault, Record
from keyvault_client.key_folder import NEW_SUFFIX
from keyvault_server.core.ports import WrappedBlob
from keyvault_server.core.wrapped_key import WrappedKey
from tests.support.forks import KILLED_AT
from tests.support.shell import Shell, one_line, without_room

pytestmark = [pytest.mark.process, pytest.mark.slow]

MOST_STEPS = 30


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own, on the shared server."""
    return f"{request.node.name.translate(str.maketrans('[]', '::'))}/"


@pytest.fixture
def folder(shell: Shell) -> Path:
    """The key folder of this shell."""
    folder = shell.directory / "keys"
    folder.mkdir(mode=0o700)
    shell.environment["KEYVAULT_KEYS"] = str(folder)
    return folder


@pytest.fixture
def names(shell: Shell, folder: Path, prefix: str) -> list[str]:
    """Three records of the prefix's key, and one that has a key of its own."""
    names = [f"{prefix}{name}" for name in ("a", "b", "c")]
    asyncio.run(_store(shell, folder, prefix, names))
    return names


async def _store(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    async with KeyVault(shell.environment["KEYVAULT_ADDRESS"], keys=KeyRing(folder)) as vault:
        for scope in (prefix, f"{prefix}own"):
            KeyRing(folder).save(await vault.generate_key(scope))
        for name in names:
            await vault.create(name, name.encode())
        await vault.create(f"{prefix}own", b"own")


async def _read_all(shell: Shell, folder: Path, prefix: str) -> dict[str, bytes]:
    """Read all records of a prefix with the keys that are in the folder."""
    async with KeyVault(shell.environment["KEYVAULT_ADDRESS"], keys=KeyRing(folder)) as vault:
        found = await vault.read_many([one.key_id async for one in vault.list(prefix)])
    assert all(isinstance(result, Record) for result in found.values()), found
    return {name: result.plaintext for name, result in found.items() if isinstance(result, Record)}


def read_all(shell: Shell, folder: Path, prefix: str) -> dict[str, bytes]:
    return asyncio.run(_read_all(shell, folder, prefix))


def content(names: list[str], prefix: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names} | {f"{prefix}own": b"own"}


def test_a_run_without_yes_changes_nothing(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    shown = shell.ok(f"rotate {prefix}").decode().splitlines()
    assert shown == [
        f"records of {prefix}: 3 have the old key, 0 a new key, 1 another key",
        "nothing was changed: give --yes to rotate",
    ]
    report = json.loads(shell.ok(f"rotate {prefix} --json"))
    assert report == {
        "prefix": prefix,
        "old_key": names,
        "new_key": [],
        "other_keys": [f"{prefix}own"],
        "failed": {},
        "saved": [],
        "done": False,
    }
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_new_key_takes_the_place_of_a_leaked_one(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    leaked = KeyRing(folder)[prefix]
    report = json.loads(shell.ok(f"rotate {prefix} --yes --json"))
    assert (report["old_key"], sorted(report["new_key"]), report["failed"]) == ([], names, {})
    new, old = map(Path, report["saved"])
    assert DataKey.load(old) == leaked
    assert DataKey.load(new) == KeyRing(folder)[prefix] != leaked
    assert read_all(shell, folder, prefix) == content(names, prefix)
    assert "another key" in shell.refused(f"read {names[0]} --key {old}")


def test_each_record_gets_a_key_of_its_own(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    """One that has one already counts as done. The leaked key no longer counts, so no record is created under it."""
    shown = shell.ok(f"rotate {prefix} --each --yes").decode().splitlines()
    assert shown[0] == f"records of {prefix}: 0 have the old key, 4 a new key, 0 another key"
    assert shown[1] == f"new keys: {folder}"
    assert list(KeyRing(folder)) == [*names, f"{prefix}own"]
    assert not list(folder.glob(f"*{NEW_SUFFIX}"))
    assert read_all(shell, folder, prefix) == content(names, prefix)
    assert "no key for" in shell.refused(f"create {prefix}new", status=2, given=b"x")


def test_a_single_record_gets_a_key_of_its_own(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    shell.ok(f"rotate {names[0]} --yes")
    assert list(KeyRing(folder)) == [prefix, names[0], f"{prefix}own"]
    assert read_all(shell, folder, prefix) == content(names, prefix)


def test_a_name_without_a_record_gets_no_key(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    before = set(folder.iterdir())
    assert f"no such record: {prefix}typo; nothing was changed" in shell.refused(f"rotate {prefix}typo --yes", status=3)
    assert set(folder.iterdir()) == before


def test_key_files_are_exchanged_without_a_folder(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    """A second run finds nothing to do, with the same new key."""
    old = KeyRing(folder).current(prefix)[0].path
    line = f"rotate {prefix} --key {old} --new-key new.key --yes --json"
    assert sorted(json.loads(shell.ok(line))["new_key"]) == names
    key = (shell.directory / "new.key").read_bytes()
    assert sorted(json.loads(shell.ok(line))["new_key"]) == names
    assert (shell.directory / "new.key").read_bytes() == key
    assert shell.ok(f"read {names[0]} --key new.key") == names[0].encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rotate {prefix} --key {file}", "need --new-key"),
        ("rotate {prefix} --each --new-key new.key", "--each needs"),
        ("rotate {prefix}a --each", "--each needs"),
        ("rotate other/ --key {file} --new-key new.key", "does not cover other/"),
        ("rotate other/", "no key for other/"),
    ],
)
def test_what_cannot_be_rotated_is_refused(shell: Shell, folder: Path, line: str, message: str) -> None:
    key = DataKey("default", "refused/", b"wrapped", bytes(32))
    file = KeyRing(folder).save(key)
    assert message in shell.refused(line.format(prefix="refused/", file=file), status=2)


@pytest.mark.parametrize("options", ["", "--each"])
def test_a_killed_run_loses_nothing(shell: Shell, folder: Path, prefix: str, names: list[str], options: str) -> None:
    """Killed before each change of a file: all records can be read, and the next run goes on where it was."""
    shell.environment["KEYVAULT_STATE"] = "revisions.json"  # whose changes are steps between the records
    line = f"rotate {prefix} --yes {options} --json"
    for step in count(1):
        assert step < MOST_STEPS
        with killed_at(shell, step):
            killed = shell.run(line)
        assert read_all(shell, folder, prefix) == content(names, prefix), step
        if killed.returncode != -signal.SIGKILL:
            break
        done = shell.run(line)
        assert done.returncode == 0 or b"no key for" in done.stderr, "the first run had only to say that it was done"
        assert not list(folder.glob(f"*{NEW_SUFFIX}")), step
        assert read_all(shell, folder, prefix) == content(names, prefix), step
        if options:
            asyncio.run(_share_a_key(shell, folder, prefix, names))
    assert step > 5


async def _share_a_key(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    """Hand all records to a new key of their prefix."""
    async with KeyVault(shell.environment["KEYVAULT_ADDRESS"], keys=KeyRing(folder)) as vault:
        key = await vault.generate_key(prefix)
        for name in names:
            await vault.rotate_key(name, new_key=key)
    for one in KeyRing(folder).entries():
        if one.key.scope in names:
            one.path.unlink()
    KeyRing(folder).save(key)


@contextmanager
def killed_at(shell: Shell, step: int) -> Iterator[None]:
    shell.environment[KILLED_AT] = str(step)
    yield
    del shell.environment[KILLED_AT]


def test_progress_is_shown_on_a_terminal(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    """In a pipe it is not: the other tests see nothing on standard error."""
    with shell.at_terminal(f"rotate {prefix} --yes") as terminal:
        assert terminal.end() == 0
    assert "rotated 0 of 3" in terminal.shown
    assert "rotated 3 of 3\r\x1b[K" in terminal.shown


def test_a_full_disk_ends_a_run_that_says_what_is_left(
    shell: Shell, folder: Path, prefix: str, names: list[str]
) -> None:
    before = sorted(folder.iterdir())
    done = without_room(shell, f"rotate {prefix} --yes")
    left, cause = done.stderr.decode().splitlines()
    assert left == "keyvault: rotated 0 records, 3 are left: give the same command again to go on"
    assert f"{NEW_SUFFIX}: File too large" in cause
    assert (done.returncode, done.stdout) == (1, b"")
    assert sorted(folder.iterdir()) == before
    assert read_all(shell, folder, prefix) == content(names, prefix)


def test_all_keys_of_a_folder_are_rewrapped(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    before = {one.path: one.key for one in KeyRing(folder).entries()}
    assert shell.ok("rewrap-keys") == (f"2 keys in {folder}; nothing was changed: give --yes to rewrap them\n".encode())
    assert {one.path: one.key for one in KeyRing(folder).entries()} == before
    report = json.loads(shell.ok(f"rewrap-keys {folder} --yes --json"))
    assert report == {"folder": str(folder), "keys": 2, "rewrapped": sorted(map(str, before)), "failed": {}}
    after = {one.path: one.key for one in KeyRing(folder).entries()}
    for path, key in before.items():
        assert after[path].plaintext_key == key.plaintext_key
        assert after[path].wrapped_key != key.wrapped_key
    shell.ok(f"update {names[0]}", names[0].encode())
    assert read_all(shell, folder, prefix) == content(names, prefix)


def test_a_killed_rewrapping_loses_no_key(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    for step in count(1):
        with killed_at(shell, step):
            killed = shell.run("rewrap-keys --yes")
        assert read_all(shell, folder, prefix) == content(names, prefix)
        if killed.returncode != -signal.SIGKILL:
            break
    assert step == 3, "a change of a name for each of two keys"
    assert killed.returncode == 0


def test_a_key_of_another_server_is_named_and_left(shell: Shell, folder: Path, prefix: str, names: list[str]) -> None:
    frame = bytes(WrappedKey("zz/", WrappedBlob("elsewhere", bytes(100))))
    path = KeyRing(folder).save(DataKey("default", "zz/", frame, bytes(32)))
    done = shell.run("rewrap-keys --yes")
    assert done.stdout.decode() == f"rewrapped 2 of 3 keys in {folder}\n"
    assert f"1 keys were not rewrapped, {path} first" in one_line(done, 1)
