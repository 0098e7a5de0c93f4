"""The index of names as AWS may have it: each page from a replica that is behind, another one each time."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from keyvault_api.envelope import Kind
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.core.listing import list_names
from keyvault_server.core.records import Record, vacancy
from keyvault_server.core.vault import Vault
from tests.server.backends.aws.conftest import Line
from tests.server.backends.aws.fault_proxy import FAULTS
from tests.server.backends.aws.standins.account import Account
from tests.support.callers import Unrestricted
from tests.support.fakes import FakeKeyService
from tests.support.listed import record_of

SEED = 20_261_129
LAG = 15
"""Writes that a replica is behind, at most."""


@pytest.fixture
def tenant() -> str:
    return "t-" + os.urandom(8).hex()


@pytest.fixture
async def lagging(standins: Account) -> AsyncIterator[random.Random]:
    """Chance, which also says how far behind the replica is that answers next."""
    chance = random.Random(SEED)
    standins.dynamodb.behind = lambda: chance.randrange(LAG + 1)
    yield chance
    standins.dynamodb.behind = lambda: 0


class Writer:
    """Writes names of one tenant, and knows what is listed."""

    def __init__(self, store: DynamoRecordStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant
        self._stored: dict[str, Record] = {}
        self.steady: set[str] = set()
        """Names that were created and not touched otherwise than by an Update."""

    async def put(self, name: str, record: Record) -> None:
        before = self._stored.get(name)
        await self._store.put_if(self._tenant, name, record, before.head if before else None)
        self._stored[name] = record

    async def change_any(self, chance: random.Random) -> None:
        """Create, delete or purge a name that comes and goes, or update one that stays."""
        name = f"go/{chance.randrange(20):02}"
        stored = self._stored.get(name)
        await self.put(name, chance.choice([record_of(name), record_of(name, Kind.TOMBSTONE), vacancy(9, 9)]))
        if stored is None and self.steady:
            await self.put(name := chance.choice(sorted(self.steady)), record_of(name, revision=2))

    async def settle(self) -> None:
        """Write until every replica has seen what was written before."""
        for number in range(LAG):
            await self.put(f"settle/{number:02}", record_of("s"))


async def listing(
    vault: Vault, tenant: str, size: int, between: Callable[[], Awaitable[None]] | None = None
) -> list[str]:
    """Return the names of all pages; `between` happens after each."""
    names: list[str] = []
    token = ""
    while True:
        page = await list_names(vault, Unrestricted(tenant), "go", size, token)
        names += [name.key_id for name in page.names]
        token = page.next_page_token
        if not token:
            return names
        if between is not None:
            await between()


@pytest.mark.medium
async def test_names_that_stay_are_listed_once_whatever_the_lag(
    standin_store: DynamoRecordStore, tenant: str, lagging: random.Random
) -> None:
    """Names that come and go may be shown or not, and two listings may disagree."""
    print(f"seed {SEED}")  # noqa: T201
    vault, writer = Vault(FakeKeyService(), standin_store), Writer(standin_store, tenant)
    for number in range(10):
        name = f"go-{number:02}" if number % 2 else f"gone/{number:02}"
        await writer.put(name, record_of(name))
        writer.steady.add(name)
    await writer.settle()
    seen = set()
    for size in (1, 3, 100):
        for _ in range(2):
            found = await listing(vault, tenant, size, lambda: writer.change_any(lagging))
            assert found == sorted(set(found)), "in order, and no name twice"
            assert writer.steady <= set(found), "a name that stays is in it"
            seen.add(tuple(found))
    assert len(seen) > 1, "the lag shows"


async def test_a_new_name_is_listed_once_the_index_has_it(
    standin_store: DynamoRecordStore, standins: Account, tenant: str, lagging: random.Random
) -> None:
    vault, writer = Vault(FakeKeyService(), standin_store), Writer(standin_store, tenant)
    standins.dynamodb.behind = lambda: LAG
    await writer.put("go/new", record_of("go/new"))
    assert await listing(vault, tenant, 10) == []
    assert await standin_store.get(tenant, "go/new") is not None, "Read shows it at once"
    await writer.settle()
    assert await listing(vault, tenant, 10) == ["go/new"]


async def test_an_update_leaves_the_index_alone(
    standin_store: DynamoRecordStore, standins: Account, tenant: str
) -> None:
    table = standins.dynamodb.table("keyvault")
    writer, index = Writer(standin_store, tenant), table.indexes["names"]
    states = [
        (record_of("k", created=1), 1),
        (record_of("k", created=1, revision=2), 0),
        (record_of("k", created=1, revision=3), 0),
        (record_of("k", Kind.TOMBSTONE, 1, revision=4), 2),
        (record_of("k", created=5, revision=5), 2),
        (vacancy(5, 6), 1),
        (vacancy(5, 7), 0),
        (record_of("k", created=8, revision=6), 1),
    ]
    for record, units in states:
        before = index.units
        await writer.put("k", record)
        assert index.units - before == units


@pytest.mark.parametrize("number", ["", "1.5", "x"])
async def test_a_time_that_is_none_does_not_hide_a_name(
    standin_store: DynamoRecordStore, standins: Account, tenant: str, number: str
) -> None:
    writer = Writer(standin_store, tenant)
    await writer.put("k", record_of("k", created=7))
    table = standins.dynamodb.table("keyvault")
    item = dict(table.items[f"{tenant}#k"]) | {"created": {"S": number or "-"}}
    table.indexes["names"].write(f"{tenant}#k", item)
    page = await standin_store.list_names(tenant, "", "", 10, deleted=False)
    assert page.names == [("k", 0)]


@pytest.mark.medium
async def test_a_query_that_fails_once_is_repeated(fresh_line: Line, tenant: str) -> None:
    writer = Writer(fresh_line.records, tenant)
    await writer.put("k", record_of("k"))
    fresh_line.dynamodb.break_with(FAULTS["500 before the effect"], "Query", 1)
    page = await fresh_line.records.list_names(tenant, "", "", 10, deleted=False)
    assert [name.key_id for name in page.names] == ["k"]
    assert fresh_line.dynamodb.requests["Query"] == 2
    fresh_line.dynamodb.break_with(FAULTS["500 before the effect"], "Query")
    with pytest.raises(BackendUnavailable):
        await fresh_line.records.list_names(tenant, "", "", 10, deleted=False)


async def test_a_list_without_an_index_is_unavailable(
    fresh_line: Line, standins: Account, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A start demands the index, so it was removed since: what the operator has to make again is in the log."""
    table = standins.dynamodb.table("keyvault")
    index = table.indexes.pop("names")
    try:
        with pytest.raises(BackendUnavailable):
            await fresh_line.records.list_names(tenant, "", "", 10, deleted=False)
    finally:
        table.indexes["names"] = index
    assert "has no index of this name" in caplog.text
    assert fresh_line.dynamodb.requests["Query"] == 1, "another attempt would find none either"
