"""What a RecordStore does, on every implementation. Stores keep heads and bodies as bytes and interpret neither."""

import asyncio
import os

import pytest

from keyvault_server.core.ports import HeadChanged, RecordStore, Walked
from keyvault_server.core.records import Record, StoredHead, vacancy

TENANT = "acme"
MAX_ENVELOPE = 380_456
WRITERS = 16


@pytest.fixture
def key_id() -> str:
    return "prod/" + os.urandom(8).hex()


def some_record(size: int = 200, ring: int = 1) -> Record:
    return Record(os.urandom(72), os.urandom(16 * ring), 1_700_000_000_000_001, 1_700_000_000_000_002, os.urandom(size))


def head_of(record: Record) -> StoredHead:
    return record.stored_head


@pytest.mark.process
async def test_a_name_that_was_never_used_is_absent(store: RecordStore, key_id: str) -> None:
    assert await store.get(TENANT, key_id) is None
    assert await store.get_head(TENANT, key_id) is None


async def test_what_was_put_is_what_is_read(store: RecordStore, key_id: str) -> None:
    record = some_record()
    await store.put_if(TENANT, key_id, record, None)
    assert await store.get(TENANT, key_id) == record
    assert await store.get_head(TENANT, key_id) == head_of(record)


async def test_reads_at_the_same_time_each_get_their_own_record(store: RecordStore, key_id: str) -> None:
    """Some stores gather them."""
    records = {f"{key_id}-{number}": some_record(number) for number in range(20)}
    for name, record in records.items():
        await store.put_if(TENANT, name, record, None)
    names = [*records, f"{key_id}-absent", *list(records)[::-1]]
    found = await asyncio.gather(*(store.get(TENANT, name) for name in names))
    assert found == [records.get(name) for name in names]
    heads = await asyncio.gather(*(store.get_head(TENANT, name) for name in names))
    assert heads == [records.get(name) and head_of(records[name]) for name in names]


async def test_a_second_create_writes_nothing_and_says_what_is_stored(store: RecordStore, key_id: str) -> None:
    first = some_record()
    await store.put_if(TENANT, key_id, first, None)
    with pytest.raises(HeadChanged) as refused:
        await store.put_if(TENANT, key_id, some_record(), None)
    assert refused.value.stored == head_of(first)
    assert await store.get(TENANT, key_id) == first


async def test_the_stored_head_lets_a_write_replace_everything(store: RecordStore, key_id: str) -> None:
    first, second = some_record(), some_record(3_000, ring=2)
    await store.put_if(TENANT, key_id, first, None)
    await store.put_if(TENANT, key_id, second, first.head)
    assert await store.get(TENANT, key_id) == second


async def test_another_head_writes_nothing_and_says_what_is_stored(store: RecordStore, key_id: str) -> None:
    first = some_record()
    await store.put_if(TENANT, key_id, first, None)
    nearly = first.head[:-1] + bytes([first.head[-1] ^ 1])
    for wrong in (nearly, first.head[:8], first.head + b"\0", os.urandom(72)):
        with pytest.raises(HeadChanged) as refused:
            await store.put_if(TENANT, key_id, some_record(), wrong)
        assert refused.value.stored == head_of(first)
    assert await store.get(TENANT, key_id) == first


@pytest.mark.process
async def test_a_head_where_nothing_is_stored_writes_nothing(store: RecordStore, key_id: str) -> None:
    with pytest.raises(HeadChanged) as refused:
        await store.put_if(TENANT, key_id, some_record(), os.urandom(72))
    assert refused.value.stored is None
    assert await store.get(TENANT, key_id) is None


async def test_a_vacancy_is_empty_and_can_be_written_over(store: RecordStore, key_id: str) -> None:
    first, empty, again = some_record(), vacancy(2**63 - 2, 1_700_000_000_000_003), some_record()
    await store.put_if(TENANT, key_id, first, None)
    await store.put_if(TENANT, key_id, empty, first.head)
    assert await store.get(TENANT, key_id) == empty
    assert await store.get_head(TENANT, key_id) == head_of(empty)
    await store.put_if(TENANT, key_id, again, empty.head)
    assert await store.get(TENANT, key_id) == again


@pytest.mark.medium
async def test_the_largest_record_under_the_longest_names_is_kept(store: RecordStore) -> None:
    tenant, key_id = "a" * 63, os.urandom(127).hex() + "x"
    largest, next_one = (some_record(MAX_ENVELOPE - 72, ring=16) for _ in range(2))
    await store.put_if(tenant, key_id, largest, None)
    assert await store.get(tenant, key_id) == largest
    with pytest.raises(HeadChanged) as refused:
        await store.put_if(tenant, key_id, next_one, None)
    assert refused.value.stored == head_of(largest)
    await store.put_if(tenant, key_id, next_one, largest.head)
    assert await store.get(tenant, key_id) == next_one


@pytest.mark.parametrize("body", [bytes(range(256)) * 2, b"\0", b"\0" * 100, b"\xff" * 100, b'"}{\\u0000\r\n'])
async def test_every_byte_comes_back_as_it_was(store: RecordStore, key_id: str, body: bytes) -> None:
    record = Record(bytes(range(184, 256)), bytes(range(240, 256)) + b"\0" * 16, 1, 2, body)
    await store.put_if(TENANT, key_id, record, None)
    assert await store.get(TENANT, key_id) == record
    assert await store.get_head(TENANT, key_id) == head_of(record)


@pytest.mark.parametrize("time", [0, 1, 1_763_985_600_123_456, 253_402_300_799_999_999])
async def test_times_come_back_to_the_microsecond(store: RecordStore, key_id: str, time: int) -> None:
    record = Record(os.urandom(72), os.urandom(16), time, time, b"body")
    await store.put_if(TENANT, key_id, record, None)
    stored = await store.get_head(TENANT, key_id)
    assert stored is not None
    assert (stored.created, stored.updated) == (time, time)


async def test_tenants_do_not_see_each_other(store: RecordStore, key_id: str) -> None:
    mine, yours = some_record(), some_record()
    await store.put_if("acme", key_id, mine, None)
    assert await store.get("acme-2", key_id) is None
    await store.put_if("acme-2", key_id, yours, None)
    assert await store.get("acme", key_id) == mine
    with pytest.raises(HeadChanged):
        await store.put_if("acme", key_id, some_record(), yours.head)


async def test_no_character_can_move_from_the_key_id_to_the_tenant(store: RecordStore) -> None:
    mark = os.urandom(8).hex()
    names = [("a", f"b-{mark}"), (f"ab-{mark}", "-"), ("a-b", f"-{mark}"), ("a-b-", mark), ("a", f"b/{mark}")]
    records = {name: some_record() for name in names}
    for (tenant, key_id), record in records.items():
        await store.put_if(tenant, key_id, record, None)
    for (tenant, key_id), record in records.items():
        assert await store.get(tenant, key_id) == record


async def test_names_differ_by_case_and_by_every_byte(store: RecordStore, key_id: str) -> None:
    names = [key_id, key_id.upper(), key_id + ".", key_id + "/x", key_id[:-1], key_id.replace("/", ":")]
    records = [some_record() for _ in names]
    for name, record in zip(names, records, strict=True):
        await store.put_if(TENANT, name, record, None)
    assert [await store.get(TENANT, name) for name in names] == records


async def test_of_many_creates_at_once_one_wins(atomic_store: RecordStore, key_id: str) -> None:
    """Each loser sees the winner."""
    records = [some_record() for _ in range(WRITERS)]
    answers = await asyncio.gather(
        *(atomic_store.put_if(TENANT, key_id, record, None) for record in records), return_exceptions=True
    )
    won = [record for record, answer in zip(records, answers, strict=True) if answer is None]
    assert len(won) == 1
    lost = [answer for answer in answers if answer is not None]
    assert all(isinstance(answer, HeadChanged) and answer.stored == head_of(won[0]) for answer in lost)
    assert await atomic_store.get(TENANT, key_id) == won[0]


@pytest.mark.medium
async def test_no_update_is_lost_among_writers_that_race(atomic_store: RecordStore, key_id: str) -> None:
    writes_each = 3
    await atomic_store.put_if(TENANT, key_id, numbered(0), None)

    async def write() -> None:
        for _ in range(writes_each):
            stored = await atomic_store.get(TENANT, key_id)
            while stored is not None:
                try:
                    await atomic_store.put_if(TENANT, key_id, numbered(int.from_bytes(stored.body) + 1), stored.head)
                    break
                except HeadChanged:
                    stored = await atomic_store.get(TENANT, key_id)

    await asyncio.gather(*(write() for _ in range(8)))
    final = await atomic_store.get(TENANT, key_id)
    assert final is not None
    assert int.from_bytes(final.body) == 8 * writes_each


def numbered(number: int) -> Record:
    return Record(os.urandom(72), b"", 1, 1, number.to_bytes(8))


async def test_a_read_shows_every_write_that_was_answered_before(store: RecordStore, key_id: str) -> None:
    expected = None
    for _ in range(10):
        record = some_record()
        await store.put_if(TENANT, key_id, record, expected)
        assert await store.get(TENANT, key_id) == record
        expected = record.head


@pytest.mark.parametrize("ticks", [0, 1, 3, 10])
async def test_a_cancelled_put_leaves_the_old_record_or_the_new_one(
    atomic_store: RecordStore, key_id: str, ticks: int
) -> None:
    store = atomic_store
    old, new, last = some_record(), some_record(), some_record()
    await store.put_if(TENANT, key_id, old, None)
    put = asyncio.create_task(store.put_if(TENANT, key_id, new, old.head))
    for _ in range(ticks):
        await asyncio.sleep(0)
    put.cancel()
    await asyncio.wait([put])
    assert await put_over(store, key_id, last, old.head) in (None, head_of(new))
    assert await store.get(TENANT, key_id) == last


async def put_over(store: RecordStore, key_id: str, record: Record, expected: bytes) -> StoredHead | None:
    """Put over the expected head, or over what is found instead and returned: an earlier put may be done late."""
    try:
        await store.put_if(TENANT, key_id, record, expected)
    except HeadChanged as refused:
        if refused.stored is None:
            raise
        await store.put_if(TENANT, key_id, record, refused.stored.head)
        return refused.stored
    return None


async def walked(store: RecordStore, *tenants: str) -> list[Walked]:
    """Return what a walk finds of these tenants: all tests of an engine share a table."""
    return [found async for found in store.walk() if found.tenant in tenants]


@pytest.mark.medium
async def test_a_walk_meets_every_record_once_as_it_is_read(store: RecordStore) -> None:
    mine, yours = (f"walk-{os.urandom(8).hex()}" for _ in range(2))
    records = {(mine, f"prod/{number}"): some_record(ring=number % 3) for number in range(70)}
    records[mine, "prod/vacant"] = vacancy(7, 1_700_000_000_000_003)
    records[yours, "prod/0"] = some_record()
    for (tenant, key_id), record in records.items():
        await store.put_if(tenant, key_id, record, None)
    found = await walked(store, mine, yours)
    assert {(tenant, key_id): record for tenant, key_id, record in found} == records
    assert len(found) == len(records)


@pytest.mark.medium
async def test_a_walk_goes_on_over_records_that_fill_several_pages(store: RecordStore) -> None:
    tenant = f"walk-{os.urandom(8).hex()}"
    records = {f"prod/{number}": some_record(MAX_ENVELOPE - 72, ring=16) for number in range(5)}
    for key_id, record in records.items():
        await store.put_if(tenant, key_id, record, None)
    assert {key_id: record for _, key_id, record in await walked(store, tenant)} == records


@pytest.mark.medium
async def test_a_walk_shows_what_was_written_before_it_began(store: RecordStore, key_id: str) -> None:
    tenant = f"walk-{os.urandom(8).hex()}"
    first, second = some_record(), some_record()
    await store.put_if(tenant, key_id, first, None)
    assert await walked(store, tenant) == [(tenant, key_id, first)]
    await store.put_if(tenant, key_id, second, first.head)
    assert await walked(store, tenant) == [(tenant, key_id, second)]


async def test_a_walk_that_is_left_early_keeps_nothing_from_writing(store: RecordStore, key_id: str) -> None:
    first, second = some_record(), some_record()
    await store.put_if(TENANT, key_id, first, None)
    walk = store.walk()
    await anext(walk)
    await store.put_if(TENANT, key_id, second, first.head)
    assert await store.get(TENANT, key_id) == second


async def test_a_store_that_answers_says_so(store: RecordStore) -> None:
    await store.check()
