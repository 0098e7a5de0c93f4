"""Amazon DynamoDB as a RecordStore (see ports.py): one item a record. docs/dynamodb.md has the attributes.

The rules of this file. Every read is consistent, and reads that wait share a BatchGetItem (`gathered_reads.py`). A
write is one PutItem whose condition is on `head`. It is never sent twice, because the second could fail for what the
first did: after an unknown outcome the store looks at what is stored, and raises BackendUnavailable if that does not
show the outcome. Every attribute goes through ExpressionAttributeNames. An item that does not hold a record is returned
as one that `records.state_of` refuses, so that it reads as RECORD_CORRUPT and a purge can still replace it.

Source: DynamoDB API Reference "GetItem", "BatchGetItem", "PutItem", "Scan"; Developer Guide "Condition expressions".
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.copies import Copies, copy_name, scan
from keyvault_server.backends.aws.faults import AwsFault, NotDone
from keyvault_server.backends.aws.gathered_reads import MOST_NAMES, GatheredReads
from keyvault_server.backends.aws.item import KEY, SEPARATOR, Item, binary_of, partition_key, revision_of, time_of
from keyvault_server.backends.aws.name_index import index_attributes, query_names
from keyvault_server.core.errors import BackendUnavailable, RecordCorrupt, VaultError
from keyvault_server.core.ports import CopyName, HeadChanged, NamePage, Walked
from keyvault_server.core.records import DIGEST_SIZE, FORMAT, Record, StoredHead, in_ring

_NAMES = {f"#{name}": name for name in (KEY, "format", "head", "ring", "created", "updated", "since", "revisions")}
_WHOLE: Mapping[str, Any] = {}
_HEAD = {"ProjectionExpression": ", ".join(_NAMES), "ExpressionAttributeNames": _NAMES}
_ABSENT = "attribute_not_exists(#pk)"
_SAME_HEAD = "#head = :head"
_INVALID_HEAD = "attribute_exists(#pk) AND (NOT attribute_type(#head, :binary) OR #head = :head)"
_EXISTS = "attribute_exists(#pk)"
_NO_ITEM = SEPARATOR
"""Partition key of an item that never exists: no tenant is empty."""
_NO_RING = b"\0"
"""Replaces the ring if ring, body or format is missing: `state_of` refuses a ring of this length."""


class DynamoRecordStore:
    """The records of one table."""

    copies_itself = False
    reads_together = MOST_NAMES

    def __init__(self, dynamodb: AwsClient, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._records, self._heads = self._gathered(_WHOLE), self._gathered(_HEAD)
        self._copies = Copies(dynamodb, table, self._records.read)

    @property
    def copies_not_removed(self) -> Mapping[str, int]:
        """Copies whose removal failed, by reason."""
        return self._copies.not_removed

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        """See RecordStore. Costs as much as `get`: DynamoDB charges for the whole item."""
        item = await self._heads.read(partition_key(tenant, key_id))
        return None if item is None else _stored_head(item)

    async def get(self, tenant: str, key_id: str) -> Record | None:
        """See RecordStore."""
        item = await self._records.read(partition_key(tenant, key_id))
        return None if item is None else _record(item)

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        """See RecordStore. `expected` b"" means an item without a valid head, which only a purge replaces."""
        pk = partition_key(tenant, key_id)
        try:
            await self._put(_item(tenant, key_id, record), **_condition(expected))
        except AwsFault as fault:
            if fault.code != "ConditionalCheckFailedException":
                raise
            # Not every engine returns the item. Another writer may have changed it since: that state is as good.
            item = fault.reply.get("Item") or await self._get(_WHOLE, pk)
            raise HeadChanged(_stored_head(item) if item else None) from None
        except NotDone:
            raise
        except BackendUnavailable as unknown:
            await self._resolve_outcome(tenant, key_id, record, unknown)

    async def _resolve_outcome(self, tenant: str, key_id: str, record: Record, unknown: BackendUnavailable) -> None:
        """Return if the write was done; raise HeadChanged if it never can be, and `unknown` if neither is certain."""
        try:
            stored = await self.get_head(tenant, key_id)
        except (VaultError, AwsFault):
            raise unknown from None
        if stored is not None and _is_head_of(stored, record):
            return
        if stored is not None and _is_overtaken(stored, record):
            raise HeadChanged(stored) from None
        raise unknown

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        """See RecordStore. Names come from an index that follows writes, usually within a second."""
        return await query_names(self._dynamodb, self._table, tenant, prefix, after, limit, deleted=deleted)

    async def walk(self) -> AsyncIterator[Walked]:
        """See RecordStore. A consistent Scan in pages of up to 1 MB; one read unit for each 4 KB of the table.

        Needs dynamodb:Scan, which the server's role does not have.
        """
        async for page in scan(self._dynamodb, self._table):
            for item in page:
                if copy_name(item[KEY]["S"]) is None:
                    yield _walked(item)

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        """See RecordStore."""
        await self._copies.put(CopyName(tenant, key_id, revision), stored.envelope)

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        """See RecordStore."""
        return await self._copies.get(CopyName(tenant, key_id, revision))

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """See RecordStore."""
        self._copies.remove(tenant, key_id, revisions)

    def walk_copies(self) -> AsyncIterator[CopyName]:
        """See RecordStore."""
        return self._copies.walk()

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        """See RecordStore."""
        return await self._copies.remove_if(CopyName(tenant, key_id, revision), envelope)

    async def aclose(self) -> None:
        """Wait until no copy is being removed any more."""
        await self._copies.finish()

    async def check(self) -> None:
        """See RecordStore. Reads an item that never exists in both ways, and writes it on condition that it exists.

        Costs two read units and one write unit. Proves the permissions and that the table answers; not that it has
        capacity for large records, nor that each of its partitions answers.
        """
        await self._get(_WHOLE, _NO_ITEM)
        await self._get_many(_WHOLE, [_NO_ITEM])
        try:
            await self._put(
                {KEY: {"S": _NO_ITEM}}, ConditionExpression=_EXISTS, ExpressionAttributeNames={f"#{KEY}": KEY}
            )
        except AwsFault as fault:
            if fault.code != "ConditionalCheckFailedException":
                raise

    def _gathered(
        self, projection: Mapping[str, Any], reads: type[GatheredReads[Item | None]] = GatheredReads
    ) -> GatheredReads[Item | None]:
        return reads(
            partial(self._get, projection),
            partial(self._get_many, projection),
            seconds=self._dynamodb.seconds,
            patience=self._dynamodb.patience,
        )

    async def _get(self, projection: Mapping[str, Any], pk: str, until: float | None = None) -> Item | None:
        reply = await self._dynamodb.call(
            "get_item", until=until, TableName=self._table, Key=_key(pk), ConsistentRead=True, **projection
        )
        item: Item | None = reply.get("Item")
        return item

    async def _get_many(
        self, projection: Mapping[str, Any], pks: Sequence[str], until: float | None = None
    ) -> Mapping[str, Item | None]:
        """Return the items by key, None for those that do not exist. Those that DynamoDB did not read are left out."""
        wanted = {"Keys": [_key(pk) for pk in pks], "ConsistentRead": True, **projection}
        reply = await self._dynamodb.call(
            "batch_get_item", "Responses", "UnprocessedKeys", until=until, RequestItems={self._table: wanted}
        )
        items = {_pk_of(item): item for item in reply["Responses"].get(self._table, ())}
        unread = {_pk_of(key) for key in reply["UnprocessedKeys"].get(self._table, {}).get("Keys", ())}
        if self._table not in reply["Responses"] or not items.keys() | unread <= set(pks):
            return {}  # it does not say what became of each key
        return {pk: items.get(pk) for pk in pks if pk not in unread}

    async def _put(self, item: Mapping[str, Any], **condition: Any) -> None:
        await self._dynamodb.call(
            "put_item",
            TableName=self._table,
            Item=item,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **condition,
        )


def _is_head_of(stored: StoredHead, record: Record) -> bool:
    """Return whether this very write stored it: another attempt at the same envelope has other times."""
    return stored == record.stored_head


def _is_overtaken(stored: StoredHead, record: Record) -> bool:
    """Return whether another envelope followed the record's predecessor, so that the condition can never hold.

    The rings show it: a ring that still holds the predecessor would hold the record too. Without the predecessor in
    the ring, or without any, a purge or sixteen newer writes may hide that the record was stored.
    """
    mine, predecessor = record.ring[:DIGEST_SIZE], record.ring[DIGEST_SIZE : 2 * DIGEST_SIZE]
    followed = in_ring(predecessor, stored.ring) and not stored.ring.startswith(predecessor)
    return followed and not in_ring(mine, stored.ring)


def _key(pk: str) -> dict[str, Any]:
    return {KEY: {"S": pk}}


def _pk_of(item: Item) -> str | None:
    pk: str | None = item.get(KEY, {}).get("S")
    return pk


def _condition(expected: bytes | None) -> dict[str, Any]:
    """Return the condition with exactly the names and values that it uses: DynamoDB refuses unused ones."""
    if expected is None:
        return {"ConditionExpression": _ABSENT, "ExpressionAttributeNames": {f"#{KEY}": KEY}}
    if expected:
        return {
            "ConditionExpression": _SAME_HEAD,
            "ExpressionAttributeNames": {"#head": "head"},
            "ExpressionAttributeValues": {":head": {"B": expected}},
        }
    return {
        "ConditionExpression": _INVALID_HEAD,
        "ExpressionAttributeNames": {f"#{KEY}": KEY, "#head": "head"},
        "ExpressionAttributeValues": {":head": {"B": b""}, ":binary": {"S": "B"}},
    }


def _item(tenant: str, key_id: str, record: Record) -> dict[str, Any]:
    return {
        KEY: {"S": partition_key(tenant, key_id)},
        **index_attributes(tenant, key_id, record),
        "format": {"N": str(FORMAT)},
        "head": {"B": record.head},
        "ring": {"B": record.ring},
        "created": {"N": str(record.created)},
        "updated": {"N": str(record.updated)},
        "since": {"N": str(record.since)},
        "revisions": {"B": record.revisions},
        "body": {"B": record.body},
    }


def _walked(item: Mapping[str, Any]) -> Walked:
    """Return an item as a walk yields it. A partition key without separator becomes the key_id of the tenant ""."""
    tenant, separator, key_id = item[KEY]["S"].partition(SEPARATOR)
    if not separator:
        tenant, key_id = "", tenant
    try:
        return Walked(tenant, key_id, _record(item))
    except RecordCorrupt:
        return Walked(tenant, key_id, None)


def _stored_head(item: Mapping[str, Any]) -> StoredHead:
    head, ring, created, updated, since, revisions = _columns(item)
    return StoredHead(head, ring, created, updated, since=since, revisions=revisions)


def _record(item: Mapping[str, Any]) -> Record:
    head, ring, created, updated, since, revisions = _columns(item)
    body = binary_of(item, "body")
    ring = _NO_RING if body is None else ring
    return Record(head, ring, created, updated, body or b"", since=since, revisions=revisions)


def _columns(item: Mapping[str, Any]) -> tuple[bytes, bytes, int, int, int, bytes]:
    """Return the attributes of a head, in the order of its fields.

    Raises RecordCorrupt for another release's format: a purge must not touch it.
    """
    number = item.get("format", {}).get("N")
    if number not in (None, str(FORMAT)):
        raise RecordCorrupt
    ring = binary_of(item, "ring")
    if number is None or ring is None:
        ring = _NO_RING
    times = time_of(item, "created"), time_of(item, "updated")
    return binary_of(item, "head") or b"", ring, *times, revision_of(item, "since"), binary_of(item, "revisions") or b""
