"""What a RecordStore does with copies of earlier envelopes, on every implementation."""

import asyncio
import os

import pytest

from keyvault_server.core.ports import CopyName, HeadChanged, RecordStore
from keyvault_server.core.records import Record, successor, vacancy
from tests.contract.test_record_store import MAX_ENVELOPE, head_of, walked
from tests.support.requests import some_envelope

TENANT = "acme"


@pytest.fixture
def key_id() -> str:
    return "prod/" + os.urandom(8).hex()


class Written:
    """A record, written as the vault does it."""

    def __init__(self, store: RecordStore, key_id: str, tenant: str = TENANT) -> None:
        self.store, self.tenant, self.key_id = store, tenant, key_id
        self.stored: Record | None = None
        self.revision = 0
        self.envelopes: dict[int, bytes] = {}

    async def write(self, history: int = 0, size: int = 100) -> Record:
        """Put the next revision, which keeps so many of the earlier ones."""
        before, self.revision = self.stored, self.revision + 1
        self.envelopes[self.revision] = some_envelope(self.revision, size)
        record = successor(before, self.envelopes[self.revision], 1, fresh=before is None, history=history)
        if record.superseded and before is not None:
            await self.store.keep(self.tenant, self.key_id, record.superseded, before)
        await self.put(record)
        return record

    async def put(self, record: Record) -> None:
        before = self.stored
        await self.store.put_if(self.tenant, self.key_id, record, before.head if before else None)
        self.stored = record
        if before is not None and before.since < record.since:
            self.store.remove(self.tenant, self.key_id, range(before.since, record.since))

    async def kept(self) -> list[int]:
        """The revisions of which the right copies are there, and no wrong ones."""
        copies = {number: await self.store.get_copy(self.tenant, self.key_id, number) for number in self.envelopes}
        found = {number: copy for number, copy in copies.items() if copy is not None}
        assert found == {number: self.envelopes[number] for number in found}
        return list(found)

    async def settle(self, *expected: int) -> None:
        """Wait until exactly these are kept: a store may remove copies after it answered."""
        async with asyncio.timeout(20):
            while await self.kept() != list(expected):
                await asyncio.sleep(0.01)


async def copies_of(store: RecordStore, tenant: str) -> list[CopyName]:
    """What a walk finds of a tenant: all tests of an engine share a table."""
    return sorted([name async for name in store.walk_copies() if name.tenant == tenant])


async def test_a_put_that_keeps_its_predecessor_leaves_a_copy(store: RecordStore, key_id: str) -> None:
    one = Written(store, key_id)
    await one.write()
    assert await one.kept() == []
    for _ in range(3):
        await one.write(history=10)
    assert await one.kept() == [1, 2, 3]
    assert await store.get(TENANT, key_id) == one.stored


async def test_copies_below_since_are_removed(store: RecordStore, key_id: str) -> None:
    one = Written(store, key_id)
    for _ in range(6):
        await one.write(history=2)
    await one.settle(4, 5)
    await one.write(history=0)
    await one.settle()
    for _ in range(2):
        await one.write(history=3)
    await one.settle(7, 8)


async def test_a_vacancy_leaves_no_copy(store: RecordStore, key_id: str) -> None:
    one = Written(store, key_id)
    for _ in range(4):
        await one.write(history=10)
    await one.put(vacancy(4, 1))
    await one.settle()


async def test_a_put_whose_condition_fails_removes_nothing(store: RecordStore, key_id: str) -> None:
    """Nor does it change a copy: its `since`, and what it would keep, are not of this record."""
    one = Written(store, key_id)
    for _ in range(4):
        await one.write(history=10)
    for late in (successor(one.stored, some_envelope(5), 1, fresh=False, history=n) for n in (0, 1, 10)):
        with pytest.raises(HeadChanged):
            await store.put_if(TENANT, key_id, late, os.urandom(72))
    with pytest.raises(HeadChanged):
        await store.put_if(TENANT, key_id, successor(None, some_envelope(9), 1, fresh=True), None)
    assert await one.kept() == [1, 2, 3]


async def test_copies_of_one_name_are_not_those_of_another(store: RecordStore, key_id: str) -> None:
    names = [(TENANT, key_id), ("acme-2", key_id), (TENANT, key_id + "1"), (TENANT, key_id + "/1")]
    several = [Written(store, name, tenant) for tenant, name in names]
    for _ in range(3):
        for one in several:
            await one.write(history=10)
    await several[0].write(history=0)
    await several[0].settle()
    for one in several[1:]:
        assert await one.kept() == [1, 2]


async def test_the_largest_envelope_is_kept_under_the_longest_name(store: RecordStore) -> None:
    one = Written(store, os.urandom(127).hex() + "x", "a" * 63)
    await one.write(size=MAX_ENVELOPE - 88)
    await one.write(history=15, size=MAX_ENVELOPE - 88)
    assert await one.kept() == [1]
    assert len(one.envelopes[1]) == MAX_ENVELOPE


async def test_the_highest_revisions_are_kept(store: RecordStore, key_id: str) -> None:
    one = Written(store, key_id)
    one.revision = 2**63 - 4
    for _ in range(3):
        await one.write(history=10)
    assert await one.kept() == [2**63 - 3, 2**63 - 2]


@pytest.mark.medium
async def test_a_walk_over_the_records_leaves_copies_out(store: RecordStore, key_id: str) -> None:
    tenant = f"walk-{os.urandom(8).hex()}"
    one = Written(store, key_id, tenant)
    for _ in range(40):
        await one.write(history=15)
    assert await walked(store, tenant) == [(tenant, key_id, one.stored)]
    await one.settle(*range(25, 40))
    assert await copies_of(store, tenant) == [CopyName(tenant, key_id, number) for number in range(25, 40)]


async def test_one_copy_is_removed_only_with_its_bytes(store: RecordStore, key_id: str) -> None:
    one = Written(store, key_id)
    for _ in range(3):
        await one.write(history=10)
    for wrong in (b"", one.envelopes[2], one.envelopes[1] + b"\0", one.envelopes[1][:-1]):
        assert not await store.remove_copy(TENANT, key_id, 1, wrong)
    assert not await store.remove_copy(TENANT, key_id, 9, one.envelopes[1])
    assert await one.kept() == [1, 2]
    assert await store.remove_copy(TENANT, key_id, 1, one.envelopes[1])
    assert not await store.remove_copy(TENANT, key_id, 1, one.envelopes[1])
    assert await one.kept() == [2]
    record = await one.write(history=10)
    assert await store.get_head(TENANT, key_id) == head_of(record)


async def test_writers_that_race_leave_the_copies_of_the_winner(atomic_store: RecordStore, key_id: str) -> None:
    one = Written(atomic_store, key_id)
    await one.write()
    before = one.stored
    assert before is not None
    rivals = [successor(before, some_envelope(2), 1, fresh=False, history=10) for _ in range(8)]

    async def put(record: Record) -> None:
        await atomic_store.keep(TENANT, key_id, 1, before)
        await atomic_store.put_if(TENANT, key_id, record, before.head)

    answers = await asyncio.gather(*map(put, rivals), return_exceptions=True)
    assert sum(answer is None for answer in answers) == 1
    assert await one.kept() == [1]
