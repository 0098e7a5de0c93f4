"""Reads that share a BatchGetItem, over the wire to our own DynamoDB; and proof that joining a batch late is caught."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.gathered_reads import MOST_NAMES, GatheredReads
from keyvault_server.backends.aws.item import Item
from keyvault_server.core.records import Record, successor
from tests.reliability.bugs import JoinsTheLeft
from tests.server.backends.aws.conftest import Line
from tests.server.backends.aws.site import master_key
from tests.server.backends.aws.standins.account import account
from tests.server.backends.aws.standins.dynamodb import StandInDynamoDb
from tests.server.backends.aws.wire import Message, Reply
from tests.support.engines import options
from tests.support.requests import some_envelope

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("aws_identity")]

TENANT = "acme"
READS = ("GetItem", "BatchGetItem")


def some_record(before: Record | None = None) -> Record:
    return successor(before, some_envelope(), 1, fresh=True)


class LateReplies(StandInDynamoDb):
    """Replies to reads, which are decided at once, are late as long as `late` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self.decided = asyncio.Event()
        """Set when a late read is decided."""
        self.go_on = asyncio.Event()

    async def _reply_to(self, request: Message) -> Reply:
        late = self.late and request.operation in READS
        reply = await super()._reply_to(request)
        if late:
            self.decided.set()
            await self.go_on.wait()
        return reply


class LateJoining(DynamoRecordStore):
    """Has the bug of JoinsTheLeft."""

    def _gathered(
        self, projection: Mapping[str, Any], reads: type[GatheredReads[Item | None]] = JoinsTheLeft
    ) -> GatheredReads[Item | None]:
        return super()._gathered(projection, reads)


@asynccontextmanager
async def opened(dynamodb: StandInDynamoDb, store: type[DynamoRecordStore]) -> AsyncIterator[DynamoRecordStore]:
    async with account(dynamodb) as made:
        await master_key(made)
        async with open_clients(options(made.kms_address, made.dynamodb_address)) as (_, client):
            yield store(client, "keyvault")


@pytest.mark.parametrize("store", [DynamoRecordStore, LateJoining])
async def test_a_read_shows_each_write_that_was_answered_before_it(store: type[DynamoRecordStore]) -> None:
    """Also while reads of the name are out that began earlier. A store that joins them is caught."""
    dynamodb = LateReplies()
    async with opened(dynamodb, store) as records:
        first = some_record()
        second = some_record(first)
        await records.put_if(TENANT, "k", first, None)
        dynamodb.late = True
        early = asyncio.create_task(records.get(TENANT, "k"))
        await dynamodb.decided.wait()
        dynamodb.late = False
        await records.put_if(TENANT, "k", second, first.head)
        late = [asyncio.create_task(records.get(TENANT, "k")) for _ in range(4)]
        await asyncio.sleep(0)
        dynamodb.go_on.set()
        assert await early == first
        assert (await asyncio.gather(*late) == [second] * 4) is (store is DynamoRecordStore)


async def test_reads_that_wait_share_few_requests(line: Line) -> None:
    names = ["prod/" + os.urandom(8).hex() for _ in range(3 * MOST_NAMES)]
    record = some_record()
    await line.records.put_if(TENANT, names[0], record, None)
    line.dynamodb.requests.clear()
    found = await asyncio.gather(*(line.records.get(TENANT, name) for name in names + names))
    assert found == ([record] + [None] * (len(names) - 1)) * 2
    assert line.dynamodb.requests == {"BatchGetItem": 3}


async def test_a_throttled_key_delays_no_other() -> None:
    """It is asked for alone, by all who want it together."""
    dynamodb = StandInDynamoDb()
    async with opened(dynamodb, DynamoRecordStore) as records:
        stored = {f"k{number}": some_record() for number in range(6)}
        for name, record in stored.items():
            await records.put_if(TENANT, name, record, None)
        dynamodb.throttles = lambda key: key.endswith(("k3", "k4"))
        before = dynamodb.calls.copy()
        found = await asyncio.gather(*(records.get(TENANT, name) for name in [*stored, "k4", "k4"]))
        assert found == [*stored.values(), stored["k4"], stored["k4"]]
        assert dynamodb.calls - before == {"GetItem": 2, "BatchGetItem": 1}
