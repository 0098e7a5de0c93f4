"""A sweep removes the copies that no Read can return, and never another one, whatever happens while it runs."""

import os
from dataclasses import replace

import pytest

from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.core.ports import CopyName
from keyvault_server.core.purge import purge
from keyvault_server.core.sweep import Swept, sweep
from tests.support.refusals import refused
from tests.support.requests import Key
from tests.support.world import CALLER, NAME, TENANT, World


async def written(revisions: int, history: int = 2) -> tuple[World, Key]:
    world = World(history)
    key = await world.mint()
    await world.create(key)
    for revision in range(2, revisions + 1):
        await world.update(key, revision)
    return world, key


def leave(world: World, revision: int, name: str = NAME) -> CopyName:
    """Leave a copy as a late writer does; one that a Read believes cannot be made up."""
    left = CopyName(TENANT, name, revision)
    world.records.copies.setdefault(left, os.urandom(100))
    return left


async def test_what_cannot_be_read_is_removed_and_nothing_else() -> None:
    world, _ = await written(6)
    needed = set(world.records.copies)
    assert {name.revision for name in needed} == {4, 5}
    for revision in (1, 2, 3, 6, 7):
        leave(world, revision)
    assert await sweep(world.records) == Swept(copies=7, removed=3)
    assert set(world.records.copies) == {*needed, leave(world, 6), leave(world, 7)}
    for revision in (4, 5):
        assert (await world.vault.read(CALLER, NAME, revision=revision)).revision == revision


async def test_the_oldest_readable_copy_stays() -> None:
    """A sweep that took the copy at `since` would take one that a Read needs."""
    world, _ = await written(3, history=1)
    await sweep(world.records)
    assert (await world.vault.read(CALLER, NAME, revision=2)).revision == 2


async def test_a_deleted_record_keeps_no_copy() -> None:
    world, key = await written(4)
    left = [leave(world, revision) for revision in (1, 2, 3, 4)]
    await world.delete(key, 5)
    world.records.copies.update(dict.fromkeys(left, b"late"))
    assert await sweep(world.records) == Swept(copies=4, removed=4)


async def test_a_purged_name_keeps_no_copy_not_even_of_its_revision() -> None:
    """An Update that failed may have written one late."""
    world, _ = await written(4)
    await purge(world.records, CALLER, NAME)
    for revision in (3, 4, 5):
        leave(world, revision)
    assert await sweep(world.records) == Swept(copies=3, removed=2)
    assert list(world.records.copies) == [CopyName(TENANT, NAME, 5)]


async def test_copies_without_a_sound_record_stay_and_are_counted() -> None:
    world, _ = await written(2)
    leave(world, 1, "prod/none")
    leave(world, 1, "prod/corrupt")
    world.records.records[TENANT, "prod/corrupt"] = replace(world.records.records[TENANT, NAME], head=b"")
    assert await sweep(world.records) == Swept(copies=3, unclear=2)
    assert len(world.records.copies) == 3


async def test_only_what_belongs_is_looked_at() -> None:
    world, _ = await written(6)
    leave(world, 1)
    leave(world, 1, "prod/none")
    assert await sweep(world.records, lambda name: name.key_id == "prod/none") == Swept(copies=1, unclear=1)
    assert await sweep(world.records, lambda name: name.key_id == NAME) == Swept(copies=3, removed=1)


async def test_the_head_is_read_after_the_copy_was_seen() -> None:
    """A copy that an Update writes during the sweep is needed as soon as the head has moved."""
    world, key = await written(3)
    world.records.before("get_head", lambda: world.update(key, 4))
    assert (await sweep(world.records)).removed == 0, "removed by the Update itself"
    for revision in (2, 3):
        assert (await world.vault.read(CALLER, NAME, revision=revision)).revision == revision


async def test_a_copy_with_other_bytes_than_those_seen_stays() -> None:
    world, _ = await written(6)
    left = leave(world, 1)

    async def change() -> None:
        world.records.copies[left] = b"other bytes"

    world.records.before("remove_copy", change)
    assert (await sweep(world.records)).removed == 0
    assert world.records.copies[left] == b"other bytes"


async def test_many_copies_are_all_looked_at() -> None:
    world, _ = await written(100)
    for revision in range(1, 60):
        leave(world, revision)
    assert await sweep(world.records) == Swept(copies=61, removed=59)


async def test_a_store_that_fails_ends_the_sweep() -> None:
    world, _ = await written(6)
    world.records.fail_before("get_head", failure := BackendUnavailable())
    assert await refused(sweep(world.records)) is failure


@pytest.mark.parametrize("revisions", [1, 2])
async def test_a_record_without_a_past_has_nothing_to_sweep(revisions: int) -> None:
    world, _ = await written(revisions)
    assert await sweep(world.records) == Swept(copies=revisions - 1)
