"""Names of live or deleted records in DynamoDB: the sparse index `names`. docs/dynamodb.md has its cost and its delay.

The rules of this file. An item is in the index exactly if its record is listed. What the index holds of an item changes
when a record is created, deleted or purged: an Update leaves the index alone. A name's partition key follows from its
tenant and key_id, so a place in a listing is a name and nothing else.

Source: DynamoDB API Reference "Query"; Developer Guide "Using Global Secondary Indexes in DynamoDB".
"""

import logging
from typing import Any

from keyvault_api.envelope import Kind
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.faults import AwsFault, NotDone
from keyvault_server.backends.aws.item import KEY, SEPARATOR, Item, partition_key, time_of
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.ports import ListedName, NamePage
from keyvault_server.core.records import StoredHead, listed_as

INDEX = "names"
LISTED, NAME, CREATED = "listed", "key_id", "created"
INDEX_TYPES = [{"AttributeName": LISTED, "AttributeType": "S"}, {"AttributeName": NAME, "AttributeType": "S"}]
DEFINITION: dict[str, Any] = {
    "IndexName": INDEX,
    "KeySchema": [{"AttributeName": LISTED, "KeyType": "HASH"}, {"AttributeName": NAME, "KeyType": "RANGE"}],
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": [CREATED]},
}
"""The index, as CreateTable and UpdateTable take it and DescribeTable shows it."""

_log = logging.getLogger(__name__)

_PARTITIONS = {Kind.DATA: "live", Kind.TOMBSTONE: "deleted"}
_ALL = f"#{LISTED} = :{LISTED}"
_BY_PREFIX = f"{_ALL} AND begins_with(#{NAME}, :prefix)"


def index_attributes(tenant: str, key_id: str, record: StoredHead) -> dict[str, Any]:
    """Return the attributes that put an item into the index; none if its record is not listed."""
    kind = listed_as(record)
    return {} if kind is None else {LISTED: _partition(tenant, kind), NAME: {"S": key_id}}


async def query_names(
    dynamodb: AwsClient, table: str, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool
) -> NamePage:
    """Return a page of names; see RecordStore. One eventually consistent Query of at most 1 MB.

    DynamoDB gives a place to go on from also where nothing follows. What we send is valid, so it objects only to an
    index that was removed, or that is being filled, since the start. Raises RecordCorrupt, BackendUnavailable.
    """
    listed = _partition(tenant, Kind.TOMBSTONE if deleted else Kind.DATA)
    names, values = {f"#{LISTED}": LISTED}, {f":{LISTED}": listed}
    if prefix:  # begins_with of an empty text is refused
        names, values = names | {f"#{NAME}": NAME}, values | {":prefix": {"S": prefix}}
    start: dict[str, Any] = {}
    if after:
        key = {KEY: {"S": partition_key(tenant, after)}, LISTED: listed, NAME: {"S": after}}
        start = {"ExclusiveStartKey": key}
    try:
        reply = await dynamodb.call(
            "query",
            "Items",
            TableName=table,
            IndexName=INDEX,
            KeyConditionExpression=_BY_PREFIX if prefix else _ALL,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            Limit=limit,
            **start,
        )
    except AwsFault as fault:
        if fault.code != "ValidationException":
            raise
        _log.error("List fails: the table has no index of this name that is ACTIVE", extra={"index": INDEX})
        raise NotDone from fault
    more = reply.get("LastEvaluatedKey")
    return NamePage([_listed_name(item) for item in reply["Items"]], _name_in(more) if more else None)


def _partition(tenant: str, kind: Kind) -> dict[str, str]:
    return {"S": tenant + SEPARATOR + _PARTITIONS[kind]}


def _listed_name(item: Item) -> ListedName:
    return ListedName(_name_in(item), time_of(item, CREATED))


def _name_in(item: Item) -> str:
    """Return the item's name. Raises RecordCorrupt for what the index cannot hold."""
    name = item.get(NAME, {}).get("S")
    if not isinstance(name, str):
        raise RecordCorrupt
    return name
