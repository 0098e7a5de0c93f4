"""The item itself, as docs/dynamodb.md has it, and what happens to an invalid one; on every DynamoDB."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from keyvault_api.names import is_key_id, is_tenant
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.item import SEPARATOR
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.core.errors import BackendUnavailable, RecordCorrupt
from keyvault_server.core.ports import HeadChanged
from keyvault_server.core.purge import purge
from keyvault_server.core.records import Record, state_of, vacancy
from tests.support.callers import Unrestricted
from tests.support.engines import options

TENANT = "acme"
ENVELOPE = bytes.fromhex("4b564501010100000000000000000001") + os.urandom(56 + 23)
"""Revision 1, as far as somebody without a key can say."""
RECORD = Record(
    ENVELOPE[:72],
    os.urandom(32),
    1_700_000_000_000_001,
    1_700_000_000_000_002,
    ENVELOPE[72:],
    since=1,
    revisions=os.urandom(12),
)


class Table:
    """A store and the engine itself."""

    def __init__(self, store: DynamoRecordStore, client: AwsClient) -> None:
        self.store = store
        self.client = client
        self.key_id = "prod/" + os.urandom(8).hex()

    async def item(self) -> dict[str, Any]:
        """The item as it is stored."""
        reply = await self.client.call(
            "get_item", TableName="keyvault", Key={"pk": {"S": f"{TENANT}#{self.key_id}"}}, ConsistentRead=True
        )
        return dict(reply["Item"])

    async def put(self, **attributes: dict[str, Any] | None) -> None:
        """Store a record's item by hand, with other values for these attributes, or without those that are None."""
        await self.store.put_if(TENANT, self.key_id, RECORD, None)
        item = {name: value for name, value in (await self.item() | attributes).items() if value is not None}
        await self.client.call("put_item", TableName="keyvault", Item=item)


@pytest.fixture
def on_moto(aws: tuple[KmsKeyService, DynamoRecordStore], moto_clients: tuple[AwsClient, AwsClient]) -> Table:
    return Table(aws[1], moto_clients[1])


@pytest.fixture(scope="module")
async def dynalite_client(dynalite: str) -> AsyncIterator[AwsClient]:
    async with open_clients(options(dynalite, dynalite)) as (_, client):
        yield client


@pytest.fixture
def on_dynalite(dynalite_store: DynamoRecordStore, dynalite_client: AwsClient) -> Table:
    return Table(dynalite_store, dynalite_client)


@pytest.fixture
def on_standin(standin_store: DynamoRecordStore, standin_clients: tuple[AwsClient, AwsClient]) -> Table:
    return Table(standin_store, standin_clients[1])


@pytest.fixture(
    params=[*(pytest.param(name, marks=pytest.mark.external) for name in ("on_moto", "on_dynalite")), "on_standin"]
)
def table(request: pytest.FixtureRequest) -> Table:
    made: Table = request.getfixturevalue(request.param)
    return made


SPOILT: list[dict[str, dict[str, Any] | None]] = [
    {"head": None},
    {"head": {"S": "text"}},
    {"head": {"N": "1"}},
    {"head": {"NULL": True}},
    {"head": {"B": b""}},
    {"head": {"B": b"short"}},
    {"head": {"B": b"\0" * 72}},
    {"head": {"B": b"\0" * 8}},
    {"ring": None},
    {"ring": {"S": "text"}},
    {"ring": {"B": b"odd"}},
    {"ring": {"B": b""}},
    {"ring": {"B": b"r" * 272}},
    {"format": None},
    {"format": {"S": "2"}},
    {"since": None},
    {"since": {"S": "1"}},
    {"since": {"N": "0"}},
    {"since": {"N": "2"}},
    {"since": {"N": "1.5"}},
    {"revisions": None},
    {"revisions": {"S": "text"}},
    {"revisions": {"B": b"odd"}},
    {"revisions": {"B": b"r" * 24}},
    dict.fromkeys(("format", "head", "ring", "created", "updated", "since", "revisions", "body")),
]


async def test_the_item_has_the_documented_attributes_and_no_other(table: Table) -> None:
    await table.store.put_if(TENANT, table.key_id, RECORD, None)
    assert await table.item() == {
        "pk": {"S": f"acme#{table.key_id}"},
        "listed": {"S": "acme#live"},
        "key_id": {"S": table.key_id},
        "format": {"N": "2"},
        "head": {"B": RECORD.head},
        "ring": {"B": RECORD.ring},
        "created": {"N": "1700000000000001"},
        "updated": {"N": "1700000000000002"},
        "since": {"N": "1"},
        "revisions": {"B": RECORD.revisions},
        "body": {"B": RECORD.body},
    }


def test_every_partition_key_has_one_reading() -> None:
    """No valid name contains the separator."""
    assert not is_tenant("a" + SEPARATOR)
    assert not is_key_id("a" + SEPARATOR)


@pytest.mark.parametrize("spoilt", SPOILT, ids=str)
async def test_an_invalid_item_reads_as_corrupt_and_can_be_purged(
    table: Table, spoilt: dict[str, dict[str, Any] | None]
) -> None:
    await table.put(**spoilt)
    for stored in (await table.store.get_head(TENANT, table.key_id), await table.store.get(TENANT, table.key_id)):
        assert stored is not None
        with pytest.raises(RecordCorrupt):
            state_of(stored)
    with pytest.raises(RecordCorrupt):
        await purge(table.store, Unrestricted(TENANT), table.key_id)
    assert await purge(table.store, Unrestricted(TENANT), table.key_id, 7) == 7
    vacant = await table.store.get_head(TENANT, table.key_id)
    assert vacant is not None
    assert state_of(vacant).revision == 7


@pytest.mark.parametrize("body", [None, {"S": "text"}])
async def test_a_record_without_its_body_reads_as_corrupt(table: Table, body: dict[str, Any] | None) -> None:
    await table.put(body=body)
    record = await table.store.get(TENANT, table.key_id)
    assert record is not None
    with pytest.raises(RecordCorrupt):
        state_of(record)


@pytest.mark.parametrize(
    "times", [{"created": None, "updated": None}, {"created": {"N": "1.5"}, "updated": {"S": "1"}}]
)
async def test_times_that_are_none_do_not_keep_anybody_from_a_record(table: Table, times: dict[str, Any]) -> None:
    await table.put(**times)
    stored = await table.store.get(TENANT, table.key_id)
    assert stored == replace(RECORD, created=0, updated=0)


@pytest.mark.parametrize("spoilt", SPOILT[:5], ids=str)
async def test_nobody_but_a_purge_writes_over_an_item_without_a_head(table: Table, spoilt: dict[str, Any]) -> None:
    await table.put(**spoilt)
    before = await table.item()
    for expected in (None, RECORD.head):
        with pytest.raises(HeadChanged) as refused:
            await table.store.put_if(TENANT, table.key_id, vacancy(1, 1), expected)
        assert refused.value.stored is not None
        assert refused.value.stored.head == b""
    assert await table.item() == before


async def test_an_empty_expected_head_matches_nothing_at_all(table: Table) -> None:
    """It matches neither a record nor the absence of one."""
    with pytest.raises(HeadChanged) as refused:
        await table.store.put_if(TENANT, table.key_id, vacancy(1, 1), b"")
    assert refused.value.stored is None
    await table.store.put_if(TENANT, table.key_id, RECORD, None)
    with pytest.raises(HeadChanged) as refused:
        await table.store.put_if(TENANT, table.key_id, vacancy(1, 1), b"")
    assert refused.value.stored is not None
    assert refused.value.stored.head == RECORD.head


@pytest.mark.parametrize("number", ["0", "1", "3", "1.5"])
async def test_another_releases_format_is_not_read_or_written_over(table: Table, number: str) -> None:
    await table.put(format={"N": number})
    before = await table.item()
    for attempt in (
        table.store.get(TENANT, table.key_id),
        table.store.get_head(TENANT, table.key_id),
        table.store.put_if(TENANT, table.key_id, RECORD, None),
        purge(table.store, Unrestricted(TENANT), table.key_id, 7),
    ):
        with pytest.raises(RecordCorrupt):
            await attempt
    assert await table.item() == before


async def test_a_walk_reports_an_invalid_record_and_goes_on(table: Table) -> None:
    foreign = "no-separator-" + os.urandom(8).hex()
    await table.client.call("put_item", TableName="keyvault", Item={"pk": {"S": foreign}, "more": {"N": "1"}})
    await table.put(format={"N": "1"})
    spoilt = Table(table.store, table.client)
    await spoilt.put(head={"S": "text"})
    found = {(tenant, key_id): record async for tenant, key_id, record in table.store.walk()}
    assert found[TENANT, table.key_id] is None
    assert found["", foreign] is not None
    assert found[TENANT, spoilt.key_id] == await table.store.get(TENANT, spoilt.key_id)


async def test_readiness_writes_nothing(table: Table) -> None:
    await table.store.check()
    reply = await table.client.call("get_item", TableName="keyvault", Key={"pk": {"S": "#"}}, ConsistentRead=True)
    assert "Item" not in reply


async def test_a_table_that_went_away_is_not_ready(table: Table) -> None:
    gone = DynamoRecordStore(table.client, "gone")
    for call in (gone.check(), gone.get(TENANT, "k")):
        with pytest.raises(BackendUnavailable) as failed:
            await call
        assert str(failed.value.__cause__) == "get_item: ResourceNotFoundException"
