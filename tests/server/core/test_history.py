"""Which earlier revisions can be read, through fakes of the two ports: the head alone decides, a copy has to fit it."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from keyvault_api import envelope as kve1
from keyvault_server.core.errors import (
    AuditUnavailable,
    BackendThrottled,
    BackendUnavailable,
    InvalidKeyId,
    InvalidRequest,
    RateLimited,
    RecordCorrupt,
    RecordNotFound,
    RevisionNotFound,
    VaultError,
)
from keyvault_server.core.history import MOST_HELD
from keyvault_server.core.ports import CopyName
from keyvault_server.core.purge import purge
from keyvault_server.core.records import Record, StoredHead, state_of
from keyvault_server.core.vault import Vault
from keyvault_server.rpc.slots import Slots
from tests.support.callers import Unrestricted
from tests.support.refusals import refused
from tests.support.requests import Key
from tests.support.world import CALLER, NAME, TENANT, World


async def written(history: int, revisions: int) -> tuple[World, Key]:
    """A record with so many revisions; the data of each is its number."""
    world = World(history)
    key = await world.mint()
    await world.create(key, data=b"1")
    for revision in range(2, revisions + 1):
        await world.update(key, revision, b"%d" % revision)
    return world, key


async def readable(world: World) -> list[int]:
    """The revisions that ListRevisions names, after each of them was read and no other could be."""
    listed = await world.vault.list_revisions(CALLER, NAME)
    numbers = [one.revision for one in listed]
    for one in listed:
        found = await world.vault.read(CALLER, NAME, revision=one.revision)
        assert found.envelope is not None
        assert (found.revision, found.updated, len(found.envelope)) == one
        assert kve1.parse(found.envelope).revision == one.revision
    for revision in {1, 2, 2**63 - 1, numbers[0] + 1, max(1, numbers[-1] - 1)} - set(numbers):
        missing = await refused(world.vault.read(CALLER, NAME, revision=revision))
        assert type(missing) is RevisionNotFound
        assert missing.metadata == {"current_revision": str(numbers[0])}
    return numbers


@pytest.mark.parametrize(
    ("history", "revisions", "expected"),
    [(0, 1, [1]), (0, 5, [5]), (1, 5, [5, 4]), (3, 3, [3, 2, 1]), (3, 9, [9, 8, 7, 6]), (15, 20, [*range(20, 4, -1)])],
)
async def test_the_last_revisions_can_be_read(history: int, revisions: int, expected: list[int]) -> None:
    world, key = await written(history, revisions)
    assert await readable(world) == expected
    found = await world.vault.read(CALLER, NAME, revision=expected[-1])
    assert found.envelope is not None
    assert key.open(NAME, found.envelope) == b"%d" % expected[-1]
    assert found.created == (await world.vault.read(CALLER, NAME)).created
    assert len(world.records.copies) == len(expected) - 1, "what cannot be read any more is removed"


async def test_without_history_the_store_is_asked_as_before() -> None:
    world, key = await written(0, 3)
    world.records.calls.clear()
    await world.update(key, 4)
    await world.delete(key, 5)
    assert world.records.calls == {"get_head": 2, "put_if": 2}


async def test_readers_do_not_look_at_the_setting() -> None:
    """A replica that keeps none shows what others kept, and its own Update drops it."""
    world, key = await written(10, 4)
    without = World()
    without.keys, without.records = world.keys, world.records
    without.vault = Vault(world.keys, world.records)
    assert await readable(without) == [4, 3, 2, 1]
    await without.update(key, 5)
    assert await readable(world) == [5]
    assert not world.records.copies


async def test_a_smaller_history_keeps_fewer_from_the_next_update_on() -> None:
    world, key = await written(10, 8)
    fewer = World()
    fewer.vault = Vault(world.keys, world.records, history=2)
    assert len(await readable(world)) == 8
    await fewer.update(key, 9)
    assert await readable(world) == [9, 8, 7]
    await world.update(key, 10)
    assert await readable(world) == [10, 9, 8, 7], "a larger history does not bring any back"


async def test_a_rotation_drops_what_another_key_opens() -> None:
    world, key = await written(10, 3)
    new = await world.mint()
    await world.rotation(key, new, 4)()
    assert await readable(world) == [4]
    assert not world.records.copies
    await world.update(new, 5)
    assert await readable(world) == [5, 4]


async def test_a_deleted_record_has_no_revisions() -> None:
    world, key = await written(10, 3)
    await world.delete(key, 4)
    assert not world.records.copies
    calls: list[Awaitable[object]] = [world.vault.list_revisions(CALLER, NAME)]
    calls += [world.vault.read(CALLER, NAME, revision=revision) for revision in (1, 3, 4, 5)]
    for call in calls:
        assert type(await refused(call)) is RecordNotFound
    await world.create(key, 5)
    assert await readable(world) == [5]


async def test_a_purge_drops_the_copies_of_its_name_alone() -> None:
    world, _ = await written(10, 3)
    world.records.copies[CopyName(TENANT, "prod/other", 2)] = b"another's"
    await purge(world.records, CALLER, NAME)
    assert list(world.records.copies) == [CopyName(TENANT, "prod/other", 2)]
    assert type(await refused(world.vault.read(CALLER, NAME, revision=3))) is RecordNotFound


@pytest.mark.parametrize("copy", [None, b"", b"another envelope"])
async def test_a_copy_that_is_missing_or_wrong_is_not_believed(copy: bytes | None) -> None:
    world, _ = await written(10, 3)
    name = CopyName(TENANT, NAME, 2)
    if copy is None:
        del world.records.copies[name]
    else:
        world.records.copies[name] = copy
    corrupt = await refused(world.vault.read(CALLER, NAME, revision=2))
    assert (type(corrupt), corrupt.metadata) == (RecordCorrupt, {"current_revision": "3"})
    assert (await world.vault.read(CALLER, NAME, revision=1)).revision == 1, "the others are not affected"


async def test_a_copy_removed_while_it_is_looked_for_is_not_found() -> None:
    """A second look at the head shows another one, which says that the revision cannot be read any more."""
    world, key = await written(1, 3)
    world.records.before("get_copy", lambda: world.update(key, 4))
    missing = await refused(world.vault.read(CALLER, NAME, revision=2))
    assert (type(missing), missing.metadata) == (RevisionNotFound, {"current_revision": "4"})


async def test_a_record_deleted_during_a_read_is_not_found() -> None:
    world, key = await written(10, 3)
    world.records.before("get_copy", lambda: world.delete(key, 4))
    assert type(await refused(world.vault.read(CALLER, NAME, revision=2))) is RecordNotFound


async def test_an_update_during_a_read_of_the_current_revision() -> None:
    world, key = await written(10, 3)
    world.records.before("get", lambda: world.update(key, 4))
    found = await world.vault.read(CALLER, NAME, revision=3)
    assert found.envelope is not None
    assert key.open(NAME, found.envelope) == b"3"


async def test_the_copy_is_written_before_the_head_moves() -> None:
    world, key = await written(10, 2)

    async def look() -> None:
        assert CopyName(TENANT, NAME, 2) in world.records.copies

    world.records.before("put_if", look)
    await world.update(key, 3)


@pytest.mark.parametrize("failure", [BackendUnavailable(), BackendThrottled()])
async def test_an_update_whose_copy_cannot_be_written_changes_nothing(failure: VaultError) -> None:
    world, key = await written(10, 2)
    world.records.fail_before("keep", failure)
    assert await refused(world.update(key, 3)) is failure
    assert await readable(world) == [2, 1]
    await world.update(key, 3)
    assert await readable(world) == [3, 2, 1]


@pytest.mark.parametrize("failing", ["copy", "intent", "both"])
async def test_a_failed_update_ends_after_its_intent_and_its_copy(failing: str) -> None:
    """Or the audit log's outcome could not refer to the intent, and a copy would be held beyond what is allowed."""
    ended = []

    class Intending(Unrestricted):
        async def intend(self, record: StoredHead, expected: bytes | None) -> None:
            await asyncio.sleep(0.02 if failing == "copy" else 0)
            ended.append("intent")
            if failing != "copy":
                raise AuditUnavailable

    async def keep() -> None:
        await asyncio.sleep(0.02 if failing == "intent" else 0)
        ended.append("copy")
        if failing != "intent":
            raise BackendThrottled

    world, key = await written(10, 2)
    world.records.before("keep", keep)
    failed = await refused(world.vault.update(Intending(TENANT), NAME, key.wrapped, key.seal(NAME, 3)))
    assert type(failed) is (AuditUnavailable if failing == "intent" else BackendThrottled)
    assert sorted(ended) == ["copy", "intent"]
    assert await readable(world) == [2, 1]


async def test_few_updates_hold_what_they_replace_at_a_time() -> None:
    """It is of the largest size whatever the caller sends: without a limit, small requests would take much memory."""
    world, _ = await written(10, 1)
    world.vault = Vault(world.keys, world.records, history=10, holding=Slots(MOST_HELD))
    names = [f"{NAME}/{number}" for number in range(MOST_HELD + 8)]
    keys = [await world.mint(name) for name in names]
    for name, one in zip(names, keys, strict=True):
        await world.create(one, name=name)
    world.records.calls.clear()
    release = asyncio.Event()
    for _ in names:
        world.keys.before("unwrap", release.wait)
    updates = [
        asyncio.create_task(world.vault.update(CALLER, name, one.wrapped, one.seal(name, 2)))
        for name, one in zip(names, keys, strict=True)
    ]
    await asyncio.sleep(0.01)
    assert world.records.calls == {"get": MOST_HELD}
    await world.vault.read(CALLER, NAME)
    release.set()
    assert {done.revision for done in await asyncio.gather(*updates)} == {2}


async def test_an_update_does_not_wait_long_to_hold_a_record() -> None:
    """As other calls, it is refused after a while, long before its deadline; nothing was done."""
    world, key = await written(10, 1)
    world.vault = Vault(world.keys, world.records, history=10, holding=Slots(1, seconds=0.01))
    release = asyncio.Event()
    world.keys.before("unwrap", release.wait)
    first = asyncio.create_task(world.vault.update(CALLER, NAME, key.wrapped, key.seal(NAME, 2)))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        late = await refused(world.vault.update(CALLER, NAME, key.wrapped, key.seal(NAME, 2)))
    assert type(late) is RateLimited
    release.set()
    assert (await first).revision == 2
    assert (await world.vault.update(CALLER, NAME, key.wrapped, key.seal(NAME, 3))).revision == 3


async def test_a_copy_of_a_failed_update_goes_with_the_next_change() -> None:
    world, key = await written(10, 2)
    world.records.fail_before("put_if", BackendUnavailable())
    await refused(world.update(key, 3))
    assert CopyName(TENANT, NAME, 2) in world.records.copies
    await world.delete(key, 3)
    assert not world.records.copies


async def test_invalid_requests_reach_no_store() -> None:
    world, _ = await written(10, 2)
    world.records.calls.clear()
    read = world.vault.read
    cases: list[tuple[type[VaultError], Awaitable[object]]] = [
        (InvalidRequest, read(CALLER, NAME, revision=-1)),
        (InvalidRequest, read(CALLER, NAME, 1, revision=1)),
        (InvalidRequest, read(CALLER, NAME, include_deleted=True, revision=1)),
        (InvalidKeyId, read(CALLER, "a b", revision=1)),
        (InvalidKeyId, world.vault.list_revisions(CALLER, "prod/")),
    ]
    for expected, call in cases:
        failure = await refused(call)
        assert type(failure) is expected
        assert isinstance(failure, InvalidRequest)
        assert failure.field == ("key_id" if expected is InvalidKeyId else "revision")
    assert world.records.calls.total() == 0


async def test_a_name_never_used_is_not_found() -> None:
    world = World(10)
    for call in (world.vault.list_revisions(CALLER, NAME), world.vault.read(CALLER, NAME, revision=1)):
        assert type(await refused(call)) is RecordNotFound


async def test_a_corrupt_head_has_no_revisions() -> None:
    world, _ = await written(10, 2)
    stored = world.records.records[TENANT, NAME]
    world.records.records[TENANT, NAME] = replace(stored, since=2)
    for call in (world.vault.list_revisions(CALLER, NAME), world.vault.read(CALLER, NAME, revision=1)):
        assert type(await refused(call)) is RecordCorrupt


@pytest.mark.parametrize("size", [0, 87, 380_457, 2**31, 2**32 - 1])
async def test_an_impossible_size_in_the_store_is_corrupt(size: int) -> None:
    """A head whose list of revisions was changed; the largest sizes do not fit the answer."""
    world, _ = await written(10, 2)
    stored = world.records.records[TENANT, NAME]
    revisions = stored.revisions[:-4] + size.to_bytes(4, "big")
    world.records.records[TENANT, NAME] = replace(stored, revisions=revisions)
    corrupt = await refused(world.vault.list_revisions(CALLER, NAME))
    assert (type(corrupt), corrupt.metadata) == (RecordCorrupt, {"current_revision": "2"})


async def test_what_is_read_is_charged_by_its_own_size() -> None:
    class Charged(Unrestricted):
        charges: list[int] = []  # noqa: RUF012

        def charge(self, size: int) -> None:
            self.charges.append(size)

    world, _ = await written(10, 3)
    caller = Charged(TENANT)
    found = await world.vault.read(caller, NAME, revision=1)
    assert found.envelope is not None
    assert caller.charges == [len(found.envelope)]


async def test_a_caller_without_quota_learns_nothing() -> None:
    class Spent(Unrestricted):
        def spend(self) -> None:
            raise RateLimited

    world, _ = await written(10, 2)
    world.records.calls.clear()
    for call in (world.vault.list_revisions(Spent(TENANT), NAME), world.vault.read(Spent(TENANT), NAME, revision=1)):
        assert type(await refused(call)) is RateLimited
    assert world.records.calls.total() == 0


async def test_since_follows_its_rule_whatever_happens() -> None:
    """Update: max(since, revision - history); Create, Delete, RotateKey and purge: their own revision."""
    world, key = await written(4, 7)
    stored = world.records.records

    def since() -> tuple[int, int]:
        record: Record = stored[TENANT, NAME]
        return record.since, state_of(record).revision

    assert since() == (3, 7)
    await world.delete(key, 8)
    assert since() == (8, 8)
    await world.create(key, 9)
    assert since() == (9, 9)
    await world.update(key, 10)
    assert since() == (9, 10)
    await world.rotation(key, key := await world.mint(), 11)()
    assert since() == (11, 11)
    await purge(world.records, CALLER, NAME)
    assert since() == (11, 11)
    await world.create(key, 12)
    assert since() == (12, 12)
