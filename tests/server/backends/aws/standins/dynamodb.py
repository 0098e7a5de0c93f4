"""DynamoDB as far as the server uses it: tables of one partition key, consistent reads, atomic conditional puts.

With `stale`, a read that does not ask for consistency is answered with what was stored before the last write, which
AWS allows. `behind` says how many writes the replica of an index has not seen that answers the next Query. The rule of
this file: an item is stored only after all of it was checked.

Source: Amazon DynamoDB API Reference "GetItem", "BatchGetItem", "PutItem", "DeleteItem", "Scan", "Query",
"CreateTable", "UpdateTable"; Developer Guide "Service, account and table quotas".
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from tests.server.backends.aws.standins.conditions import Item, holds, projected
from tests.server.backends.aws.standins.index import Index
from tests.server.backends.aws.standins.service import (
    ACCOUNT,
    REGION,
    AwsError,
    InvalidInput,
    Parameters,
    Service,
    text,
)

MAX_ITEM = 409_600
MAX_KEY = 2_048
MAX_DIGITS = 38
MAX_PAGE = 1024 * 1024
MAX_BATCH = 100
MAX_BATCH_REPLY = 16 * 1024 * 1024


class Table:
    """A table: the item of each key, and the one before it."""

    def __init__(self, given: Parameters) -> None:
        self.name = text(given, "TableName")
        self.schema = given["KeySchema"]
        self.definitions = given["AttributeDefinitions"]
        self.backups = False
        self.items: dict[str, Item] = {}
        self.before: dict[str, Item | None] = {}
        (self.key,) = (entry["AttributeName"] for entry in self.schema)
        self.indexes: dict[str, Index] = {}
        for index in given.get("GlobalSecondaryIndexes", ()):
            self.add_index(index)
        self.check_definitions()

    def add_index(self, given: Parameters) -> None:
        """Make an index of the items that are there."""
        index = self.indexes[given["IndexName"]] = Index(given, self.key)
        for key, item in self.items.items():
            index.write(key, item)

    def check_definitions(self) -> None:
        """Raise InvalidInput unless exactly the keys are defined."""
        keys = {self.key, *(key for index in self.indexes.values() for key in index.keys)}
        defined = {entry["AttributeName"] for entry in self.definitions if entry["AttributeType"] == "S"}
        if len(self.definitions) != len(defined) or defined != keys:
            raise InvalidInput("this stand-in has keys of type S, each defined, and nothing else")

    def key_of(self, given: Item) -> str:
        """Return the key of an item. Raises InvalidInput."""
        value = given.get(self.key, {}).get("S")
        if not isinstance(value, str) or not 1 <= len(value.encode()) <= MAX_KEY:
            raise InvalidInput("the key is missing, of another type, empty or too long")
        return value

    def describe(self) -> dict[str, Any]:
        return {
            "TableName": self.name,
            "TableArn": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.name}",
            "TableStatus": "ACTIVE",
            "KeySchema": self.schema,
            "AttributeDefinitions": self.definitions,
            "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
            "GlobalSecondaryIndexes": [index.describe() for index in self.indexes.values()],
        }


class StandInDynamoDb(Service):
    """The tables of one account in one Region, in memory."""

    name = "dynamodb"
    target = "DynamoDB_20120810"
    json_version = "1.0"
    checksums = True

    def __init__(self, *, stale: bool = False) -> None:
        self.stale = stale
        self.throttles: Callable[[str], bool] = lambda key: False
        """Whether a batch leaves this key unprocessed."""
        self.behind: Callable[[], int] = lambda: 0
        """How many writes the next Query does not see."""
        self._tables: dict[str, Table] = {}
        operations = {
            "BatchGetItem": self._batch_get_item,
            "CreateTable": self._create_table,
            "DescribeContinuousBackups": self._describe_backups,
            "DescribeTable": lambda given: {"Table": self._table(given).describe()},
            "DescribeTimeToLive": self._describe_ttl,
            "DeleteItem": self._delete_item,
            "GetItem": self._get_item,
            "PutItem": self._put_item,
            "Query": self._query,
            "Scan": self._scan,
            "UpdateContinuousBackups": self._update_backups,
            "UpdateTable": self._update_table,
        }
        super().__init__(operations)

    def _create_table(self, given: Parameters) -> dict[str, Any]:
        table = Table(given)
        if table.name in self._tables:
            raise AwsError("ResourceInUseException")
        self._tables[table.name] = table
        return {"TableDescription": table.describe()}

    def _update_table(self, given: Parameters) -> dict[str, Any]:
        table = self._table(given)
        ((create,),) = (update.values() for update in given["GlobalSecondaryIndexUpdates"])
        table.definitions = given["AttributeDefinitions"]
        table.add_index(create)
        table.check_definitions()
        return {"TableDescription": table.describe()}

    def _query(self, given: Parameters) -> dict[str, Any]:
        index = self._table(given).indexes.get(text(given, "IndexName"))
        if index is None:
            raise InvalidInput("The table does not have the specified index")
        return index.query(given, self.behind, _size)

    def _describe_ttl(self, given: Parameters) -> dict[str, Any]:
        self._table(given)
        return {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}

    def _update_backups(self, given: Parameters) -> dict[str, Any]:
        self._table(given).backups = bool(given["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"])
        return self._describe_backups(given)

    def _describe_backups(self, given: Parameters) -> dict[str, Any]:
        recovery = {"PointInTimeRecoveryStatus": "ENABLED" if self._table(given).backups else "DISABLED"}
        description = {"ContinuousBackupsStatus": "ENABLED", "PointInTimeRecoveryDescription": recovery}
        return {"ContinuousBackupsDescription": description}

    def _get_item(self, given: Parameters) -> dict[str, Any]:
        table = self._table(given)
        key = table.key_of(given["Key"])
        consistent = given.get("ConsistentRead", False) or not self.stale
        item = table.items.get(key) if consistent else table.before.get(key)
        return {} if item is None else {"Item": projected(given, item)}

    def _batch_get_item(self, given: Parameters) -> dict[str, Any]:
        """Return items in no order of the keys; those beyond 16 MB, or throttled, are the unprocessed keys."""
        ((name, wanted),) = given["RequestItems"].items()
        table, keys = self._table({"TableName": name}), wanted["Keys"]
        if not 1 <= len(keys) <= MAX_BATCH or len({table.key_of(key) for key in keys}) < len(keys):
            raise InvalidInput("a batch has 1 to 100 keys, each of them once")
        items: list[Item] = []
        unprocessed: list[Item] = []
        size = 0
        for key in reversed(keys):
            found = self._get_item({**wanted, "TableName": name, "Key": key}).get("Item")
            size += _size(table.items.get(table.key_of(key), {}))
            if self.throttles(table.key_of(key)) or size > MAX_BATCH_REPLY:
                unprocessed.append(key)
            elif found is not None:
                items.append(found)
        if len(unprocessed) == len(keys):
            raise AwsError("ProvisionedThroughputExceededException")
        left = {name: {**wanted, "Keys": unprocessed}} if unprocessed else {}
        return {"Responses": {name: items}, "UnprocessedKeys": left}

    def _scan(self, given: Parameters) -> dict[str, Any]:
        """Return a page of up to 1 MB, in the order of the keys."""
        table = self._table(given)
        after = table.key_of(given["ExclusiveStartKey"]) if "ExclusiveStartKey" in given else ""
        page: list[Item] = []
        size = 0
        for key in sorted(key for key in table.items if key > after):
            page.append(projected(given, table.items[key]))
            size += _size(table.items[key])
            if size >= MAX_PAGE:
                return {"Items": page, "Count": len(page), "LastEvaluatedKey": {table.key: page[-1][table.key]}}
        return {"Items": page, "Count": len(page)}

    def _put_item(self, given: Parameters) -> dict[str, Any]:
        table, item = self._table(given), given["Item"]
        key = table.key_of(item)
        if _size(item) > MAX_ITEM:
            raise InvalidInput("Item size has exceeded the maximum allowed size")
        stored = table.items.get(key)
        if not holds(given, stored):
            wanted = given.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" and stored is not None
            more: dict[str, Any] = {"Item": stored} if wanted else {}
            raise AwsError("ConditionalCheckFailedException", "The conditional request failed", **more)
        for index in table.indexes.values():
            index.write(key, item)
        table.before[key], table.items[key] = stored, item
        return {}

    def _delete_item(self, given: Parameters) -> dict[str, Any]:
        table = self._table(given)
        key = table.key_of(given["Key"])
        stored = table.items.get(key)
        if not holds(given, stored):
            raise AwsError("ConditionalCheckFailedException", "The conditional request failed")
        if stored is not None:
            table.before[key] = table.items.pop(key)
            for index in table.indexes.values():
                index.write(key, {})
        return {}

    def table(self, name: str) -> Table:
        """Return a table, which a test may look at and write past its operations."""
        return self._tables[name]

    def _table(self, given: Parameters) -> Table:
        name = text(given, "TableName")
        if name not in self._tables:
            raise AwsError("ResourceNotFoundException")
        return self._tables[name]


def _size(item: Item) -> int:
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    """Return the bytes of one attribute's value. Raises InvalidInput for a type that the server does not write."""
    ((kind, content),) = value.items()
    if kind == "B":
        try:
            return len(base64.b64decode(content, validate=True))
        except binascii.Error:
            raise AwsError("SerializationException") from None
    if kind == "S":
        return len(content.encode())
    if kind == "N":
        digits = content.lstrip("-").replace(".", "", 1)
        if not digits.isdecimal() or len(digits.strip("0")) > MAX_DIGITS:
            raise InvalidInput("a number has up to 38 significant digits")
        return (len(digits) + 1) // 2 + 1
    if kind == "NULL":
        return 1
    raise InvalidInput(f"this stand-in has no attributes of type {kind}")
