"""What a RecordStore lists, on every implementation: by kind, prefix and place, in the order of bytes."""

import os

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.core.ports import ListedName, RecordStore
from keyvault_server.core.records import Record, vacancy
from tests.support.listed import record_of

CHARACTERS = "-./09:=@AZ_az~"
"""Characters of names in the order of their bytes."""


@pytest.fixture
def tenant() -> str:
    """A tenant of the test's own: all tests of an engine share a table."""
    return "t-" + os.urandom(8).hex()


async def fill(store: RecordStore, tenant: str, *names: str, kind: Kind = Kind.DATA) -> None:
    for number, name in enumerate(names):
        await store.put_if(tenant, name, record_of(name, kind, number), None)


async def listing(
    store: RecordStore, tenant: str, prefix: str = "", limit: int = 1_000, *, deleted: bool = False
) -> list[ListedName]:
    """Return the names of all pages."""
    names: list[ListedName] = []
    after: str | None = ""
    while after is not None:
        page = await store.list_names(tenant, prefix, after, limit, deleted=deleted)
        assert len(page.names) <= limit
        assert page.more is None or page.names == [] or page.more == page.names[-1].key_id
        names += page.names
        after = page.more
    return names


async def test_names_come_in_the_order_of_their_bytes(store: RecordStore, tenant: str) -> None:
    names = [f"{first}{second}" for first in "aA~" for second in CHARACTERS if second != "/"]
    await fill(store, tenant, *names)
    assert [name.key_id for name in await listing(store, tenant)] == sorted(names)


@pytest.mark.parametrize("limit", [1, 3, 5, 10])
async def test_a_listing_has_each_name_once(store: RecordStore, tenant: str, limit: int) -> None:
    names = [f"prod/{number}" for number in range(10)]
    await fill(store, tenant, *names)
    assert await listing(store, tenant, "prod/", limit) == [(name, at) for at, name in enumerate(names)]


async def test_a_prefix_is_compared_byte_by_byte(store: RecordStore, tenant: str) -> None:
    names = ["pro", "prod", "prod-2", "prod/a", "prod/a/b", "prod/ab", "prod0", "proe", "Prod/a"]
    await fill(store, tenant, *names)
    for prefix in ("", "p", "prod", "prod/", "prod/a", "prod/a/b", "prod/abc", "prod~", "q", "P", "~"):
        found = [name.key_id for name in await listing(store, tenant, prefix, 2)]
        assert found == sorted(name for name in names if name.startswith(prefix))


async def test_a_name_is_live_or_deleted_or_in_neither_listing(store: RecordStore, tenant: str) -> None:
    """The vault's Updates keep the create time; a store keeps whatever it is given."""
    states: list[tuple[Record, bool, bool]] = [
        (record_of("k", created=1), True, False),
        (record_of("k", created=1, revision=2), True, False),
        (record_of("k", Kind.TOMBSTONE, 1, revision=3), False, True),
        (record_of("k", created=4, revision=4), True, False),
        (record_of("k", Kind.TOMBSTONE, 4, revision=5), False, True),
        (vacancy(5, 6), False, False),
        (record_of("k", created=7, revision=6), True, False),
        (record_of("k", created=8, revision=7), True, False),
        (vacancy(7, 9), False, False),
    ]
    expected = None
    for record, live, deleted in states:
        await store.put_if(tenant, "k", record, expected)
        expected = record.head
        assert await listing(store, tenant) == [("k", record.created)] * live
        assert await listing(store, tenant, deleted=True) == [("k", record.created)] * deleted


async def test_tombstones_and_live_names_are_listed_apart(store: RecordStore, tenant: str) -> None:
    live, deleted = [f"prod/{number}" for number in range(0, 20, 2)], [f"prod/{number}" for number in range(1, 20, 2)]
    await fill(store, tenant, *live)
    await fill(store, tenant, *deleted, kind=Kind.TOMBSTONE)
    assert [name.key_id for name in await listing(store, tenant, "prod/", 3)] == sorted(live)
    assert [name.key_id for name in await listing(store, tenant, "prod/", 3, deleted=True)] == sorted(deleted)


async def test_tenants_list_their_own_names(store: RecordStore, tenant: str) -> None:
    longer = tenant + "-2"
    await fill(store, tenant, "a", "b")
    await fill(store, longer, "b", "c")
    await fill(store, "live", tenant)
    assert [name.key_id for name in await listing(store, tenant)] == ["a", "b"]
    assert [name.key_id for name in await listing(store, longer)] == ["b", "c"]
    assert await listing(store, tenant[:-1]) == []


async def test_a_listing_goes_on_after_a_name_that_is_gone(store: RecordStore, tenant: str) -> None:
    await fill(store, tenant, "prod/a", "prod/c")
    for after, expected in (("prod/b", ["prod/c"]), ("prod/a", ["prod/c"]), ("prod/c", []), ("prod/0", [*"ac"])):
        page = await store.list_names(tenant, "prod/", after, 10, deleted=False)
        assert [name.key_id.removeprefix("prod/") for name in page.names] == [one[-1] for one in expected]


@pytest.mark.medium
async def test_the_longest_names_are_listed(store: RecordStore) -> None:
    tenant = os.urandom(31).hex() + "t"
    names = ["a" * 254 + last for last in CHARACTERS if last != "/"]
    await fill(store, tenant, *names)
    assert [name.key_id for name in await listing(store, tenant, "a" * 254, 3)] == names
    assert [name.key_id for name in await listing(store, tenant, names[3])] == [names[3]]


async def test_what_is_not_a_record_is_not_listed(store: RecordStore, tenant: str) -> None:
    good = record_of("k")
    spoilt = [
        Record(os.urandom(72), good.ring, 1, 1, b""),
        Record(good.head[:71], good.ring, 1, 1, b""),
        Record(good.head[:5] + b"\3" + good.head[6:], good.ring, 1, 1, b""),
        Record(good.head, b"", 1, 1, b""),
        Record(good.head, good.ring[:-1], 1, 1, b""),
    ]
    for number, record in enumerate(spoilt):
        await store.put_if(tenant, f"k{number}", record, None)
    assert await listing(store, tenant) == await listing(store, tenant, deleted=True) == []


@pytest.mark.medium
async def test_a_name_that_was_created_before_a_listing_is_in_it(store: RecordStore, tenant: str) -> None:
    """Names that come and go between its pages change nothing for those that stay."""
    names = [f"prod/{number:02}" for number in range(0, 20, 2)]
    await fill(store, tenant, *names)
    found, after, number = list[str](), "", 1
    while True:
        page = await store.list_names(tenant, "prod/", after, 2, deleted=False)
        found += [name.key_id for name in page.names]
        if page.more is None:
            break
        after = page.more
        come = f"prod/{number:02}"
        await fill(store, tenant, come)
        number += 4
    assert [name for name in found if name in names] == names
    assert found == sorted(set(found))
