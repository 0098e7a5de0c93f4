"""`KeyRing`: data keys in a folder, found by the name of the record that they are for.

The rules of this file:

* The longest scope that covers the name wins, as the most specific rule does elsewhere. A shorter one is never tried
  instead: somebody whose prefix key was taken from a record could put the record back under it.
* The new key of a rotation is tried after the current one, so a rotation interrupts no reader.
* What was found stays in use if the folder later cannot be used; a name that was not found then is an error that says
  what is wrong with the folder.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from keyvault_api.files import FileStamp, stamp_of
from keyvault_api.names import is_scope
from keyvault_client.errors import InvalidRequest, KeyNotFound, quote
from keyvault_client.key_folder import KeyFolder, StoredKey, has_settled, read_folder, save_key
from keyvault_client.keys import DataKey

LOOK_SECONDS = 0.1
"""Least seconds between two looks at the files of a folder whose own times have not changed."""

_log = logging.getLogger(__name__)
_Scopes: TypeAlias = dict[str, tuple[StoredKey, ...]]


@dataclass(frozen=True, slots=True)
class _Found:
    """What the last look found. Never changed, so threads may share it."""

    keys: tuple[StoredKey, ...]
    current: _Scopes
    new: _Scopes
    problem: str
    """What was wrong with the folder at the last look, when these keys stayed in use; "" for nothing."""
    stamp: FileStamp
    """The folder's, before the look."""
    is_settled: bool
    """Whether any change gives the folder another stamp."""
    looked_at: float


class KeyRing:
    """The keys in a folder; `ring["prod/db"]` is the one for that name. Give it to `KeyVault(keys=)`.

    Every `*.key` file in the folder counts; docs/keys.md says how they are made and exchanged. Changes of the folder
    are noticed at the next use. May be shared by clients, event loops and threads.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        file_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the folder. `clock` counts the seconds between looks, the times of files are those of `file_clock`.

        Raises InvalidRequest for a folder or a file in it that others may use, for a `*.key` file that is not a key,
        and for two keys of one scope and tenant.
        """
        self._folder = Path(folder)
        self._clock = clock
        self._file_clock = file_clock
        self._found = self._look(None)

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    def __repr__(self) -> str:
        return f"KeyRing({str(self._folder)!r})"

    def __iter__(self) -> Iterator[str]:
        """Iterate over the scopes that have a key, in their order."""
        return iter(list(self._latest().current))

    def __len__(self) -> int:
        return len(self._latest().current)

    def __contains__(self, name: object) -> bool:
        """Return whether a key covers this name or scope."""
        return isinstance(name, str) and bool(_longest(self._latest().current, name))

    def __getitem__(self, name: str) -> DataKey:
        """Return the key for this name or scope. Raises KeyNotFound, InvalidRequest."""
        return self.find(name)

    def find(self, name: str, *, tenant: str | None = None, without: DataKey | None = None) -> DataKey:
        """Return the key of the longest scope that covers this name or scope. Raises KeyNotFound.

        `without` is a key that does not count. Raises InvalidRequest if keys of several tenants have that scope, and no
        `tenant` chooses.
        """
        found = [one for one in self.current(name, without=without) if tenant in (None, one.key.tenant)]
        if len(found) > 1:
            tenants = ", ".join(one.key.tenant for one in found)
            raise InvalidRequest(f"keys of the tenants {tenants} cover {name}: choose one (tenant=)")
        if not found:
            raise KeyNotFound(f"no key for {name} and the tenant {quote(tenant or '')} in {self._folder}")
        return found[0].key

    def current(self, name: str, *, without: DataKey | None = None) -> tuple[StoredKey, ...]:
        """Return the keys of the longest scope that covers the name, one of each tenant. Raises KeyNotFound."""
        latest = self._latest()
        return self._checked(name, latest, _longest(latest.current, name, without))

    def candidates(self, name: str, *, without: DataKey | None = None) -> tuple[StoredKey, ...]:
        """Return the keys that may open the record of this name, in the order to try them. Raises KeyNotFound.

        First those that `current` returns, then the new keys of a rotation that is under way. `without` is a key that
        does not count.
        """
        latest = self._latest()
        found = (*_longest(latest.current, name, without), *_longest(latest.new, name, without))
        return self._checked(name, latest, found)

    def entries(self) -> tuple[StoredKey, ...]:
        """Return all keys with their files, by scope, tenant and file. `to_json` of one shows no secret."""
        return self._latest().keys

    def save(self, key: DataKey) -> Path:
        """Write the key to a new file of mode 0600 that survives a crash, and return its path.

        It is named after the scope: `prod%2F.key` for "prod/". Raises FileExistsError, and writes nothing, if the
        folder has a key of this scope and tenant; OSError if the disk is full.
        """
        for one in self._latest().keys:
            if not one.is_new and (one.key.scope, one.key.tenant) == (key.scope, key.tenant):
                raise FileExistsError(errno.EEXIST, f"has a key for {key.scope} already", str(one.path))
        path = save_key(self._folder, key)
        self.reload()
        return path

    def reload(self, *, least_age: float = 0.0) -> None:
        """Look at every file, unless the last look was less than `least_age` seconds ago.

        Only this notices a file that was overwritten in place, which does not change the folder.
        """
        if self._clock() >= self._found.looked_at + least_age:
            self._found = self._look(self._found)

    def _latest(self) -> _Found:
        """Return what is known; look once more if the folder has changed, or may have."""
        found = self._found
        if stamp_of(self._folder) != found.stamp or not (
            found.is_settled or self._clock() < found.looked_at + LOOK_SECONDS
        ):
            self.reload()
        return self._found

    def _look(self, before: _Found | None) -> _Found:
        """Look at the folder. If it cannot be used, the keys of `before` stay."""
        looked_at, stamp = self._clock(), stamp_of(self._folder)
        settled = has_settled(stamp, self._file_clock)
        try:
            folder = read_folder(self._folder, before.keys if before else (), self._file_clock)
            problem = _summary(folder.problems)
        except InvalidRequest as error:
            folder, problem = KeyFolder(), str(error)
        if not problem:
            current, new = (_by_scope(one for one in folder.keys if one.is_new is kind) for kind in (False, True))
            return _Found(folder.keys, current, new, "", stamp, settled, looked_at)
        if before is None:
            raise InvalidRequest(problem)
        if problem != before.problem:
            _log.error("reload failed: %s; keeping the previous keys", problem)
        return replace(before, problem=problem, stamp=stamp, is_settled=False, looked_at=looked_at)

    def _checked(self, name: str, found: _Found, keys: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
        """Return these keys. Raises if there is none."""
        if keys:
            return keys
        if not is_scope(name):
            raise InvalidRequest(f"invalid name {quote(name)}: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-]")
        if found.problem:
            raise InvalidRequest(found.problem)
        raise KeyNotFound(
            f"no key for {name} in {self._folder} (scopes {', '.join(_scopes_over(name))}): "
            "copy its key file there, or give another one (key=, --key)"
        )


def _by_scope(keys: Iterable[StoredKey]) -> _Scopes:
    """Return the keys of each scope: one of each tenant, also where a file is there twice."""
    scopes: dict[str, dict[str, StoredKey]] = {}
    for one in keys:
        scopes.setdefault(one.key.scope, {}).setdefault(one.key.tenant, one)
    return {scope: tuple(tenants.values()) for scope, tenants in scopes.items()}


def _longest(scopes: _Scopes, name: str, without: DataKey | None = None) -> tuple[StoredKey, ...]:
    """Return the keys of the longest scope that covers the name, once a key is left out; none if no scope does."""
    for scope in _scopes_over(name):
        found = tuple(one for one in scopes.get(scope, ()) if without is None or not is_same_data_key(one.key, without))
        if found:
            return found
    return ()


def _scopes_over(name: str) -> Iterator[str]:
    """Yield the scopes that cover a name, longest first: the name, and its prefixes that end in "/"."""
    yield name
    end = len(name) - 1
    while (slash := name.rfind("/", 0, max(end, 0))) >= 0:
        yield name[: slash + 1]
        end = slash


def is_same_data_key(one: DataKey, other: DataKey) -> bool:
    """Report whether both are one data key, which may have been wrapped twice."""
    if one.plaintext_key is None or other.plaintext_key is None:
        return one.wrapped_key == other.wrapped_key
    return one.plaintext_key == other.plaintext_key


def _summary(problems: Sequence[str]) -> str:
    """Return the first problem, and how many more there are; "" for none."""
    if len(problems) > 1:
        return f"{problems[0]} (and {len(problems) - 1} more: `keyvault keys` lists them)"
    return problems[0] if problems else ""
