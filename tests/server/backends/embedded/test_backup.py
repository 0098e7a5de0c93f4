"""An online backup is whole or absent, and never replaces an earlier one."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from keyvault_server.backends.embedded.backup import backup
from keyvault_server.backends.embedded.data_directory import DataDirectory, UnusableData
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.records import Record

BODY = bytes(10_000)


def record(number: int) -> Record:
    return Record(number.to_bytes(72, "big"), bytes(16), number, number, BODY)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.medium
async def test_a_backup_under_load_shows_one_moment(tmp_path: Path) -> None:
    """Of writes that follow each other, it has all up to some one, and at least those answered before it began."""
    directory, target = DataDirectory(tmp_path), tmp_path / "backup"
    async with open_store(directory.database) as store:
        for number in range(200):
            await store.put_if("t", f"n{number}", record(number), None)
        saving = asyncio.create_task(asyncio.to_thread(backup, directory, target))
        number = 200
        while not saving.done():
            await store.put_if("t", f"n{number}", record(number), None)
            number += 1
        saved = await saving
    assert 200 <= saved <= number
    with sqlite3.connect(target) as copy:
        kept = {int(name[1:]) for (name,) in copy.execute("SELECT key_id FROM record")}
    copy.close()
    assert kept == set(range(saved))
    async with open_store(target) as restored:
        assert await restored.get("t", "n0") == record(0)
    assert target.stat().st_mode & 0o777 == 0o600


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    directory, target = DataDirectory(tmp_path), tmp_path / "backup"
    async with open_store(directory.database):
        target.write_text("an earlier one")
        with pytest.raises(UnusableData, match="backup exists: name a new file"):
            backup(directory, target)
    assert target.read_text() == "an earlier one"
    assert names(tmp_path) == ["backup", "records.sqlite3"]


async def test_a_damaged_database_is_not_saved_as_a_backup(tmp_path: Path) -> None:
    directory, target = DataDirectory(tmp_path), tmp_path / "backup"
    async with open_store(directory.database) as store:
        for number in range(50):
            await store.put_if("t", f"n{number}", record(number), None)
    content = bytearray(directory.database.read_bytes())
    for page in range(5, len(content) // 4096):
        content[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    directory.database.write_bytes(content)
    with pytest.raises(UnusableData):
        backup(directory, target)
    assert not target.exists()


async def test_a_database_of_another_format_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.database.write_bytes(bytes(range(256)) * 32)
    with pytest.raises(UnusableData, match="backup failed: file is not a database"):
        backup(directory, tmp_path / "backup")
    assert names(tmp_path) == ["records.sqlite3"]


async def test_a_dangling_link_is_not_replaced_by_a_backup(tmp_path: Path) -> None:
    directory, target = DataDirectory(tmp_path), tmp_path / "backup"
    target.symlink_to("absent")
    async with open_store(directory.database):
        with pytest.raises(UnusableData, match="backup failed: File exists"):
            backup(directory, target)
    assert target.is_symlink()


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match="has no records"):
        backup(DataDirectory(tmp_path / "mistyped"), tmp_path / "backup")


async def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    async with open_store(directory.database):
        with pytest.raises(UnusableData, match="No such file or directory"):
            backup(directory, tmp_path / "absent" / "backup")
