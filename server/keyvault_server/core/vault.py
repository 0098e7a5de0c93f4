"""The use cases and the one rule. Knows no gRPC, no AWS, no SQLite.

    A mutation is accepted iff its envelope opens under the data key that the stored record's head commits to, at
    revision = stored revision + 1, for this tenant and key_id; and the write is conditional on the head that was
    checked.

Order of checks, so that garbage costs no call to a backend and nothing is disclosed: names, wrapped key frame and
scope; what the caller may; envelope shape; the caller's quota; then head and ring (a digest in the ring is a replay:
proved, answered, not written), revision, key, envelope; then the conditional write. If its condition fails, replay and
revision are judged once more on what is stored, and nothing is written twice. The vault holds a data key for the length
of one request and stores none.
"""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvault_api.envelope import Kind
from keyvault_api.names import is_scope
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import (
    BackendUnavailable,
    EnvelopeNotUnderKey,
    InvalidKeyId,
    InvalidRequest,
    PolicyDenied,
    RecordCorrupt,
    RecordNotFound,
)
from keyvault_server.core.mutation import (
    Keys,
    Mutation,
    Rotation,
    check_key_id,
    check_revision,
    covering,
    framed,
    is_replay,
    prove_envelope,
    prove_ownership,
    prove_replay,
    shaped,
)
from keyvault_server.core.ports import HeadChanged, KeyService, RecordStore
from keyvault_server.core.records import StoredHead, digest, state_of, successor
from keyvault_server.core.wrapped_key import WrappedKey


@dataclass(frozen=True, slots=True)
class DataKey:
    """What GenerateKey and UnwrapKey give out."""

    tenant: str
    scope: str
    plaintext: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)


class Written(NamedTuple):
    """What an accepted mutation answers. Times are microseconds since 1970."""

    revision: int
    created: int
    updated: int
    replayed: bool


class Found(NamedTuple):
    """What Read answers. Times are microseconds since 1970."""

    revision: int
    created: int
    updated: int
    deleted: bool
    envelope: bytes | None
    """None: the caller's known revision is the stored one."""


class Vault:
    """KeyVault without the wire. Every method raises VaultError, and nothing else that a caller can cause."""

    def __init__(
        self,
        keys: KeyService,
        records: RecordStore,
        *,
        unwrap_scopes: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._records = records
        self._unwrap_scopes = frozenset(unwrap_scopes)
        self._clock = clock

    async def generate_key(self, caller: Caller, scope: str) -> DataKey:
        """A fresh data key for a key_id, for a prefix ending in "/", or, for "", a key_id that the server makes."""
        if scope and not is_scope(scope):
            raise InvalidKeyId(field="scope")
        caller.permit(scope)
        caller.spend()
        scope = scope or os.urandom(16).hex()
        new = await self._keys.generate(caller.tenant, scope)
        return DataKey(caller.tenant, scope, new.plaintext, bytes(WrappedKey(scope, new.wrapped)))

    async def rewrap_key(self, caller: Caller, wrapped_key: bytes) -> bytes:
        """The same data key, wrapped under the current master key."""
        wrapped = framed(wrapped_key)
        caller.permit(wrapped.scope)
        caller.spend()
        rewrapped = await self._keys.rewrap(caller.tenant, wrapped.scope, wrapped.wrapped)
        return bytes(WrappedKey(wrapped.scope, rewrapped))

    async def unwrap_key(self, caller: Caller, wrapped_key: bytes) -> DataKey:
        """The plaintext of a wrapped key, where the settings name its very scope."""
        wrapped = framed(wrapped_key)
        caller.permit(wrapped.scope)
        if wrapped.scope not in self._unwrap_scopes:
            raise PolicyDenied
        caller.spend()
        plaintext = await self._keys.unwrap(caller.tenant, wrapped.scope, wrapped.wrapped)
        return DataKey(caller.tenant, wrapped.scope, plaintext, wrapped_key)

    async def read(
        self, caller: Caller, key_id: str, known_revision: int = 0, *, include_deleted: bool = False
    ) -> Found:
        """The stored envelope; None in its place if the stored revision is the known one (0: none is known)."""
        check_key_id(key_id)
        if known_revision < 0:
            raise InvalidRequest("known_revision is 0 (none) or a revision", field="known_revision")
        caller.permit(key_id)
        caller.spend()
        if known_revision:
            head = await self._records.get_head(caller.tenant, key_id)
            if head is not None and state_of(head).revision == known_revision:
                return _found(head, None, include_deleted=include_deleted)
        record = await self._records.get(caller.tenant, key_id)
        if record is None:
            raise RecordNotFound
        envelope = record.envelope
        caller.charge(len(envelope))
        return _found(record, envelope, include_deleted=include_deleted)

    async def create(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Stores a record where none is, or where its owner deleted it, or where it was purged."""
        return await self._mutate(caller, key_id, wrapped_key, envelope, Kind.DATA, creates=True)

    async def update(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replaces a live record's envelope."""
        return await self._mutate(caller, key_id, wrapped_key, envelope, Kind.DATA)

    async def delete(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replaces a live record by a tombstone."""
        return await self._mutate(caller, key_id, wrapped_key, envelope, Kind.TOMBSTONE)

    async def rotate_key(
        self,
        caller: Caller,
        key_id: str,
        wrapped_key: bytes,
        authorization: bytes,
        new_wrapped_key: bytes,
        envelope: bytes,
    ) -> Written:
        """Hands a live record to another data key: `authorization`, under the present one, names the new envelope."""
        wrapped = covering(key_id, wrapped_key)
        new = covering(key_id, new_wrapped_key, "new_wrapped_key")
        caller.permit(key_id)
        permit = shaped(authorization, Kind.REKEY, "authorization")
        header = shaped(envelope, Kind.DATA)
        if permit.revision != header.revision:
            raise EnvelopeNotUnderKey("authorization and envelope carry different revisions", field="authorization")
        caller.spend()
        rotation = Rotation(caller.tenant, key_id, wrapped, envelope, header, False, authorization, new)
        return await self._apply(caller, rotation)

    async def _mutate(
        self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes, kind: Kind, *, creates: bool = False
    ) -> Written:
        wrapped = covering(key_id, wrapped_key)
        caller.permit(key_id)
        header = shaped(envelope, kind)
        caller.spend()
        return await self._apply(caller, Mutation(caller.tenant, key_id, wrapped, envelope, header, creates))

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        """Steps 1 to 5 of the order of checks."""
        stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        if stored is not None and is_replay(mutation, stored):
            prove_replay(mutation, await self._unwrap_all(mutation))
            return _replayed(caller, mutation, stored)
        state = check_revision(mutation, stored)
        keys = await self._unwrap_all(mutation)
        if stored is not None and state is not None and state.kind is not None:
            prove_ownership(mutation, stored, keys)
        prove_envelope(mutation, keys)
        record = successor(stored, mutation.envelope, self._now(), fresh=mutation.creates)
        over = stored.head if stored else None
        await caller.intend(record, over)
        try:
            await self._records.put_if(mutation.tenant, mutation.key_id, record, over)
        except HeadChanged as changed:
            return _judge_again(caller, mutation, changed.stored, keys)
        return Written(mutation.header.revision, record.created, record.updated, replayed=False)

    async def _unwrap_all(self, mutation: Mutation) -> Keys:
        present = await self._unwrap(mutation.tenant, mutation.wrapped)
        if not isinstance(mutation, Rotation) or mutation.new_wrapped is None:
            return Keys(present, present)
        return Keys(present, await self._unwrap(mutation.tenant, mutation.new_wrapped))

    async def _unwrap(self, tenant: str, wrapped: WrappedKey) -> bytes:
        return await self._keys.unwrap(tenant, wrapped.scope, wrapped.wrapped)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _found(stored: StoredHead, envelope: bytes | None, *, include_deleted: bool) -> Found:
    state = state_of(stored)
    if state.kind is None or (state.kind is Kind.TOMBSTONE and not include_deleted):
        raise RecordNotFound
    if envelope is not None and digest(envelope) != stored.ring[:16]:
        raise RecordCorrupt
    return Found(state.revision, stored.created, stored.updated, not state.live, envelope)


def _replayed(caller: Caller, mutation: Mutation, stored: StoredHead) -> Written:
    caller.replays(mutation.envelope)
    return Written(mutation.header.revision, stored.created, stored.updated, replayed=True)


def _judge_again(caller: Caller, mutation: Mutation, stored: StoredHead | None, keys: Keys) -> Written:
    """Replay and revision on what a failed condition found; the key is unwrapped and nothing is written any more."""
    if stored is not None and is_replay(mutation, stored):
        prove_replay(mutation, keys)
        return _replayed(caller, mutation, stored)
    check_revision(mutation, stored)
    raise BackendUnavailable("the record changed outside the vault meanwhile: send the same bytes again")
