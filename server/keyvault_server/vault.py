"""The use cases and the one rule. Knows no gRPC, no AWS, no SQLite.

    A mutation is accepted iff its envelope opens under the data key that the stored record's head commits to, at
    revision = stored revision + 1, for this tenant and key_id; and the write is conditional on the head that was
    checked.

Order of checks, so that garbage costs no call to a backend and nothing is disclosed: names, wrapped key frame and
scope, envelope shape; then head and ring (a digest in the ring is a replay: proved, answered, not written), revision,
key, envelope; then the conditional write. If its condition fails, replay and revision are judged once more on what is
stored, and nothing is written twice. The vault holds a data key for the length of one request and stores none.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvault import envelope as kve1
from keyvault.envelope import MAX_ENVELOPE, Header, Kind
from keyvault.names import MAX_WRAPPED_KEY, covers, is_key_id, is_scope
from keyvault_server.errors import (
    BackendUnavailable,
    EnvelopeNotUnderKey,
    InvalidKeyId,
    InvalidRequest,
    MalformedEnvelope,
    NotAuthorized,
    PolicyDenied,
    RecordCorrupt,
    RecordExists,
    RecordNotFound,
    SameDataKey,
    StaleRevision,
    TooLarge,
    WrongKind,
    WrongScope,
)
from keyvault_server.ports import HeadChanged, KeyService, RecordStore
from keyvault_server.records import State, StoredHead, digest, in_ring, state_of, successor
from keyvault_server.wrapped_key import WrappedKey, parse_wrapped_key


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


@dataclass(frozen=True, slots=True)
class _Mutation:
    """A well-formed mutation; nothing has been looked up for it."""

    tenant: str
    key_id: str
    wrapped: WrappedKey
    envelope: bytes
    header: Header
    creates: bool = False


@dataclass(frozen=True, slots=True)
class _Rotation(_Mutation):
    """A mutation whose envelope is under a new data key, by a REKEY envelope under the present one."""

    authorization: bytes = b""
    new_wrapped: WrappedKey | None = None


@dataclass(frozen=True, slots=True)
class _Keys:
    """The data keys of one request, in the clear for its length."""

    present: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    """The key that the new envelope is under: the present one, but for a rotation."""


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

    async def generate_key(self, tenant: str, scope: str) -> DataKey:
        """A fresh data key for a key_id, for a prefix ending in "/", or, for "", a key_id that the server makes."""
        scope = scope or os.urandom(16).hex()
        if not is_scope(scope):
            raise InvalidKeyId(field="scope")
        new = await self._keys.generate(tenant, scope)
        return DataKey(tenant, scope, new.plaintext, bytes(WrappedKey(scope, new.wrapped)))

    async def rewrap_key(self, tenant: str, wrapped_key: bytes) -> bytes:
        """The same data key, wrapped under the current master key."""
        wrapped = _wrapped_key(wrapped_key)
        return bytes(WrappedKey(wrapped.scope, await self._keys.rewrap(tenant, wrapped.scope, wrapped.wrapped)))

    async def unwrap_key(self, tenant: str, wrapped_key: bytes) -> DataKey:
        """The plaintext of a wrapped key, where the settings name its very scope."""
        wrapped = _wrapped_key(wrapped_key)
        if wrapped.scope not in self._unwrap_scopes:
            raise PolicyDenied
        return DataKey(tenant, wrapped.scope, await self._unwrap(tenant, wrapped), wrapped_key)

    async def read(self, tenant: str, key_id: str, known_revision: int = 0, *, include_deleted: bool = False) -> Found:
        """The stored envelope; None in its place if the stored revision is the known one (0: none is known)."""
        _check_key_id(key_id)
        if known_revision < 0:
            raise InvalidRequest("known_revision is 0 (none) or a revision", field="known_revision")
        if known_revision:
            head = await self._records.get_head(tenant, key_id)
            if head is not None and state_of(head).revision == known_revision:
                return _found(head, None, include_deleted=include_deleted)
        record = await self._records.get(tenant, key_id)
        if record is None:
            raise RecordNotFound
        return _found(record, record.envelope, include_deleted=include_deleted)

    async def create(self, tenant: str, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Stores a record where none is, or where its owner deleted it, or where it was purged."""
        wrapped, header = _well_formed(key_id, wrapped_key, envelope, Kind.DATA)
        return await self._apply(_Mutation(tenant, key_id, wrapped, envelope, header, creates=True))

    async def update(self, tenant: str, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replaces a live record's envelope."""
        wrapped, header = _well_formed(key_id, wrapped_key, envelope, Kind.DATA)
        return await self._apply(_Mutation(tenant, key_id, wrapped, envelope, header))

    async def delete(self, tenant: str, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replaces a live record by a tombstone."""
        wrapped, header = _well_formed(key_id, wrapped_key, envelope, Kind.TOMBSTONE)
        return await self._apply(_Mutation(tenant, key_id, wrapped, envelope, header))

    async def rotate_key(
        self,
        tenant: str,
        key_id: str,
        wrapped_key: bytes,
        authorization: bytes,
        new_wrapped_key: bytes,
        envelope: bytes,
    ) -> Written:
        """Hands a live record to another data key: `authorization`, under the present one, names the new envelope."""
        wrapped = _covering(key_id, wrapped_key, "wrapped_key")
        new = _covering(key_id, new_wrapped_key, "new_wrapped_key")
        permit = _parsed(authorization, Kind.REKEY, "authorization")
        header = _parsed(envelope, Kind.DATA, "envelope")
        if permit.revision != header.revision:
            raise EnvelopeNotUnderKey("authorization and envelope carry different revisions", field="authorization")
        return await self._apply(_Rotation(tenant, key_id, wrapped, envelope, header, False, authorization, new))

    async def _apply(self, mutation: _Mutation) -> Written:
        """Steps 1 to 5 of the order of checks."""
        stored = await self._records.get_head(mutation.tenant, mutation.key_id)
        if replayed := _replay_of(mutation, stored):
            _prove_replay(mutation, await self._unwrap_all(mutation))
            return replayed
        state = _check_revision(mutation, stored)
        keys = await self._unwrap_all(mutation)
        if stored is not None and state is not None and state.kind is not None:
            _prove_ownership(mutation, stored, keys)
        _prove_envelope(mutation, keys)
        record = successor(stored, mutation.envelope, self._now(), fresh=mutation.creates)
        try:
            await self._records.put_if(mutation.tenant, mutation.key_id, record, stored.head if stored else None)
        except HeadChanged as changed:
            return _judge_again(mutation, changed.stored, keys)
        return Written(mutation.header.revision, record.created, record.updated, replayed=False)

    async def _unwrap_all(self, mutation: _Mutation) -> _Keys:
        present = await self._unwrap(mutation.tenant, mutation.wrapped)
        if not isinstance(mutation, _Rotation) or mutation.new_wrapped is None:
            return _Keys(present, present)
        return _Keys(present, await self._unwrap(mutation.tenant, mutation.new_wrapped))

    async def _unwrap(self, tenant: str, wrapped: WrappedKey) -> bytes:
        return await self._keys.unwrap(tenant, wrapped.scope, wrapped.wrapped)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _check_key_id(key_id: str) -> None:
    if not is_key_id(key_id):
        raise InvalidKeyId(field="key_id")


def _wrapped_key(data: bytes, field: str = "wrapped_key") -> WrappedKey:
    if len(data) > MAX_WRAPPED_KEY:
        raise TooLarge(f"a wrapped key has at most {MAX_WRAPPED_KEY} bytes", field=field)
    return parse_wrapped_key(data, field)


def _covering(key_id: str, data: bytes, field: str) -> WrappedKey:
    _check_key_id(key_id)
    wrapped = _wrapped_key(data, field)
    if not covers(wrapped.scope, key_id):
        raise WrongScope(field=field)
    return wrapped


def _parsed(envelope: bytes, kind: Kind, field: str) -> Header:
    if len(envelope) > MAX_ENVELOPE:
        raise TooLarge(f"an envelope has at most {MAX_ENVELOPE} bytes", field=field)
    try:
        header = kve1.parse(envelope)
    except kve1.MalformedEnvelope as error:
        raise MalformedEnvelope(str(error), field=field) from None
    if header.kind is not kind:
        raise WrongKind(f"{field} is of kind {header.kind.name}, this method takes {kind.name}", field=field)
    return header


def _well_formed(key_id: str, wrapped_key: bytes, envelope: bytes, kind: Kind) -> tuple[WrappedKey, Header]:
    return _covering(key_id, wrapped_key, "wrapped_key"), _parsed(envelope, kind, "envelope")


def _found(stored: StoredHead, envelope: bytes | None, *, include_deleted: bool) -> Found:
    state = state_of(stored)
    if state.kind is None or (state.kind is Kind.TOMBSTONE and not include_deleted):
        raise RecordNotFound
    if envelope is not None and digest(envelope) != stored.ring[:16]:
        raise RecordCorrupt
    return Found(state.revision, stored.created, stored.updated, not state.live, envelope)


def _replay_of(mutation: _Mutation, stored: StoredHead | None) -> Written | None:
    """The answer to a replay, still to be proved; None if these bytes were not stored lately."""
    if stored is None or not in_ring(digest(mutation.envelope), stored.ring):
        return None
    return Written(mutation.header.revision, stored.created, stored.updated, replayed=True)


def _check_revision(mutation: _Mutation, stored: StoredHead | None) -> State | None:
    """Step 3: what the RPC may find stored, and at which revision it may write."""
    state = state_of(stored) if stored is not None else None
    if state is None or not state.live:
        if not mutation.creates:
            raise RecordNotFound
    elif mutation.creates:
        raise RecordExists(state.revision)
    current = state.revision if state else 0
    if mutation.header.revision != current + 1:
        raise StaleRevision(current)
    return state


def _prove_ownership(mutation: _Mutation, stored: StoredHead, keys: _Keys) -> None:
    if not kve1.commits_to(stored.head, keys.present, mutation.tenant, mutation.key_id):
        raise NotAuthorized


def _prove_envelope(mutation: _Mutation, keys: _Keys) -> None:
    if isinstance(mutation, _Rotation):
        if hmac.compare_digest(keys.present, keys.sealing):
            raise SameDataKey(field="new_wrapped_key")
        permit = _opened(mutation, keys.present, mutation.authorization, "authorization")
        if not hmac.compare_digest(permit, hashlib.sha256(mutation.envelope).digest()):
            raise EnvelopeNotUnderKey("authorization names another envelope", field="authorization")
    _opened(mutation, keys.sealing, mutation.envelope, "envelope")


def _prove_replay(mutation: _Mutation, keys: _Keys) -> None:
    """A replay has no stored head to own: whoever cannot open what they send again is not its author."""
    try:
        _prove_envelope(mutation, keys)
    except EnvelopeNotUnderKey:
        raise NotAuthorized from None


def _opened(mutation: _Mutation, data_key: bytes, envelope: bytes, field: str) -> bytes:
    try:
        return kve1.open(data_key, mutation.tenant, mutation.key_id, envelope)
    except kve1.EnvelopeDoesNotOpen:
        raise EnvelopeNotUnderKey(field=field) from None


def _judge_again(mutation: _Mutation, stored: StoredHead | None, keys: _Keys) -> Written:
    """Steps 2 and 3 on what a failed condition found; the key is unwrapped and nothing is written any more."""
    if replayed := _replay_of(mutation, stored):
        _prove_replay(mutation, keys)
        return replayed
    _check_revision(mutation, stored)
    raise BackendUnavailable("the record changed outside the vault meanwhile: send the same bytes again")
