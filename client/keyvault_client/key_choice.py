"""Which key a call uses: the one that the caller gave, else those of the key ring for the name, in turn.

The rule of this file: the next key is tried only after an answer that proves that nothing was done, because the key is
not the record's.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from keyvault_client.batch_reading import Results
from keyvault_client.errors import InvalidRequest, KeyVaultError, NotAuthorized, RecordDamaged
from keyvault_client.key_folder import StoredKey
from keyvault_client.key_ring import LOOK_SECONDS, KeyRing
from keyvault_client.keys import DataKey
from keyvault_client.records import check_key_id

_Result = TypeVar("_Result")
_WRONG_KEY = (NotAuthorized, RecordDamaged)


class KeyChoice:
    """The keys of one client, which has a key ring or none."""

    def __init__(self, ring: KeyRing | None) -> None:
        self._ring = ring

    async def create(
        self, key_id: str, key: DataKey | None, operate: Callable[[DataKey], Awaitable[_Result]]
    ) -> _Result:
        """Create a record with the key that is to own it. Raises KeyNotFound, and what `operate` raises.

        The new key of a rotation that is under way does not count: it may still be given up.
        """
        if key is not None:
            return await operate(key)
        check_key_id(key_id)
        return await _try(self._ring_for(key_id).current(key_id), operate)

    async def use(
        self,
        key_id: str,
        key: DataKey | None,
        operate: Callable[[DataKey], Awaitable[_Result]],
        *,
        without: DataKey | None = None,
    ) -> _Result:
        """Operate on a record with the key that owns it; `without` does not. Raises KeyNotFound, and what it raises."""
        if key is not None:
            return await operate(key)
        check_key_id(key_id)
        return await _try(_turns(self._ring_for(key_id), key_id, without), operate)

    async def read_many(
        self, names: Iterable[str], read: Callable[[Mapping[str, DataKey]], Awaitable[Results]]
    ) -> Results:
        """Read each name with the key that owns its record; a result is the record, or what `read` of it raises."""
        if isinstance(names, str):
            raise InvalidRequest("read_many takes a list of names, or a dict with the key of each name")
        turns = {name: _turns(self._ring_for(name), name) for name in names}
        results: Results = {}
        wanted = list(turns)
        while asked := _next_keys(wanted, turns, results):
            found = await read({name: one.key for name, one in asked.items()})
            wanted = [name for name, result in found.items() if isinstance(result, _WRONG_KEY)]
            for name, result in found.items():
                if not isinstance(result, _WRONG_KEY):
                    results[name] = result
                elif name not in results:  # the failure of the first key says most
                    results[name] = _naming(asked[name], result)
        return {name: results[name] for name in turns}

    def keys_of(self, names: Iterable[str]) -> dict[str, DataKey]:
        """Return a key of each name; `owner_of` is for a record that it does not own. Raises KeyNotFound."""
        if isinstance(names, str):
            raise InvalidRequest("cache takes a list of names, or a dict with the key of each name")
        return {name: self._ring_for(name).current(name)[0].key for name in names}

    def owner_of(self, name: str, owns: Callable[[DataKey], bool]) -> DataKey | None:
        """Return the key of this name that owns its record, None if there is none yet. Raises KeyNotFound."""
        candidates = (one.key for one in _turns(self._ring_for(name), name))
        return next((key for key in candidates if key.plaintext_key is not None and owns(key)), None)

    def _ring_for(self, key_id: str) -> KeyRing:
        if self._ring is None:
            raise InvalidRequest(f"no key for {key_id}: give key=, or make the client with keys=KeyRing(folder)")
        return self._ring


def _turns(ring: KeyRing, key_id: str, without: DataKey | None = None) -> Iterator[StoredKey]:
    """Yield the keys to try, and then those that another look finds: files may have been exchanged."""
    tried = ring.candidates(key_id, without=without)
    yield from tried
    ring.reload(least_age=LOOK_SECONDS)
    yield from (one for one in ring.candidates(key_id, without=without) if one not in tried)


async def _try(keys: Iterable[StoredKey], operate: Callable[[DataKey], Awaitable[_Result]]) -> _Result:
    """Operate with the first of these keys that is the record's. Raises what it raises for the first one."""
    failure: KeyVaultError | None = None
    for one in keys:
        try:
            return await operate(one.key)
        except _WRONG_KEY as error:
            failure = failure or _naming(one, error)
    assert failure is not None
    raise failure


def _next_keys(
    wanted: Iterable[str], turns: Mapping[str, Iterator[StoredKey]], results: Results
) -> dict[str, StoredKey]:
    """Return the next key to try for each name that has one; put into the results why a name has none at all."""
    found: dict[str, StoredKey] = {}
    for name in wanted:
        try:
            check_key_id(name)
            key = next(turns[name], None)
        except InvalidRequest as error:
            results.setdefault(name, error)
        else:
            found |= {name: key} if key else {}
    return found


def _naming(tried: StoredKey, error: NotAuthorized | RecordDamaged) -> KeyVaultError:
    """Return the error with the file of the key that was chosen for the caller."""
    return type(error)(f"{error} (tried {tried.path})", reason=error.reason, request_id=error.request_id)
