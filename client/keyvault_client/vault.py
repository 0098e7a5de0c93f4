"""`KeyVault`: the eight calls, with records in plaintext on the caller's side only.

The rules of this file:

* Data is sealed here and never leaves this process in plaintext.
* A mutation never generates a key, so the caller has stored the new key before a rotation.
* A mutation without a named revision means "last writer wins": if another writer was faster, the data is sealed again
  for the next revision.
* A mutation with a named revision raises `Conflict` instead.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from keyvault_api.envelope import MAX_REVISION, Kind, commits_to
from keyvault_api.names import is_scope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import AlreadyExists, Conflict, InvalidRequest, WrongRevision, quote
from keyvault_client.keys import DataKey
from keyvault_client.records import (
    MutationResponse,
    Record,
    Written,
    check_scope,
    open_record,
    parse_head,
    result_of,
    seal,
)
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenFile, TokenSource
from keyvault_client.transport import Transport, deadline_in

MAX_TIMEOUT = 86_400
"""Longest timeout of a call, in seconds."""


class KeyVault:
    """A client of one server; use it as an async context manager, from one event loop.

    Every method takes `timeout`, the seconds for the whole call, retries included: at most a day, by default what the
    constructor was given. Every method raises KeyVaultError and nothing else, except when the caller cancels it.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        tls: TLS | None = None,
        insecure: bool = False,
        token_file: str | Path | None = None,
        token: TokenSource | None = None,
        timeout: float = 10.0,
        remember: int = 10_000,
    ) -> None:
        """`address` is host:port, dns:///host:port or unix:/path. A non-loopback one needs `tls` or `insecure`.

        `token_file` holds a bearer token and is reloaded when it changes. `token` is an `async` function instead that
        returns one, called before every attempt. A token goes to another machine only in TLS. Raises InvalidRequest for
        unusable files.

        `remember` is the number of names whose highest seen revision is kept in memory, to notice a rolled back store.
        """
        if token_file is not None:
            if token is not None:
                raise InvalidRequest("give token_file or token, not both")
            token = TokenFile(token_file)
        self._transport = Transport(address, tls, insecure=insecure, token=token)
        self._timeout = timeout
        self._seen = SeenRevisions(remember)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, which ends in-flight calls."""
        await self._transport.close()

    async def generate_key(self, scope: str = "", *, timeout: float | None = None) -> DataKey:
        """Generate a data key for a key_id, or for a prefix ending in "/". For "" the server generates a key_id.

        Save the key before you use it: it cannot be regenerated.
        """
        if scope and not is_scope(scope):
            raise InvalidRequest(f"invalid scope {quote(scope)}: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-]")
        request = pb.GenerateKeyRequest(scope=scope)
        deadline = self._deadline(timeout)
        answer = await self._transport.call("GenerateKey", request, deadline, pb.GenerateKeyResponse)
        return DataKey(answer.tenant, answer.scope, answer.wrapped_key, answer.plaintext_key)

    async def create(self, key_id: str, plaintext: bytes, *, key: DataKey, timeout: float | None = None) -> Written:
        """Store a new record of at most 380,000 bytes. Raises AlreadyExists.

        If the record was deleted, it takes the same data key again, and the revisions continue.
        """
        deadline = self._deadline(timeout)
        floor = self._seen.get(key_id)
        try:
            return await self._create(key_id, plaintext, key, 1, deadline)
        except Conflict as deleted:
            current = self._seen.advance(key_id, deleted.current_revision, floor)
            return await self._create(key_id, plaintext, key, current + 1, deadline)

    async def read(self, key_id: str, *, key: DataKey, timeout: float | None = None) -> Record:
        """Read and open a record. Raises NotFound, RolledBack, RecordDamaged (also for a key not its own)."""
        record = await self._read(key_id, key, 0, self._deadline(timeout))
        assert record is not None
        return record

    async def read_if_changed(
        self, key_id: str, *, key: DataKey, known_revision: int, timeout: float | None = None
    ) -> Record | None:
        """Read as `read` does, or return None without data if the record is still at `known_revision`."""
        if not 1 <= known_revision <= MAX_REVISION:
            raise InvalidRequest(f"invalid known_revision {known_revision}: must be 1 to 2^63-1")
        return await self._read(key_id, key, known_revision, self._deadline(timeout))

    async def update(
        self, key_id: str, plaintext: bytes, *, key: DataKey, revision: int | None = None, timeout: float | None = None
    ) -> Written:
        """Replace the record if it is at `revision`; without a revision, replace it in any case.

        Raises NotFound, and Conflict if the record is at another revision than the named one.
        """
        deadline = self._deadline(timeout)

        async def at(new_revision: int) -> Written:
            envelope = seal(key, key_id, new_revision, plaintext)
            request = pb.UpdateRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
            answer = self._transport.call("Update", request, deadline, pb.UpdateResponse, new_revision)
            return self._note(key_id, await answer)

        return await self._at_revision(key_id, key, revision, deadline, at)

    async def delete(
        self, key_id: str, *, key: DataKey, revision: int | None = None, timeout: float | None = None
    ) -> Written:
        """Delete the record; its name stays reserved for its owner. Raises as `update` does."""
        deadline = self._deadline(timeout)

        async def at(new_revision: int) -> Written:
            envelope = seal(key, key_id, new_revision, b"", Kind.TOMBSTONE)
            request = pb.DeleteRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
            answer = self._transport.call("Delete", request, deadline, pb.DeleteResponse, new_revision)
            return self._note(key_id, await answer)

        return await self._at_revision(key_id, key, revision, deadline, at)

    async def rotate_key(
        self, key_id: str, *, key: DataKey, new_key: DataKey, revision: int | None = None, timeout: float | None = None
    ) -> Written:
        """Hand the record from `key` to `new_key`, which must be stored safely before. Raises as `update` does.

        If `new_key` opens the record already, an earlier attempt rotated it: the result is then `replayed`.
        """
        if hmac.compare_digest(key.secret(), new_key.secret()):
            raise InvalidRequest("key and new_key are the same data key: generate a new one")
        deadline = self._deadline(timeout)
        while True:
            record, done = await self._read_for_rotation(key_id, key, new_key, deadline)
            if done:
                return Written(record.revision, record.created, record.updated, replayed=True)
            if revision is not None and record.revision != revision:
                raise Conflict(
                    f"{key_id} is at revision {record.revision}, not {revision}", current_revision=record.revision
                )
            try:
                return await self._rotate(key_id, record, key, new_key, deadline)
            except Conflict:
                if revision is not None:
                    raise

    async def rewrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Wrap the data key under the server's current master key, and return it so."""
        request = pb.RewrapKeyRequest(wrapped_key=key.wrapped_key)
        deadline = self._deadline(timeout)
        answer = await self._transport.call("RewrapKey", request, deadline, pb.RewrapKeyResponse)
        return DataKey(key.tenant, key.scope, answer.wrapped_key, key.plaintext_key)

    async def unwrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Return the key with its plaintext. Raises Denied unless the server's settings allow that for its scope."""
        request = pb.UnwrapKeyRequest(wrapped_key=key.wrapped_key)
        deadline = self._deadline(timeout)
        answer = await self._transport.call("UnwrapKey", request, deadline, pb.UnwrapKeyResponse)
        return DataKey(answer.tenant, answer.scope, key.wrapped_key, answer.plaintext_key)

    async def _create(self, key_id: str, plaintext: bytes, key: DataKey, revision: int, deadline: float) -> Written:
        envelope = seal(key, key_id, revision, plaintext)
        request = pb.CreateRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope)
        try:
            answer = self._transport.call("Create", request, deadline, pb.CreateResponse, revision)
            return self._note(key_id, await answer)
        except AlreadyExists as exists:
            self._seen.note(key_id, exists.current_revision)
            raise

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
        return self._note(key_id, await answer)

    async def _read_for_rotation(
        self, key_id: str, key: DataKey, new_key: DataKey, deadline: float
    ) -> tuple[Record, bool]:
        """Return the record, and whether `new_key` owns it already."""
        answer = await self._fetch(key_id, 0, deadline)
        if commits_to(parse_head(key_id, answer.envelope), new_key.secret(), new_key.tenant, key_id):
            return open_record(key_id, answer, new_key), True
        return open_record(key_id, answer, key), False

    async def _at_revision(
        self,
        key_id: str,
        key: DataKey,
        revision: int | None,
        deadline: float,
        mutate: Callable[[int], Awaitable[Written]],
    ) -> Written:
        """Mutate at the named revision + 1; without one at the current one + 1, again while others are faster."""
        if revision is not None:
            if not 1 <= revision < MAX_REVISION:
                raise InvalidRequest(f"invalid revision {revision}: must be 1 to 2^63-2")
            return await mutate(revision + 1)
        check_scope(key, key_id)
        current = self._seen.get(key_id) or (await self._fetch(key_id, 0, deadline)).revision
        while True:
            floor = self._seen.get(key_id)
            try:
                return await mutate(current + 1)
            except WrongRevision as newer:
                current = self._seen.advance(key_id, newer.current_revision, floor)

    async def _read(self, key_id: str, key: DataKey, known_revision: int, deadline: float) -> Record | None:
        check_scope(key, key_id)
        answer = await self._fetch(key_id, known_revision, deadline)
        if known_revision and answer.not_modified:
            return None
        return open_record(key_id, answer, key)

    async def _fetch(self, key_id: str, known_revision: int, deadline: float) -> pb.ReadResponse:
        floor = self._seen.get(key_id)  # before the call: a concurrent write of ours may raise it while we wait
        request = pb.ReadRequest(key_id=key_id, known_revision=known_revision)
        answer = await self._transport.call("Read", request, deadline, pb.ReadResponse)
        self._seen.advance(key_id, answer.revision, floor)
        return answer

    def _note(self, key_id: str, answer: MutationResponse) -> Written:
        self._seen.note(key_id, answer.revision)
        return result_of(answer)

    def _deadline(self, timeout: float | None) -> float:
        seconds = self._timeout if timeout is None else timeout
        if not 0 <= seconds <= MAX_TIMEOUT:
            raise InvalidRequest(f"invalid timeout {seconds}: must be 0 to {MAX_TIMEOUT} seconds")
        return deadline_in(seconds)
