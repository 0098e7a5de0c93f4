"""Reads: what is checked before the store is asked, and what a stored record answers.

The rule of this file: who may read is decided before anything is looked up, so that no answer shows more.
"""

from typing import NamedTuple

from keyvault_api.envelope import Kind
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import InvalidRequest, RecordCorrupt, RecordNotFound
from keyvault_server.core.history import check_revision_alone
from keyvault_server.core.mutation import check_key_id
from keyvault_server.core.ports import RecordStore
from keyvault_server.core.records import DIGEST_SIZE, StoredHead, digest, state_of


class Found(NamedTuple):
    """The answer to a Read. Times are microseconds since 1970."""

    revision: int
    created: int
    updated: int
    deleted: bool
    envelope: bytes | None
    """None if the caller's known revision is the stored one."""


def judge(
    caller: Caller, key_id: str, known_revision: int = 0, revision: int = 0, *, include_deleted: bool = False
) -> None:
    """Raise VaultError unless the caller may make this Read now; take it from the caller's quota."""
    caller.note(key_id)
    check_key_id(key_id)
    if known_revision < 0:
        raise InvalidRequest(f"known_revision must not be negative, got {known_revision}", field="known_revision")
    check_revision_alone(revision, known_revision, include_deleted=include_deleted)
    caller.permit(key_id)
    caller.spend()


async def find(
    records: RecordStore, caller: Caller, key_id: str, known_revision: int = 0, *, include_deleted: bool = False
) -> Found:
    """Answer a Read that was judged with what is stored, and charge the caller for its bytes.

    Raises RecordNotFound, RecordCorrupt.
    """
    if known_revision:
        head = await records.get_head(caller.tenant, key_id)
        if head is not None and state_of(head).revision == known_revision:
            return _found(head, None, include_deleted=include_deleted)
    record = await records.get(caller.tenant, key_id)
    if record is None:
        raise RecordNotFound
    envelope = record.envelope
    caller.charge(len(envelope))
    return _found(record, envelope, include_deleted=include_deleted)


def _found(stored: StoredHead, envelope: bytes | None, *, include_deleted: bool) -> Found:
    state = state_of(stored)
    if state.kind is None or (state.kind is Kind.TOMBSTONE and not include_deleted):
        raise RecordNotFound
    if envelope is not None and digest(envelope) != stored.ring[:DIGEST_SIZE]:
        raise RecordCorrupt(state.revision)
    return Found(state.revision, stored.created, stored.updated, not state.live, envelope)
