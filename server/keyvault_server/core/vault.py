"""The use cases and the one rule. Knows no gRPC, no AWS, no SQLite.

    A mutation is accepted iff its envelope opens under the data key that the stored record's head commits to, at
    revision = stored revision + 1, for this tenant and key_id; and the write is conditional on the head that was
    checked.

Order of checks, so that garbage costs no call to a backend and nothing is disclosed: names, the wrapped key's frame and
scope; what the caller may; the envelope's shape; the caller's quota; then the steps of `Vault._apply`. The vault holds
a data key for the length of one request and stores none.
"""

import os
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from keyvault_api.envelope import Kind
from keyvault_api.names import is_scope
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import (
    BackendUnavailable,
    EnvelopeNotUnderKey,
    InvalidKeyId,
    PolicyDenied,
)
from keyvault_server.core.history import (
    find_revision,
    keep_superseded,
    list_revisions,
    remove_unreadable,
)
from keyvault_server.core.mutation import (
    Keys,
    Mutation,
    Rotation,
    check_revision,
    is_replay,
    parse_covering_key,
    parse_envelope,
    prove_envelope,
    prove_ownership,
    prove_replay,
)
from keyvault_server.core.ports import HeadChanged, KeyService, NamePage, RecordStore
from keyvault_server.core.reading import Found, find, judge
from keyvault_server.core.records import Readable, StoredHead, successor
from keyvault_server.core.turn import NO_WAIT, Turn
from keyvault_server.core.wrapped_key import DataKey, WrappedKey, parse_wrapped_key


class Written(NamedTuple):
    """The answer to an accepted mutation. Times are microseconds since 1970."""

    revision: int
    created: int
    updated: int
    replayed: bool


class Vault:
    """KeyVault without the wire. Every method raises VaultError and nothing else that a caller can cause."""

    def __init__(
        self,
        keys: KeyService,
        records: RecordStore,
        *,
        unwrap_scopes: Collection[str] = (),
        history: int = 0,
        holding: Turn = NO_WAIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`history` is how many earlier revisions an Update keeps readable, at most 15.

        `holding` is the turn of an Update that holds the record that it replaces, to make a copy of it.
        """
        self._keys = keys
        self._records = records
        self._unwrap_scopes = frozenset(unwrap_scopes)
        self._history = history
        self._holding = holding
        self._clock = clock

    async def generate_key(self, caller: Caller, scope: str) -> DataKey:
        """Mint a data key for a key_id, a prefix ending in "/", or, for "", a key_id that the server makes."""
        caller.note(scope)
        if scope and not is_scope(scope):
            raise InvalidKeyId(field="scope")
        caller.permit(scope)
        caller.spend()
        scope = scope or os.urandom(16).hex()
        new = await self._keys.generate(caller.tenant, scope)
        return DataKey(caller.tenant, scope, new.plaintext, bytes(WrappedKey(scope, new.wrapped)))

    async def rewrap_key(self, caller: Caller, wrapped_key: bytes) -> bytes:
        """Wrap the same data key under the current master key."""
        wrapped = parse_wrapped_key(wrapped_key)
        caller.permit(wrapped.scope)
        caller.spend()
        rewrapped = await self._keys.rewrap(caller.tenant, wrapped.scope, wrapped.wrapped)
        return bytes(WrappedKey(wrapped.scope, rewrapped))

    async def unwrap_key(self, caller: Caller, wrapped_key: bytes) -> DataKey:
        """Return the plaintext of a wrapped key whose exact scope the settings name. Raises PolicyDenied for others."""
        wrapped = parse_wrapped_key(wrapped_key)
        caller.permit(wrapped.scope)
        if wrapped.scope not in self._unwrap_scopes:
            raise PolicyDenied("UnwrapKey is off for this scope: ask the operator to name it in KEYVAULT_UNWRAP_SCOPES")
        caller.spend()
        plaintext = await self._keys.unwrap(caller.tenant, wrapped.scope, wrapped.wrapped)
        return DataKey(caller.tenant, wrapped.scope, plaintext, wrapped_key)

    async def read(
        self,
        caller: Caller,
        key_id: str,
        known_revision: int = 0,
        *,
        include_deleted: bool = False,
        revision: int = 0,
    ) -> Found:
        """Return the stored envelope; None instead if the stored revision is the known one (0: none is known).

        With a `revision`, return the envelope of that one, and when it was written. Raises RevisionNotFound.
        """
        judge(caller, key_id, known_revision, revision, include_deleted=include_deleted)
        if revision:
            return await self._read_revision(caller, key_id, revision)
        return await self.find(caller, key_id, known_revision, include_deleted=include_deleted)

    async def find(
        self, caller: Caller, key_id: str, known_revision: int = 0, *, include_deleted: bool = False
    ) -> Found:
        """Answer a Read that `reading.judge` has let through."""
        return await find(self._records, caller, key_id, known_revision, include_deleted=include_deleted)

    @property
    def reads_together(self) -> int:
        """How many Reads at a time the store shares requests for; 1: it gains nothing by that."""
        return self._records.reads_together

    async def list_names(
        self, caller: Caller, prefix: str, after: str, limit: int, *, deleted: bool, turn: Turn = NO_WAIT
    ) -> NamePage:
        """Return a page of names, as RecordStore does, in `turn`; `listing.py` checks what the caller sent."""
        caller.permit(prefix)
        caller.spend()
        async with turn:
            page = await self._records.list_names(caller.tenant, prefix, after, limit, deleted=deleted)
        caller.charge(sum(len(name.key_id) for name in page.names))
        return page

    async def _read_revision(self, caller: Caller, key_id: str, revision: int) -> Found:
        head, found, envelope = await find_revision(self._records, caller.tenant, key_id, revision)
        caller.charge(len(envelope))
        return Found(revision, head.created, found.updated, False, envelope)

    async def list_revisions(self, caller: Caller, key_id: str) -> list[Readable]:
        """Return the revisions of a live record that can be read, newest first."""
        return await list_revisions(self._records, caller, key_id)

    async def create(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Store a record where none exists, where its owner deleted it, or where it was purged."""
        return await self._mutate(caller, key_id, wrapped_key, envelope, Kind.DATA, creates=True)

    async def update(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replace a live record's envelope."""
        return await self._mutate(caller, key_id, wrapped_key, envelope, Kind.DATA)

    async def delete(self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes) -> Written:
        """Replace a live record by a tombstone."""
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
        """Hand a live record to another data key: `authorization`, under the current one, names the new envelope."""
        caller.note(key_id, envelope)
        wrapped = parse_covering_key(key_id, wrapped_key)
        new = parse_covering_key(key_id, new_wrapped_key, "new_wrapped_key")
        caller.permit(key_id)
        authorizing = parse_envelope(authorization, Kind.REKEY, "authorization")
        header = parse_envelope(envelope, Kind.DATA)
        if authorizing.revision != header.revision:
            raise EnvelopeNotUnderKey("authorization and envelope carry different revisions", field="authorization")
        caller.spend()
        rotation = Rotation(caller.tenant, key_id, wrapped, envelope, header, False, authorization, new)
        return await self._apply(caller, rotation)

    async def _mutate(
        self, caller: Caller, key_id: str, wrapped_key: bytes, envelope: bytes, kind: Kind, *, creates: bool = False
    ) -> Written:
        caller.note(key_id, envelope)
        wrapped = parse_covering_key(key_id, wrapped_key)
        caller.permit(key_id)
        header = parse_envelope(envelope, kind)
        caller.spend()
        mutation = Mutation(caller.tenant, key_id, wrapped, envelope, header, creates)
        async with self._holding if self._copies(mutation) else NO_WAIT:
            return await self._apply(caller, mutation)

    def _copies(self, mutation: Mutation) -> bool:
        """Return whether a copy of what the mutation replaces has to be made of the whole record."""
        return self._history > 0 and mutation.updates and not self._records.copies_itself

    async def _apply(self, caller: Caller, mutation: Mutation) -> Written:
        """Check a well-formed mutation against what is stored, and write it.

        1. Load head and ring; the whole record, if a copy is to be made of it.
        2. A digest in the ring is a replay: it has to open under the presented key, and nothing is written.
        3. The RPC and the revision have to fit what is stored.
        4. The stored head has to commit to the presented data key, and the envelope has to open under it.
        5. The intent is durable in the audit log, and the superseded envelope is kept; then the conditional write. If
           its condition fails, 2 and 3 are repeated on what is stored, with the key already unwrapped; nothing is
           written twice. Then copies that cannot be read any more are removed.
        """
        # 1.
        load = self._records.get if self._copies(mutation) else self._records.get_head
        stored = await load(mutation.tenant, mutation.key_id)
        # 2.
        if stored is not None and is_replay(mutation, stored):
            prove_replay(mutation, await self._unwrap_all(mutation))
            return _replayed(caller, mutation, stored)
        # 3. Before a call to the key service, so that a stale request costs none.
        state = check_revision(mutation, stored)
        # 4. An absent record or a vacancy has no owner.
        keys = await self._unwrap_all(mutation)
        if stored is not None and state is not None and state.kind is not None:
            prove_ownership(mutation, stored, keys)
        prove_envelope(mutation, keys)
        # 5.
        history = self._history if mutation.updates else 0
        record = successor(stored, mutation.envelope, self._now(), fresh=mutation.creates, history=history)
        expected = stored.head if stored else None
        await keep_superseded(self._records, mutation, record, stored, caller.intend(record, expected))
        try:
            await self._records.put_if(mutation.tenant, mutation.key_id, record, expected)
        except HeadChanged as changed:
            return _recheck(caller, mutation, changed.stored, keys)
        remove_unreadable(self._records, mutation, record, stored, self._history)
        return Written(mutation.header.revision, record.created, record.updated, replayed=False)

    async def _unwrap_all(self, mutation: Mutation) -> Keys:
        current = await self._unwrap(mutation.tenant, mutation.wrapped)
        if not isinstance(mutation, Rotation) or mutation.new_wrapped is None:
            return Keys(current, current)
        return Keys(current, await self._unwrap(mutation.tenant, mutation.new_wrapped))

    async def _unwrap(self, tenant: str, wrapped: WrappedKey) -> bytes:
        return await self._keys.unwrap(tenant, wrapped.scope, wrapped.wrapped)

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


def _replayed(caller: Caller, mutation: Mutation, stored: StoredHead) -> Written:
    caller.replays()
    return Written(mutation.header.revision, stored.created, stored.updated, replayed=True)


def _recheck(caller: Caller, mutation: Mutation, stored: StoredHead | None, keys: Keys) -> Written:
    """Repeat the checks for a replay and for the revision on what a failed condition found; nothing is written."""
    if stored is not None and is_replay(mutation, stored):
        prove_replay(mutation, keys)
        return _replayed(caller, mutation, stored)
    check_revision(mutation, stored)
    raise BackendUnavailable("the record was changed outside the vault at the same time: retry with the same bytes")
