"""Earlier revisions of a record: which can be read, reading one, and keeping the one that an Update replaces.

The rule of this file: the stored head alone decides what can be read, whatever the settings are now. A copy of an
earlier envelope is believed only if the ring has its digest. It is written before the head moves, and removed after.
"""

import asyncio
from collections.abc import Awaitable

from keyvault_api.envelope import MAX_ENVELOPE, MIN_ENVELOPE, Kind
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import InvalidRequest, RecordCorrupt, RecordNotFound, RevisionNotFound
from keyvault_server.core.mutation import Mutation, check_key_id
from keyvault_server.core.ports import RecordStore
from keyvault_server.core.records import (
    Readable,
    Record,
    StoredHead,
    digest,
    digest_of,
    readable_revisions,
    state_of,
)

MOST_HELD = 32
"""Updates that hold the record that they replace, to make a copy of it, at a time."""


def check_revision_alone(revision: int, known_revision: int, *, include_deleted: bool) -> None:
    """Raise InvalidRequest unless a Read may ask for this revision (0: the current one)."""
    if revision < 0:
        raise InvalidRequest(f"revision must not be negative, got {revision}", field="revision")
    if revision and (known_revision or include_deleted):
        other = "known_revision" if known_revision else "include_deleted"
        raise InvalidRequest(f"revision cannot be combined with {other}: leave one out", field="revision")


async def list_revisions(records: RecordStore, caller: Caller, key_id: str) -> list[Readable]:
    """Return the revisions that can be read, newest first. Raises RecordNotFound, RecordCorrupt."""
    caller.note(key_id)
    check_key_id(key_id)
    caller.permit(key_id)
    caller.spend()
    head = _live(await records.get_head(caller.tenant, key_id))
    readable = list(readable_revisions(head))
    if not all(MIN_ENVELOPE <= one.size <= MAX_ENVELOPE for one in readable):
        raise RecordCorrupt(state_of(head).revision)
    return readable


async def find_revision(
    records: RecordStore, tenant: str, key_id: str, revision: int
) -> tuple[StoredHead, Readable, bytes]:
    """Return the head, what it says of a revision, and the envelope of that revision.

    1. The head decides whether the revision can be read.
    2. The current one is in the record, an earlier one in a copy, and the ring has the digest of both.
    3. A copy that is missing or wrong was removed after the head was read, if another head is stored: start over.

    Raises RecordNotFound, RevisionNotFound, RecordCorrupt.
    """
    head = _live(await records.get_head(tenant, key_id))
    while True:
        # 1.
        current = state_of(head).revision
        if not head.since <= revision <= current:
            raise RevisionNotFound(current)
        # 2.
        if revision == current:
            record = await records.get(tenant, key_id)
            envelope = record.envelope if record is not None and record.head == head.head else None
        else:
            envelope = await records.get_copy(tenant, key_id, revision)
        if envelope is not None and digest(envelope) == digest_of(head, revision, current):
            readable = next(one for one in readable_revisions(head) if one.revision == revision)
            return head, readable, envelope
        # 3.
        now = _live(await records.get_head(tenant, key_id))
        if now.head == head.head:
            raise RecordCorrupt(current)
        head = now


async def keep_superseded(
    records: RecordStore, mutation: Mutation, record: Record, stored: StoredHead | None, intent: Awaitable[None]
) -> None:
    """Await the intent; at the same time, write a copy of the envelope that `record` replaces, if it stays readable.

    Both have ended when it returns or raises: the outcome in the audit log refers to the intent, and nothing of a call
    outlives it.
    """
    if record.superseded and isinstance(stored, Record):
        keeping = records.keep(mutation.tenant, mutation.key_id, record.superseded, stored)
        for outcome in await asyncio.gather(keeping, intent, return_exceptions=True):
            if outcome is not None:
                raise outcome
    else:
        await intent


def remove_unreadable(
    records: RecordStore, mutation: Mutation, record: Record, stored: StoredHead | None, history: int
) -> None:
    """Remove the copies of what could be read until `record` was put in place of `stored`.

    A copy of the replaced revision itself exists only if an earlier Update failed after it had written one; where
    there is no history, none does, and nothing is asked of the store.
    """
    if stored is None or not state_of(stored).live:
        return
    end = record.since if history else min(record.since, mutation.header.revision - 1)
    if stored.since < end:
        records.remove(mutation.tenant, mutation.key_id, range(stored.since, end))


def _live(stored: StoredHead | None) -> StoredHead:
    if stored is None or state_of(stored).kind is not Kind.DATA:
        raise RecordNotFound
    return stored
