"""`KeyVault`: the calls, with records in plaintext on the caller's side only.

The rule of this file: a mutation never generates a key, so the caller has stored the new key before a rotation. When a
mutation is sealed for which revision, writing.py says.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from keyvault_api.envelope import MAX_REVISION
from keyvault_api.names import is_scope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.answers import generated_key, rewrapped_key, unwrapped_key
from keyvault_client.batch_reading import BatchReader
from keyvault_client.cache import Secrets
from keyvault_client.cache_refresh import NewKey, Refresher
from keyvault_client.callbacks import OnChange
from keyvault_client.caller_identity import CallerIdentity, caller_identity
from keyvault_client.errors import InvalidRequest, KeyVaultError, quote
from keyvault_client.history import History, Revisions
from keyvault_client.key_choice import KeyChoice
from keyvault_client.key_ring import KeyRing
from keyvault_client.keys import DataKey
from keyvault_client.listing import ListedName, check_prefix, list_pages, names_on
from keyvault_client.reading import Reader
from keyvault_client.records import Record, Written
from keyvault_client.revision_file import RevisionFile
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenFile, TokenSource
from keyvault_client.transport import Transport, deadline_in
from keyvault_client.writing import Writer

MAX_TIMEOUT = 86_400
"""Longest timeout of a call, in seconds."""


class KeyVault:
    """A client of one server; use it as an async context manager, from one event loop.

    Every method that opens or changes a record takes the record's `key`, or finds it in the constructor's `keys`.
    Every method takes `timeout`, the seconds for the whole call, retries included: at most a day, by default what the
    constructor was given. Every method raises KeyVaultError and nothing else, except when the caller cancels it. What
    the server answers is checked first: an answer that does not fit the request is a ServerFailure.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        tls: TLS | None = None,
        insecure: bool = False,
        token_file: str | Path | None = None,
        token: TokenSource | None = None,
        keys: KeyRing | None = None,
        timeout: float = 10.0,
        remember: int = 10_000,
        state_file: str | Path | None = None,
    ) -> None:
        """`address` is host:port, dns:///host:port or unix:/path. A non-loopback one needs `tls` or `insecure`.

        `token_file` holds a bearer token and is reloaded when it changes. `token` is an `async` function instead that
        returns one, called before every attempt. A token goes to another machine only in TLS. Raises InvalidRequest for
        unusable files.

        `keys` has the keys of names, so that no method needs `key`. A `key` that is given nevertheless is used alone.

        `remember` is the number of names whose highest seen revision is kept in memory, to notice a rolled back store.
        `state_file` keeps them across runs, too. It is written whenever a revision rises, and waits up to 2 s for other
        runs that write it: it is for programs that run for one call or a few.
        """
        if token_file is not None:
            if token is not None:
                raise InvalidRequest("give token_file or token, not both")
            token = TokenFile(token_file)
        self._transport = Transport(address, tls, insecure=insecure, token=token)
        self._timeout = timeout
        self._keys = KeyChoice(keys)
        self._seen = SeenRevisions(remember, RevisionFile(state_file, address) if state_file else None)
        self._reader = Reader(self._transport, self._seen)
        self._writer = Writer(self._transport, self._reader, self._seen)
        self._history = History(self._transport, self._seen)
        self._batches = BatchReader(self._transport, self._reader, self._seen)

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
        return generated_key(answer, scope)

    async def create(
        self,
        key_id: str,
        plaintext: bytes,
        *,
        key: DataKey | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Store a new record of at most 380,000 bytes. Raises AlreadyExists, RecordDamaged, Conflict.

        If the record was deleted, it takes the same data key again, and the revisions continue: its tombstone has to
        open under the key. A purged name has nothing that opens. It takes `revision`, the last one that it had, as the
        operator knows it; without that, it is a Conflict that is `vacant`.
        """
        deadline = self._deadline(timeout)
        return await self._keys.create(
            key_id, key, lambda owner: self._writer.create(key_id, plaintext, owner, revision, deadline)
        )

    async def read(
        self, key_id: str, *, key: DataKey | None = None, revision: int | None = None, timeout: float | None = None
    ) -> Record:
        """Read and open a record. Raises NotFound, RolledBack, RecordDamaged (also for a key not its own).

        With `revision`, read that one, which `revisions` lists. Raises RevisionNotFound if the server does not keep it.
        """
        deadline = self._deadline(timeout)
        if revision is None:
            return await self._keys.use(key_id, key, lambda owner: self._reader.read(key_id, owner, deadline))
        return await self._keys.use(key_id, key, lambda owner: self._history.read(key_id, owner, revision, deadline))

    async def read_many(
        self, keys: Mapping[str, DataKey] | Iterable[str], *, timeout: float | None = None
    ) -> dict[str, Record | KeyVaultError]:
        """Read and open many records, each under its key, in few calls: `read_many({"prod/a": key, "prod/b": key})`.

        With `KeyVault(keys=)` the names are enough: `read_many(["prod/a", "prod/b"])`.

        The result has, for each name, its record or the error that `read` would have raised; together they are no
        snapshot. Raises KeyVaultError only if a call fails as a whole, such as for want of a connection.
        """
        deadline = self._deadline(timeout)
        if isinstance(keys, Mapping):
            return await self._batches.read(keys, deadline)
        return await self._keys.read_many(keys, lambda owners: self._batches.read(owners, deadline))

    def cache(
        self,
        keys: Mapping[str, DataKey] | Iterable[str],
        *,
        refresh: float = 30.0,
        on_change: OnChange | None = None,
        new_key: NewKey | None = None,
        file: str | Path | None = None,
        max_age: float | None = None,
        allow_missing: bool = False,
        timeout: float | None = None,
    ) -> Secrets:
        """Keep records in memory: `async with vault.cache({"prod/db": key}) as secrets`, then `secrets["prod/db"]`.

        With `KeyVault(keys=)` the names are enough. They are refreshed after at most `refresh` seconds, each with this
        `timeout`. `on_change(name, record)` is called for each change. `new_key(name)` returns the key of a record that
        was rotated, or None. Both may be `async`. `file` keeps sealed envelopes, for a start while the server is away.
        A value that the server confirmed more than `max_age` seconds ago is not served. The start raises NotRefreshed
        if a name has no value, unless `allow_missing`. docs/cache.md has the rest.
        """
        refresher = Refresher(self._batches, self._reader, self._keys, keys, new_key)
        deadline = partial(self._deadline, timeout)
        return Secrets(refresher, deadline, refresh, max_age, file, on_change, allow_missing=allow_missing)

    async def read_if_changed(
        self, key_id: str, *, known_revision: int, key: DataKey | None = None, timeout: float | None = None
    ) -> Record | None:
        """Read as `read` does, or return None without data if the record is still at `known_revision`."""
        if not 1 <= known_revision <= MAX_REVISION:
            raise InvalidRequest(f"invalid known_revision {known_revision}: must be 1 to 2^63-1")
        deadline = self._deadline(timeout)
        return await self._keys.use(
            key_id, key, lambda owner: self._reader.read_if_changed(key_id, owner, deadline, known_revision)
        )

    async def update(
        self,
        key_id: str,
        plaintext: bytes,
        *,
        key: DataKey | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Replace the record if it is at `revision`; without a revision, replace it in any case.

        Raises NotFound, and Conflict if the record is at another revision than the named one.
        """
        deadline = self._deadline(timeout)
        return await self._keys.use(
            key_id, key, lambda owner: self._writer.update(key_id, plaintext, owner, revision, deadline)
        )

    async def restore(
        self, key_id: str, *, revision: int, key: DataKey | None = None, timeout: float | None = None
    ) -> Written:
        """Store the data of an earlier revision as the next one; the last writer wins, as in `update`.

        Raises RevisionNotFound if the server does not keep that revision, and what `read` and `update` raise.
        """
        deadline = self._deadline(timeout)

        async def restore(owner: DataKey) -> Written:
            earlier = await self._history.read(key_id, owner, revision, deadline)
            return await self._writer.restore(key_id, earlier, owner, deadline)

        return await self._keys.use(key_id, key, restore)

    async def delete(
        self, key_id: str, *, key: DataKey | None = None, revision: int | None = None, timeout: float | None = None
    ) -> Written:
        """Delete the record; its name stays reserved for its owner. Raises as `update` does."""
        deadline = self._deadline(timeout)
        return await self._keys.use(key_id, key, lambda owner: self._writer.delete(key_id, owner, revision, deadline))

    async def rotate_key(
        self,
        key_id: str,
        *,
        new_key: DataKey,
        key: DataKey | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Hand the record from `key` to `new_key`, which must be stored safely before. Raises as `update` does.

        If `new_key` opens the record already, an earlier attempt rotated it: the result is then `replayed`. A client
        with `keys` takes the one that this name would have without `new_key`.
        """
        deadline = self._deadline(timeout)
        return await self._keys.use(
            key_id,
            key,
            lambda owner: self._writer.rotate(key_id, owner, new_key, revision, deadline),
            without=new_key,
        )

    async def rewrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Wrap the data key under the server's current master key, and return it so."""
        request = pb.RewrapKeyRequest(wrapped_key=key.wrapped_key)
        deadline = self._deadline(timeout)
        answer = await self._transport.call("RewrapKey", request, deadline, pb.RewrapKeyResponse)
        return rewrapped_key(answer, key)

    async def unwrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Return the key with its plaintext. Raises Denied unless the server's settings allow that for its scope."""
        request = pb.UnwrapKeyRequest(wrapped_key=key.wrapped_key)
        deadline = self._deadline(timeout)
        answer = await self._transport.call("UnwrapKey", request, deadline, pb.UnwrapKeyResponse)
        return unwrapped_key(answer, key)

    def list(
        self, prefix: str = "", *, deleted: bool = False, timeout: float | None = None
    ) -> AsyncIterator[ListedName]:
        """Iterate over the names of the records that begin with `prefix`, or of deleted ones, in the order of bytes.

        `async for name in vault.list("prod/"): ...` asks for page after page; `timeout` is for each. It is no snapshot:
        docs/client.md says which names appear while others write. The policy has to allow List for the whole prefix.
        """
        return names_on(self._list_pages(prefix, deleted=deleted, timeout=timeout))

    async def revisions(self, key_id: str, *, timeout: float | None = None) -> Revisions:
        """Return which revisions of a record `read` and `restore` can get, newest first: the first one is current.

        Raises NotFound. It needs no key, so nothing proves what the server says; a `read` does.
        """
        return await self._history.revisions(key_id, self._deadline(timeout))

    async def whoami(self, *, timeout: float | None = None) -> CallerIdentity:
        """Return how the server sees this client: its identity, its tenant, and what the policy allows it."""
        deadline = self._deadline(timeout)
        return caller_identity(await self._transport.call("WhoAmI", pb.WhoAmIRequest(), deadline, pb.WhoAmIResponse))

    def _list_pages(self, prefix: str, *, deleted: bool, timeout: float | None) -> AsyncIterator[Sequence[ListedName]]:
        check_prefix(prefix)
        return list_pages(self._transport, prefix, partial(self._deadline, timeout), deleted=deleted)

    def _deadline(self, timeout: float | None) -> float:
        seconds = self._timeout if timeout is None else timeout
        if not 0 <= seconds <= MAX_TIMEOUT:
            raise InvalidRequest(f"invalid timeout {seconds}: must be 0 to {MAX_TIMEOUT} seconds")
        return deadline_in(seconds)
