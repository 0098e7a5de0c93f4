"""The rotation of many records: one that fails stops no other, and a run that ends early knows what is done."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from keyvault_client import DataKey, KeyRing, KeyVault, Unavailable
from keyvault_client.cli_rotate import rewrap
from keyvault_client.file_locks import locked_folder
from keyvault_client.new_keys import NewKeyEach, NewKeyInFolder
from keyvault_client.rotation import Survey, rotate, survey


class Keys:
    """One new key for all records; to make it for one name takes for ever, or fails."""

    def __init__(self, key: DataKey, stuck: str = "", failing: str = "") -> None:
        self.key = key
        self.stuck = stuck
        self.failing = failing

    async def begin(self, rotated: Iterable[str]) -> None: ...

    def find(self, key_id: str) -> DataKey | None:
        return self.key

    async def make(self, key_id: str) -> DataKey:
        if key_id == self.stuck:
            await asyncio.Event().wait()
        if key_id == self.failing:
            raise OSError(28, "No space left on device", "new.key")
        return self.key

    def rotated(self, key_id: str) -> None: ...

    def finish(self) -> list[Path]:
        return []


@pytest.fixture
async def old(vault: KeyVault) -> DataKey:
    """The key of nine records."""
    old = await vault.generate_key("prod/")
    for number in range(9):
        await vault.create(f"prod/{number}", b"%d" % number, key=old)
    return old


NAMES = [f"prod/{number}" for number in range(9)]


async def test_each_record_is_found_under_its_key(vault: KeyVault, old: DataKey) -> None:
    new, other = await vault.generate_key("prod/"), await vault.generate_key("prod/")
    await vault.rotate_key("prod/1", key=old, new_key=new)
    await vault.rotate_key("prod/2", key=old, new_key=other)
    await vault.delete("prod/3", key=old)
    found = await survey(vault, [*NAMES[:5], "dev/x"], old, Keys(new))
    assert (found.old, found.new, found.other) == (["prod/0", "prod/4"], ["prod/1"], ["prod/2"])
    assert list(found.failed) == ["dev/x"]


async def test_one_records_failure_stops_no_other(vault: KeyVault, old: DataKey) -> None:
    new, other = await vault.generate_key("prod/"), await vault.generate_key("prod/")
    found = Survey(old=list(NAMES))
    await vault.rotate_key("prod/2", key=old, new_key=other)
    await vault.delete("prod/3", key=old)
    steps: list[None] = []
    await rotate(vault, found, old, Keys(new), lambda: steps.append(None))
    assert (found.old, sorted(found.new)) == ([], [name for name in NAMES if name not in ("prod/2", "prod/3")])
    assert list(found.failed) == ["prod/2"]
    assert "another key" in found.failed["prod/2"]
    assert len(steps) == len(NAMES)


@pytest.mark.medium
async def test_what_would_fail_for_each_record_ends_the_run(vault: KeyVault, old: DataKey) -> None:
    found, keys = Survey(old=list(NAMES)), Keys(await vault.generate_key("prod/"), failing="prod/4")
    with pytest.raises(OSError, match="No space left"):
        await rotate(vault, found, old, keys, lambda: None)
    assert "prod/4" in found.old
    async with KeyVault("127.0.0.1:1", timeout=0.5) as nowhere:
        with pytest.raises(Unavailable):
            await rotate(nowhere, found, old, Keys(keys.key), lambda: None)


async def test_a_cancelled_run_knows_what_is_done(vault: KeyVault, old: DataKey) -> None:
    """Ctrl-C in the command. The next run asks the server."""
    new, done = await vault.generate_key("prod/"), asyncio.Semaphore(0)
    found = Survey(old=list(NAMES))
    running = asyncio.create_task(rotate(vault, found, old, Keys(new, stuck="prod/0"), done.release))
    for _ in NAMES[1:]:
        await done.acquire()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (found.old, sorted(found.new)) == (["prod/0"], NAMES[1:])
    again = await survey(vault, NAMES, old, Keys(new))
    assert (again.old, again.new) == (["prod/0"], NAMES[1:])


async def test_rewrapping_leaves_a_key_that_was_rotated(vault: KeyVault, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    old, new = await vault.generate_key("prod/"), await vault.generate_key("prod/")
    path = ring.save(old)
    stored, done, failed = ring.entries(), list[str](), dict[str, str]()
    new.save(tmp_path / "prod.key.new")
    NewKeyInFolder(vault, "prod/", old, ring).finish()
    await rewrap(vault, stored, done, failed)
    assert DataKey.load(path) == new
    assert (done, list(failed)) == ([], [str(path)])


async def test_keys_are_not_exchanged_while_another_run_does_that(
    vault: KeyVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyvault_client.file_locks.LOCK_SECONDS", 0.02)
    ring = KeyRing(tmp_path)
    old, new = await vault.generate_key("prod/"), await vault.generate_key("prod/")
    path = ring.save(old)
    new.save(tmp_path / "prod.key.new")
    with locked_folder(tmp_path), pytest.raises(OSError, match="locked by another run"):
        NewKeyInFolder(vault, "prod/", old, ring).finish()
    assert DataKey.load(path) == old


async def test_an_old_key_that_was_rewrapped_is_retired(vault: KeyVault, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    old = await vault.generate_key("prod/")
    path = ring.save(old)
    keys = NewKeyEach(vault, "prod/", old, ring)
    (await vault.rewrap_key(old)).replace(path)
    assert keys.finish() == [tmp_path, path.with_name("prod%2F.key.old")]
    assert "prod/" not in KeyRing(tmp_path)
