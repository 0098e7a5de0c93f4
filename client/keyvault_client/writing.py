"""Mutations of a client: sealed for the right revision, sent, and sealed again while other writers are faster.

The rules of this file:

* Data is sealed here and never leaves this process in plaintext.
* A mutation with a named revision is sealed for the next one, and raises `Conflict` if the record is at another.
* A mutation without one means "last writer wins": if another writer was faster, it is sealed again for the next
  revision. That is always one above a revision that this client proved: it opened under the record's key, or the server
  acknowledged it for what was sealed. What a server only says is never sealed for.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from keyvault_api.envelope import MAX_REVISION, Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import Conflict, InvalidRequest, WrongRevision
from keyvault_client.keys import DataKey
from keyvault_client.reading import Reader, contradiction
from keyvault_client.records import MutationResponse, Record, Written, check_scope, result_of, seal
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.transport import Transport

_Mutate = Callable[[int], Awaitable[Written]]
"""Sends a mutation that is sealed for this revision."""


class Writer:
    """Mutations through one transport. Every deadline is a time of the loop's clock."""

    def __init__(self, transport: Transport, reader: Reader, seen: SeenRevisions) -> None:
        self._transport = transport
        self._reader = reader
        self._seen = seen

    async def create(
        self, key_id: str, plaintext: bytes, key: DataKey, revision: int | None, deadline: float
    ) -> Written:
        """Store a new record, over a tombstone too; over a vacancy if `revision` names its last one."""
        if revision is not None:
            return await self._create(key_id, plaintext, key, _next(revision, lowest=0), deadline)
        try:
            return await self._create(key_id, plaintext, key, 1, deadline)
        except Conflict as stale:
            deleted = await self._reader.deleted_revision(key_id, key, stale, deadline)
        return await self._create(key_id, plaintext, key, deleted + 1, deadline)

    async def update(
        self, key_id: str, plaintext: bytes, key: DataKey, revision: int | None, deadline: float
    ) -> Written:
        """Replace the record, if it is at `revision` where that is named."""
        at = self._update(key_id, plaintext, key, deadline)
        return await self._at_revision(key_id, key, revision, deadline, at)

    async def restore(self, key_id: str, earlier: Record, key: DataKey, deadline: float) -> Written:
        """Replace the record by an earlier revision of it.

        The current one is opened in any case: what is remembered may be no more than the earlier one.
        """
        at = self._update(key_id, earlier.plaintext, key, deadline)
        current = (await self._reader.read(key_id, key, deadline)).revision
        return await self._after(key_id, key, current, deadline, at)

    async def delete(self, key_id: str, key: DataKey, revision: int | None, deadline: float) -> Written:
        """Replace the record by a tombstone, if it is at `revision` where that is named."""

        async def at(new_revision: int) -> Written:
            envelope = seal(key, key_id, new_revision, b"", Kind.TOMBSTONE)
            request = pb.DeleteRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
            answer = self._transport.call("Delete", request, deadline, pb.DeleteResponse, new_revision)
            return self._note(key_id, key, new_revision, await answer)

        return await self._at_revision(key_id, key, revision, deadline, at)

    async def rotate(
        self, key_id: str, key: DataKey, new_key: DataKey, revision: int | None, deadline: float
    ) -> Written:
        """Hand the record to `new_key`, if it is at `revision` where that is named."""
        if hmac.compare_digest(key.secret(), new_key.secret()):
            raise InvalidRequest("key and new_key are the same data key: generate a new one")
        replaced = 0
        while True:
            record, done = await self._reader.read_for_rotation(key_id, key, new_key, deadline)
            if done:
                return Written(record.revision, record.created, record.updated, replayed=True)
            if revision is not None and record.revision != revision:
                raise Conflict(
                    f"{key_id} is at revision {record.revision}, not {revision}", current_revision=record.revision
                )
            if record.revision <= replaced:
                raise contradiction(key_id, record.revision)
            try:
                return await self._rotate(key_id, record, key, new_key, deadline)
            except WrongRevision:
                if revision is not None:
                    raise
                replaced = record.revision

    async def _create(self, key_id: str, plaintext: bytes, key: DataKey, revision: int, deadline: float) -> Written:
        envelope = seal(key, key_id, revision, plaintext)
        request = pb.CreateRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
        answer = self._transport.call("Create", request, deadline, pb.CreateResponse, revision)
        return self._note(key_id, key, revision, await answer)

    def _update(self, key_id: str, plaintext: bytes, key: DataKey, deadline: float) -> _Mutate:
        async def at(new_revision: int) -> Written:
            envelope = seal(key, key_id, new_revision, plaintext)
            request = pb.UpdateRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
            answer = self._transport.call("Update", request, deadline, pb.UpdateResponse, new_revision)
            return self._note(key_id, key, new_revision, await answer)

        return at

    async def _rotate(self, key_id: str, record: Record, key: DataKey, new_key: DataKey, deadline: float) -> Written:
        revision = record.revision + 1
        envelope = seal(new_key, key_id, revision, record.plaintext)
        request = pb.RotateKeyRequest(
            key_id=key_id,
            wrapped_key=key.wrapped_key,
            authorization=seal(key, key_id, revision, hashlib.sha256(envelope).digest(), Kind.REKEY),
            new_wrapped_key=new_key.wrapped_key,
            envelope=envelope,
        )
        answer = self._transport.call("RotateKey", request, deadline, pb.RotateKeyResponse, revision)
        return self._note(key_id, new_key, revision, await answer)

    async def _at_revision(
        self, key_id: str, key: DataKey, revision: int | None, deadline: float, mutate: _Mutate
    ) -> Written:
        """Mutate at the named revision + 1; without one at the proved one + 1, again while others are faster."""
        if revision is not None:
            return await mutate(_next(revision))
        check_scope(key, key_id)
        proved = self._seen.get(key, key_id) or (await self._reader.read(key_id, key, deadline)).revision
        return await self._after(key_id, key, proved, deadline, mutate)

    async def _after(self, key_id: str, key: DataKey, proved: int, deadline: float, mutate: _Mutate) -> Written:
        """Mutate at this proved revision + 1, again while others are faster."""
        replaced = proved
        while True:
            try:
                return await mutate(replaced + 1)
            except WrongRevision:
                current = (await self._reader.read(key_id, key, deadline)).revision
            if current <= replaced:
                raise contradiction(key_id, current)
            replaced = current

    def _note(self, key_id: str, key: DataKey, sealed: int, answer: MutationResponse) -> Written:
        """Return the result, and remember the revision that the server acknowledged."""
        written = result_of(answer, sealed)
        self._seen.note(key, key_id, sealed)
        return written


def _next(revision: int, *, lowest: int = 1) -> int:
    """Return the revision after the one that the caller named. Raises InvalidRequest."""
    if not lowest <= revision < MAX_REVISION:
        raise InvalidRequest(f"invalid revision {revision}: must be {lowest} to 2^63-2")
    return revision + 1
