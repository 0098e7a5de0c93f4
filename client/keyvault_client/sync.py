"""`KeyVault` for synchronous code: `with KeyVault("host:port") as vault`. docs/sync.md describes it.

Generated from vault.py by client/generate_sync.py: edit that one, and generate.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from keyvault_client import vault
from keyvault_client.caller_identity import CallerIdentity
from keyvault_client.delegation import Delegating, PlainNewKey, PlainOnChange, PlainTokenSource
from keyvault_client.errors import KeyVaultError
from keyvault_client.history import Revisions
from keyvault_client.key_ring import KeyRing
from keyvault_client.keys import DataKey
from keyvault_client.listing import ListedName
from keyvault_client.records import Record, Written
from keyvault_client.sync_cache import Secrets, in_thread
from keyvault_client.tls import TLS

__all__ = ["KeyVault"]


class KeyVault(Delegating):
    """A client of one server; use it as a context manager, from any threads.

    Every method that opens or changes a record takes the record's `key`, or finds it in the constructor's `keys`.
    Every method takes `timeout`, the seconds for the whole call, retries included: at most a day, by default what the
    constructor was given. Every method raises KeyVaultError and nothing else, except when a signal ends it. What
    the server answers is checked first: an answer that does not fit the request is a ServerFailure.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        tls: TLS | None = None,
        insecure: bool = False,
        token_file: str | Path | None = None,
        token: PlainTokenSource | None = None,
        keys: KeyRing | None = None,
        timeout: float = 10.0,
        remember: int = 10000,
        state_file: str | Path | None = None,
    ) -> None:
        """`address` is host:port, dns:///host:port or unix:/path. A non-loopback one needs `tls` or `insecure`.

        `token_file` holds a bearer token and is reloaded when it changes. `token` is a function instead that
        returns one, called before every attempt. A token goes to another machine only in TLS. Raises InvalidRequest for
        unusable files.

        `keys` has the keys of names, so that no method needs `key`. A `key` that is given nevertheless is used alone.

        `remember` is the number of names whose highest seen revision is kept in memory, to notice a rolled back store.
        `state_file` keeps them across runs, too. It is written whenever a revision rises, and waits up to 2 s for other
        runs that write it: it is for programs that run for one call or a few.
        """
        super().__init__(
            vault.KeyVault(
                address,
                tls=tls,
                insecure=insecure,
                token_file=token_file,
                token=in_thread(token),
                keys=keys,
                timeout=timeout,
                remember=remember,
                state_file=state_file,
            ),
            timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, which ends in-flight calls."""
        self._close()

    def generate_key(self, scope: str = "", *, timeout: float | None = None) -> DataKey:
        """Generate a data key for a key_id, or for a prefix ending in "/". For "" the server generates a key_id.

        Save the key before you use it: it cannot be regenerated.
        """
        return self._call(self._vault.generate_key(scope, timeout=timeout), timeout)

    def create(
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
        return self._call(
            self._vault.create(key_id, plaintext, key=key, revision=revision, timeout=timeout), timeout, mutates=True
        )

    def read(
        self, key_id: str, *, key: DataKey | None = None, revision: int | None = None, timeout: float | None = None
    ) -> Record:
        """Read and open a record. Raises NotFound, RolledBack, RecordDamaged (also for a key not its own).

        With `revision`, read that one, which `revisions` lists. Raises RevisionNotFound if the server does not keep it.
        """
        return self._call(self._vault.read(key_id, key=key, revision=revision, timeout=timeout), timeout)

    def read_many(
        self, keys: Mapping[str, DataKey] | Iterable[str], *, timeout: float | None = None
    ) -> dict[str, Record | KeyVaultError]:
        """Read and open many records, each under its key, in few calls: `read_many({"prod/a": key, "prod/b": key})`.

        With `KeyVault(keys=)` the names are enough: `read_many(["prod/a", "prod/b"])`.

        The result has, for each name, its record or the error that `read` would have raised; together they are no
        snapshot. Raises KeyVaultError only if a call fails as a whole, such as for want of a connection.
        """
        return self._call(self._vault.read_many(keys, timeout=timeout), timeout)

    def cache(
        self,
        keys: Mapping[str, DataKey] | Iterable[str],
        *,
        refresh: float = 30.0,
        on_change: PlainOnChange | None = None,
        new_key: PlainNewKey | None = None,
        file: str | Path | None = None,
        max_age: float | None = None,
        allow_missing: bool = False,
        timeout: float | None = None,
    ) -> Secrets:
        """Keep records in memory: `with vault.cache({"prod/db": key}) as secrets`, then `secrets["prod/db"]`.

        With `KeyVault(keys=)` the names are enough. They are refreshed after at most `refresh` seconds, each with this
        `timeout`. `on_change(name, record)` is called for each change. `new_key(name)` returns the key of a record that
        was rotated, or None. Both run in threads. `file` keeps sealed envelopes, for a start while the server is away.
        A value that the server confirmed more than `max_age` seconds ago is not served. The start raises NotRefreshed
        if a name has no value, unless `allow_missing`. docs/cache.md has the rest.
        """
        return self._cache(
            self._vault.cache(
                keys,
                refresh=refresh,
                on_change=in_thread(on_change),
                new_key=in_thread(new_key),
                file=file,
                max_age=max_age,
                allow_missing=allow_missing,
                timeout=timeout,
            ),
            timeout,
        )

    def read_if_changed(
        self, key_id: str, *, known_revision: int, key: DataKey | None = None, timeout: float | None = None
    ) -> Record | None:
        """Read as `read` does, or return None without data if the record is still at `known_revision`."""
        return self._call(
            self._vault.read_if_changed(key_id, known_revision=known_revision, key=key, timeout=timeout), timeout
        )

    def update(
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
        return self._call(
            self._vault.update(key_id, plaintext, key=key, revision=revision, timeout=timeout), timeout, mutates=True
        )

    def restore(
        self, key_id: str, *, revision: int, key: DataKey | None = None, timeout: float | None = None
    ) -> Written:
        """Store the data of an earlier revision as the next one; the last writer wins, as in `update`.

        Raises RevisionNotFound if the server does not keep that revision, and what `read` and `update` raise.
        """
        return self._call(
            self._vault.restore(key_id, revision=revision, key=key, timeout=timeout), timeout, mutates=True
        )

    def delete(
        self, key_id: str, *, key: DataKey | None = None, revision: int | None = None, timeout: float | None = None
    ) -> Written:
        """Delete the record; its name stays reserved for its owner. Raises as `update` does."""
        return self._call(
            self._vault.delete(key_id, key=key, revision=revision, timeout=timeout), timeout, mutates=True
        )

    def rotate_key(
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
        return self._call(
            self._vault.rotate_key(key_id, new_key=new_key, key=key, revision=revision, timeout=timeout),
            timeout,
            mutates=True,
        )

    def rewrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Wrap the data key under the server's current master key, and return it so."""
        return self._call(self._vault.rewrap_key(key, timeout=timeout), timeout)

    def unwrap_key(self, key: DataKey, *, timeout: float | None = None) -> DataKey:
        """Return the key with its plaintext. Raises Denied unless the server's settings allow that for its scope."""
        return self._call(self._vault.unwrap_key(key, timeout=timeout), timeout)

    def list(self, prefix: str = "", *, deleted: bool = False, timeout: float | None = None) -> Iterator[ListedName]:
        """Iterate over the names of the records that begin with `prefix`, or of deleted ones, in the order of bytes.

        `for name in vault.list("prod/"): ...` asks for page after page; `timeout` is for each. It is no snapshot:
        docs/client.md says which names appear while others write. The policy has to allow List for the whole prefix.
        """
        return self._iterate(self._vault._list_pages(prefix, deleted=deleted, timeout=timeout), timeout)

    def revisions(self, key_id: str, *, timeout: float | None = None) -> Revisions:
        """Return which revisions of a record `read` and `restore` can get, newest first: the first one is current.

        Raises NotFound. It needs no key, so nothing proves what the server says; a `read` does.
        """
        return self._call(self._vault.revisions(key_id, timeout=timeout), timeout)

    def whoami(self, *, timeout: float | None = None) -> CallerIdentity:
        """Return how the server sees this client: its identity, its tenant, and what the policy allows it."""
        return self._call(self._vault.whoami(timeout=timeout), timeout)
