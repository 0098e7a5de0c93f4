"""One refresh of a cache: what became of each record since the revision that is known.

The rules of this file:

* Each answer is checked as a Read's is. Only a tombstone that opens under the record's key proves a deletion.
* A record that another key seals may have been rotated. The key comes from the user's `new_key`, or from the key ring
  that gave the first one, and has to open the record.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.batch_reading import BatchReader, Reads
from keyvault_client.cache_file import SealedRecord
from keyvault_client.callbacks import called, describe, is_cancelled
from keyvault_client.errors import KeyVaultError, RecordDamaged, RolledBack
from keyvault_client.key_choice import KeyChoice
from keyvault_client.keys import DataKey
from keyvault_client.reading import Change, Reader, is_sealed_under
from keyvault_client.records import Record, check_scope

NewKey: TypeAlias = Callable[[str], "DataKey | Awaitable[DataKey | None] | None"]
"""Returns the new key of a record that was rotated, by its name; None if there is none yet."""
Outcome: TypeAlias = "Change | KeyVaultError | None"
"""What became of a record: None if it is still at the known revision."""


class Foreign(NamedTuple):
    """A record that is sealed under another key than the cache has."""

    name: str
    answer: pb.ReadResponse
    error: RecordDamaged


class Refresher:
    """The names of one cache and their keys, of which a rotation replaces one."""

    def __init__(
        self,
        batches: BatchReader,
        reader: Reader,
        choice: KeyChoice,
        keys: Mapping[str, DataKey] | Iterable[str],
        new_key: NewKey | None,
    ) -> None:
        """Take the keys, or the names whose keys `choice` has.

        Raises InvalidRequest for a key that cannot open its record: of another scope, or without its plaintext.
        """
        self._batches = batches
        self._reader = reader
        self.keys = dict(keys) if isinstance(keys, Mapping) else choice.keys_of(keys)
        self._new_key = new_key
        self._choice = None if isinstance(keys, Mapping) else choice
        for name, key in self.keys.items():
            _check_key(key, name)

    async def refresh(self, names: Iterable[str], known: Mapping[str, int], deadline: float) -> dict[str, Outcome]:
        """Ask for these names, in their order; return an outcome for each. A call that fails as a whole is that too."""
        foreign: list[Foreign] = []

        def accept(name: str, answer: pb.ReadResponse, key: DataKey, floor: int) -> Change | None:
            try:
                return self._reader.accept_change(name, answer, key, floor, known.get(name, 0))
            except RecordDamaged as error:
                if not is_sealed_under(key, name, answer):
                    foreign.append(Foreign(name, answer, error))
                raise

        reads: Reads[Change | None] = Reads({name: self.keys[name] for name in names}, accept, {}, known)
        try:
            await self._batches.fill(reads, deadline)
        except KeyVaultError as error:
            for name in reads.keys:
                reads.results.setdefault(name, error)
        for one in foreign:
            reads.results[one.name] = await self._try_new_key(one, deadline)
        return {name: reads.results[name] for name in reads.keys}

    async def open_sealed(self, sealed: SealedRecord, deadline: float) -> Record | KeyVaultError:
        """Return a record of the file, opened and checked as one of the server is."""
        name = sealed.key_id
        try:
            try:
                return self._reader.accept_sealed(sealed.open(self.keys[name]), self.keys[name])
            except RecordDamaged as error:
                if is_sealed_under(self.keys[name], name, sealed.answer()):
                    raise
                found = await self._try_new_key(Foreign(name, sealed.answer(), error), deadline)
            if isinstance(found, KeyVaultError):
                return found
            return self._reader.accept_sealed(sealed.open(self.keys[name]), self.keys[name])
        except RolledBack as error:  # not by the server: the record was changed after the file was written
            return KeyVaultError(f"the file has revision {error.revision}, and revision {error.seen} was seen since")
        except KeyVaultError as error:
            return error

    async def _try_new_key(self, foreign: Foreign, deadline: float) -> Change | KeyVaultError | None:
        """Return what an answer shows under the key that the record was rotated to; the key is then kept."""
        try:
            key = await self._find_new_key(foreign, deadline)
            if key is None:
                return foreign.error
            _check_key(key, foreign.name)
            floor = self._reader.proved_revision(key, foreign.name)  # by this key, maybe in an earlier run
            change = self._reader.accept_change(foreign.name, foreign.answer, key, floor, 0)
        except KeyVaultError as error:
            return error
        except (Exception, asyncio.CancelledError) as error:  # of a callback, which may fail in any way
            if is_cancelled(error):
                raise
            return RecordDamaged(f"{foreign.error}; new_key failed: {describe(error)}")
        self.keys[foreign.name] = key
        return change

    async def _find_new_key(self, foreign: Foreign, deadline: float) -> DataKey | None:
        """Ask the user's `new_key`, or else look for a key that owns the record."""
        if self._new_key:
            async with asyncio.timeout_at(deadline):
                found: DataKey | None = await called(self._new_key, foreign.name)
                return found
        if self._choice:
            return self._choice.owner_of(foreign.name, lambda key: is_sealed_under(key, foreign.name, foreign.answer))
        return None


def _check_key(key: DataKey, name: str) -> None:
    check_scope(key, name)
    key.secret()
