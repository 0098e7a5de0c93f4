"""Which DynamoDB tables the server refuses to start on.

The rule of this file: a table on which a conditional write does not mean what the vault needs, or that deletes by
itself, is refused before the first call; so is one that cannot be looked at.

Source: DynamoDB API Reference "DescribeTable", "DescribeTimeToLive"; Developer Guide "Global tables".
"""

from collections.abc import Mapping
from typing import Any

from keyvault_server.backends.aws.calls import AwsClient, AwsFault, refused
from keyvault_server.backends.aws.dynamodb import KEY
from keyvault_server.core.errors import OperatorError

KEY_SCHEMA = [{"AttributeName": KEY, "KeyType": "HASH"}]
KEY_TYPES = [{"AttributeName": KEY, "AttributeType": "S"}]
NOT_OFFERED = ("UnknownOperationException", "UnsupportedOperationException")
"""What stand-ins answer for an operation that they lack."""


class UnsafeTable(OperatorError):
    """The table cannot be served from; one line says why."""


async def refuse_unsafe_table(dynamodb: AwsClient, name: str) -> None:
    """Raises UnsafeTable; NoUsableAnswer if AWS does not answer now: whoever starts the server starts it again."""
    with refused(f"table {name}", absent=f"table {name} does not exist: `keyvault-server init` makes it"):
        table = (await dynamodb.call("describe_table", "Table", TableName=name))["Table"]
        expiry = await _time_to_live(dynamodb, name)
    if table.get("TableStatus") not in ("ACTIVE", "UPDATING"):
        raise UnsafeTable(f"table {name} is {table.get('TableStatus')}, not ACTIVE")
    if not _has_our_key(table):
        raise UnsafeTable(f"table {name} has another key than the one partition key {KEY} of type S")
    if expiry != "DISABLED":
        raise UnsafeTable(f"table {name} has a TTL ({expiry}), which would delete records: switch it off")
    if _is_eventual(table):
        raise UnsafeTable(f"table {name} is a global table of eventual consistency, which would lose writes")


async def _time_to_live(dynamodb: AwsClient, name: str) -> str:
    try:
        reply = await dynamodb.call("describe_time_to_live", "TimeToLiveDescription", TableName=name)
    except AwsFault as fault:
        if fault.code in NOT_OFFERED:
            return "DISABLED"
        raise
    return str(reply["TimeToLiveDescription"].get("TimeToLiveStatus"))


def _has_our_key(table: Mapping[str, Any]) -> bool:
    """Attribute definitions may hold those of indexes too."""
    types = [entry for entry in table.get("AttributeDefinitions", []) if entry.get("AttributeName") == KEY]
    return table.get("KeySchema") == KEY_SCHEMA and types == KEY_TYPES


def _is_eventual(table: Mapping[str, Any]) -> bool:
    replicated = bool(table.get("Replicas") or table.get("GlobalTableVersion"))
    return replicated and table.get("MultiRegionConsistency") != "STRONG"
