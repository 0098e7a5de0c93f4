"""A global secondary index that follows the writes of its table, as far behind as a test wants, page by page.

A replica of the index has seen the first writes of the table, in their order, and nothing of the others. Each Query is
answered by one replica, another one each time.

Source: Amazon DynamoDB API Reference "Query"; Developer Guide "Using Global Secondary Indexes in DynamoDB".
"""

from collections.abc import Callable
from typing import Any

from tests.server.backends.aws.standins.conditions import Item, selects
from tests.server.backends.aws.standins.service import InvalidInput, Parameters

MAX_PAGE = 1024 * 1024


class Index:
    """One index of a table; its items have the keys of the table and the index, and what is projected."""

    def __init__(self, given: Parameters, table_key: str) -> None:
        self.given = dict(given)
        self.keys = [entry["AttributeName"] for entry in given["KeySchema"]]
        projection = given["Projection"]
        if projection["ProjectionType"] != "INCLUDE" or len(self.keys) != 2:
            raise InvalidInput("this stand-in has indexes of two keys that include attributes")
        self._table_key = table_key
        self._shown = {table_key, *self.keys, *projection["NonKeyAttributes"]}
        self._writes: list[tuple[str, Item | None]] = []
        self._newest: dict[str, Item | None] = {}
        self.units = 0
        """Write units so far, each for an entry of up to 1 KB that was put or deleted."""

    def describe(self) -> dict[str, Any]:
        """Return what DescribeTable shows."""
        return self.given | {"IndexStatus": "ACTIVE"}

    def write(self, key: str, item: Item) -> None:
        """Follow a write of the table; an item without the index's keys leaves the index."""
        listed = all(name in item for name in self.keys)
        if listed and not all(item[name].get("S") for name in self.keys):
            raise InvalidInput("a key of the index is of another type or empty")
        entry = {name: item[name] for name in self._shown if name in item} if listed else None
        before = self._newest.get(key)
        if entry != before:
            moved = entry and before and any(entry[name] != before[name] for name in self.keys)
            self.units += 2 if moved else 1
        self._newest[key] = entry
        self._writes.append((key, entry))

    def query(self, given: Parameters, behind: Callable[[], int], size: Callable[[Item], int]) -> dict[str, Any]:
        """Return a page in the order of the sort key, from a replica that is so many writes behind."""
        if given.get("ConsistentRead"):
            raise InvalidInput("Consistent reads are not supported on global secondary indexes")
        partition, sort = self.keys
        found = [item for item in self._seen(behind()).values() if item is not None and selects(given, item)]
        found.sort(key=lambda item: item[sort]["S"].encode())
        start = given.get("ExclusiveStartKey")
        if start is not None:
            if set(start) != {self._table_key, *self.keys} or not selects(given, start):
                raise InvalidInput("The provided starting key is invalid")
            found = [item for item in found if item[sort]["S"].encode() > start[sort]["S"].encode()]
        page: list[Item] = []
        left = MAX_PAGE
        for item in found[: given.get("Limit")]:
            page.append(item)
            left -= size(item)
            if left <= 0:
                break
        reply: dict[str, Any] = {"Items": page, "Count": len(page)}
        if page and (left <= 0 or len(page) == given.get("Limit")):  # also where nothing follows
            reply["LastEvaluatedKey"] = {name: page[-1][name] for name in (self._table_key, partition, sort)}
        return reply

    def _seen(self, behind: int) -> dict[str, Item | None]:
        return dict(self._writes[: max(0, len(self._writes) - behind)])
