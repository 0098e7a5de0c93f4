"""Copies of earlier envelopes: an item each, next to the records, with the revision as a third part of its key.

The rules of this file. A copy is put unconditionally: a name's revision has one envelope, so a late or repeated put
changes nothing. Removals run in the background, since nobody waits for them; one that fails is logged, counted and left
to `keyvault-server sweep`. The server's role may delete items whose key has two separators, and no others.

Source: DynamoDB API Reference "PutItem", "DeleteItem", "Scan".
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from keyvault_api.envelope import MAX_REVISION
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.backends.aws.item import KEY, SEPARATOR, Item, binary_of, partition_key
from keyvault_server.core.errors import VaultError
from keyvault_server.core.ports import CopyName
from keyvault_server.core.records import FORMAT

MOST_REMOVALS = 256
"""Mutations whose copies are being removed at a time; those of the next one are left to `sweep`."""

_ENVELOPE = "envelope"
_PROJECTION = {"ProjectionExpression": f"#{KEY}", "ExpressionAttributeNames": {f"#{KEY}": KEY}}

_log = logging.getLogger(__name__)


class Copies:
    """The copies in one table."""

    def __init__(self, dynamodb: AwsClient, table: str, read: Callable[[str], Awaitable[Item | None]]) -> None:
        """`read` reads an item by its key, consistently."""
        self._dynamodb = dynamodb
        self._table = table
        self._read = read
        self._removing: set[asyncio.Task[None]] = set()
        self.not_removed = Counter(dict.fromkeys(("failed", "too_many", "stopping"), 0))
        """Copies that were left to `sweep`, by reason."""

    async def put(self, name: CopyName, envelope: bytes) -> None:
        """Write a copy."""
        item = {KEY: {"S": _key_of(name)}, "format": {"N": str(FORMAT)}, _ENVELOPE: {"B": envelope}}
        await self._dynamodb.call("put_item", repeatable=True, TableName=self._table, Item=item)

    async def get(self, name: CopyName) -> bytes | None:
        """Return the envelope; None if there is no copy, or its item has another shape."""
        item = await self._read(_key_of(name))
        return None if item is None else binary_of(item, _ENVELOPE)

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """Begin to remove copies."""
        if len(self._removing) >= MOST_REMOVALS:
            self.not_removed["too_many"] += len(revisions)
            _log.warning(
                "too many removals at a time: keyvault-server sweep removes these copies",
                extra={"copies": len(revisions)},
            )
            return
        task = asyncio.create_task(self._remove_each([CopyName(tenant, key_id, revision) for revision in revisions]))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def remove_if(self, name: CopyName, envelope: bytes) -> bool:
        """Remove a copy that has these bytes; return whether it had."""
        try:
            await self._delete(
                name,
                ConditionExpression="#envelope = :envelope",
                ExpressionAttributeNames={"#envelope": _ENVELOPE},
                ExpressionAttributeValues={":envelope": {"B": envelope}},
            )
        except AwsFault as fault:
            if fault.code != "ConditionalCheckFailedException":
                raise
            return False
        return True

    async def walk(self) -> AsyncIterator[CopyName]:
        """Yield the names of all copies. A consistent Scan, which costs as much as a walk over the records."""
        async for page in scan(self._dynamodb, self._table, **_PROJECTION):
            for item in page:
                if name := copy_name(item[KEY]["S"]):
                    yield name

    async def finish(self) -> None:
        """Wait for the removals, for as long as one call may take, so that a slow DynamoDB does not hold up a stop."""
        if not self._removing:
            return
        _, slow = await asyncio.wait(self._removing, timeout=self._dynamodb.seconds)
        for task in slow:
            task.cancel()
        if slow:
            await asyncio.wait(slow)
            _log.warning("stopped while copies were removed: keyvault-server sweep removes the rest")

    async def _remove_each(self, names: list[CopyName]) -> None:
        """Remove copies one after the other, so that they take one connection; stop at a failure."""
        for done, name in enumerate(names):
            try:
                await self._delete(name)
            except asyncio.CancelledError:  # by `finish`
                self.not_removed["stopping"] += len(names) - done
                raise
            except (VaultError, AwsFault) as error:
                self.not_removed["failed"] += len(names) - done
                fault = error if isinstance(error, AwsFault) else error.__cause__
                why = str(fault or type(error).__name__)
                _log.warning(
                    "copies were not removed: keyvault-server sweep removes them",
                    extra={"copies": len(names) - done, "error": why},
                )
                return

    async def _delete(self, name: CopyName, **condition: Any) -> None:
        await self._dynamodb.call(
            "delete_item",
            repeatable=not condition,
            TableName=self._table,
            Key={KEY: {"S": _key_of(name)}},
            **condition,
        )


async def scan(dynamodb: AwsClient, table: str, **projection: Any) -> AsyncIterator[list[Mapping[str, Any]]]:
    """Yield the items of a table in pages of up to 1 MB, read consistently; one read unit for each 4 KB."""
    start: dict[str, Any] = {}
    while True:
        page = await dynamodb.call("scan", "Items", TableName=table, ConsistentRead=True, **projection, **start)
        yield page["Items"]
        if not page.get("LastEvaluatedKey"):
            return
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def copy_name(key: str) -> CopyName | None:
    """Return what a partition key says of a copy; None if it is not the key of one."""
    parts = key.split(SEPARATOR)
    if len(parts) != 3:
        return None
    tenant, key_id, digits = parts
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and str(int(digits)) == digits):
        return None
    return CopyName(tenant, key_id, int(digits)) if 1 <= int(digits) <= MAX_REVISION else None


def _key_of(name: CopyName) -> str:
    return partition_key(name.tenant, name.key_id) + SEPARATOR + str(name.revision)
