"""What a DynamoDB table has to be, and which ones the server refuses to start on.

The rule of this file: the server refuses a table whose conditional writes do not give what the vault needs, a table
that deletes items by itself, one without the index of the names, and a table that it cannot examine.

Source: DynamoDB API Reference "DescribeTable", "DescribeTimeToLive"; Developer Guide "Global tables".
"""

from collections.abc import Mapping
from typing import Any

from keyvault_server.backends.aws.calls import AwsClient, explain_failures
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.backends.aws.item import KEY
from keyvault_server.backends.aws.name_index import DEFINITION, INDEX, INDEX_TYPES
from keyvault_server.core.errors import OperatorError

KEY_SCHEMA = [{"AttributeName": KEY, "KeyType": "HASH"}]
KEY_TYPES = [{"AttributeName": KEY, "AttributeType": "S"}]
ATTRIBUTE_TYPES = [*KEY_TYPES, *INDEX_TYPES]
NOT_OFFERED = ("UnknownOperationException", "UnsupportedOperationException")
"""Error codes with which a stand-in for DynamoDB answers an operation that it does not have."""


class UnsafeTable(OperatorError):
    """The table is not safe to keep records in; the message says why."""


async def refuse_unsafe_table(dynamodb: AwsClient, name: str) -> None:
    """Raise UnsafeTable for such a table; NoUsableAnswer if AWS does not answer now (a supervisor restarts us)."""
    with explain_failures(f"table {name}", absent=f"table {name} does not exist: `keyvault-server init` makes it"):
        table = (await dynamodb.call("describe_table", "Table", TableName=name))["Table"]
        expiry = await _time_to_live(dynamodb, name)
    if table.get("TableStatus") not in ("ACTIVE", "UPDATING"):
        raise UnsafeTable(f"table {name} is {table.get('TableStatus')}: it must be ACTIVE or UPDATING")
    if not has_our_key(table):
        raise UnsafeTable(
            f"table {name} must have the partition key {KEY} of type S and no sort key: set another KEYVAULT_AWS_TABLE"
        )
    if expiry != "DISABLED":
        raise UnsafeTable(f"table {name} has a TTL ({expiry}), which would delete records: disable it")
    if _is_eventual(table):
        raise UnsafeTable(
            f"table {name} is a global table with eventual consistency, which would lose writes:"
            " use multi-Region strong consistency, or another table"
        )
    _refuse_other_index(table, name)


async def _time_to_live(dynamodb: AwsClient, name: str) -> str:
    try:
        reply = await dynamodb.call("describe_time_to_live", "TimeToLiveDescription", TableName=name)
    except AwsFault as fault:
        if fault.code in NOT_OFFERED:
            return "DISABLED"
        raise
    return str(reply["TimeToLiveDescription"].get("TimeToLiveStatus"))


def index_of(table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the index of the names, as DescribeTable describes it; None if there is none."""
    indexes = table.get("GlobalSecondaryIndexes") or ()
    return next((index for index in indexes if index.get("IndexName") == INDEX), None)


def _refuse_other_index(table: Mapping[str, Any], name: str) -> None:
    index = index_of(table)
    if index is None:
        raise UnsafeTable(f"table {name} has no index {INDEX}: `keyvault-server init` makes it")
    if {key: index.get(key) for key in DEFINITION} != DEFINITION:
        raise UnsafeTable(
            f"index {INDEX} of table {name} must have the keys listed and key_id and project created alone: delete it,"
            " then `keyvault-server init` makes it"
        )
    if index.get("IndexStatus") != "ACTIVE":
        raise UnsafeTable(f"index {INDEX} of table {name} is {index.get('IndexStatus')}: wait until it is ACTIVE")


def has_our_key(table: Mapping[str, Any]) -> bool:
    """Return whether the partition key is ours; the attribute definitions may include those of indexes."""
    types = [entry for entry in table.get("AttributeDefinitions", []) if entry.get("AttributeName") == KEY]
    return table.get("KeySchema") == KEY_SCHEMA and types == KEY_TYPES


def _is_eventual(table: Mapping[str, Any]) -> bool:
    replicated = bool(table.get("Replicas") or table.get("GlobalTableVersion"))
    return replicated and table.get("MultiRegionConsistency") != "STRONG"
