"""The new keys of a rotation, each in a file before it is used.

The rule of this file: a file that an earlier run made is used, not made again: its key may own records already.
"""

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from keyvault_api.files import stamp_of, sync_directory
from keyvault_client.file_locks import locked_folder
from keyvault_client.key_folder import NEW_SUFFIX, StoredKey, path_for, save_key
from keyvault_client.key_ring import KeyRing, is_same_data_key
from keyvault_client.keys import DataKey
from keyvault_client.vault import KeyVault

OLD = ".old"
"""What the name of a file ends in that keeps an old key: one that deleted names still need."""


class _OneNewKey:
    """One new key for all records."""

    def __init__(self, vault: KeyVault, scope: str, key: DataKey | None, save: Callable[[DataKey], object]) -> None:
        """`key` is the one that an earlier run saved, if any."""
        self._vault = vault
        self._scope = scope
        self._key = key
        self._save = save

    async def begin(self, rotated: Iterable[str]) -> None:
        """Make the new key, also if there is no record yet. Raises KeyVaultError, OSError."""
        if self._key is None:
            key = await self._vault.generate_key(self._scope)
            self._save(key)
            self._key = key

    def find(self, key_id: str) -> DataKey | None:
        """Return the new key, None if it was not made yet."""
        return self._key

    async def make(self, key_id: str) -> DataKey:
        """Return the new key."""
        assert self._key is not None
        return self._key

    def rotated(self, key_id: str) -> None:
        """Do nothing: other records may still need the old key."""


class NewKeyInFile(_OneNewKey):
    """One new key for all records, in a file that the user named."""

    def __init__(self, vault: KeyVault, scope: str, path: Path) -> None:
        """Raises InvalidRequest, OSError for a file that is there and cannot be used."""
        super().__init__(vault, scope, DataKey.load(path) if stamp_of(path) else None, lambda key: key.save(path))
        self._path = path

    def finish(self) -> list[Path]:
        """Return the file."""
        return [self._path]


class NewKeyInFolder(_OneNewKey):
    """One new key for all records, in the key folder, where it takes the place of the old one at the end."""

    def __init__(self, vault: KeyVault, scope: str, old: DataKey, ring: KeyRing) -> None:
        started = [one.key for one in _of_scope(ring, scope, old.tenant) if one.is_new]
        super().__init__(
            vault, scope, started[0] if started else None, lambda key: save_key(ring.folder, key, NEW_SUFFIX)
        )
        self._tenant = old.tenant
        self._folder = ring.folder

    def finish(self) -> list[Path]:
        """Make the new key the current one, and return the files. Raises OSError, InvalidRequest."""
        return _promote(self._folder, lambda: _of_scope(KeyRing(self._folder), self._scope, self._tenant))


class NewKeyEach:
    """A new key for each record, in the key folder."""

    def __init__(self, vault: KeyVault, scope: str, old: DataKey, ring: KeyRing) -> None:
        self._vault = vault
        self._scope = scope
        self._old = old
        self._ring = ring

    async def begin(self, rotated: Iterable[str]) -> None:
        """Note what a run rotated that ended before it could note that. Raises OSError."""
        for key_id in rotated:
            self.rotated(key_id)

    def find(self, key_id: str) -> DataKey | None:
        """Return the record's new key, or the one that it has in the folder; None if there is none."""
        stored = _of_scope(self._ring, key_id, self._old.tenant)
        return next((one.key for one in stored if one.key != self._old), None)

    async def make(self, key_id: str) -> DataKey:
        """Return the record's new key, which is on the disk. Raises KeyVaultError, OSError."""
        if known := self.find(key_id):
            return known
        key = await self._vault.generate_key(key_id)
        save_key(self._ring.folder, key, NEW_SUFFIX)
        return key

    def rotated(self, key_id: str) -> None:
        """Make the record's new key its current one. Raises OSError."""
        _promote(self._ring.folder, lambda: _of_scope(self._ring, key_id, self._old.tenant))

    def finish(self) -> list[Path]:
        """Let the old key no longer count, and return its file and the folder. Raises OSError."""
        stored = _of_scope(self._ring, self._scope, self._old.tenant)
        same = [one for one in stored if is_same_data_key(one.key, self._old)]  # it may have been rewrapped
        return [self._ring.folder, *map(_retire, same)]


def _of_scope(ring: KeyRing, scope: str, tenant: str) -> list[StoredKey]:
    """Return the keys of exactly this scope, the new one of a rotation first."""
    found = [one for one in ring.entries() if (one.key.scope, one.key.tenant) == (scope, tenant)]
    return sorted(found, key=lambda one: not one.is_new)


def _promote(folder: Path, stored: Callable[[], list[StoredKey]]) -> list[Path]:
    """Make the new key of a scope the current one; return its file, and the one that keeps the old key. Raises OSError.

    A crash between two steps leaves both keys, and the next call goes on. `stored` returns the keys of the scope.

    1. The file of the old key has another name, too. There may be none.
    2. The new file takes the name of the old one, else one of its own, never another key's.
    3. The names are on the disk.
    """
    with locked_folder(folder):
        found = stored()
        new = next((one for one in found if one.is_new), None)
        current = next((one for one in found if not one.is_new), None)
        if new is None:
            return [current.path] if current else []
        path = current.path if current else path_for(new.path.parent, new.key)
        kept: list[Path] = []
        if current is None:
            # 2.
            os.link(new.path, path)
            new.path.unlink()
        elif current.key == new.key:  # a crash in step 2
            new.path.unlink()
        else:
            # 1.
            kept = [_keep_old(path)]
            # 2.
            new.path.replace(path)
        # 3.
        sync_directory(path.parent)
    return [path, *kept]


def _retire(stored: StoredKey) -> Path:
    """Rename a key's file so that it no longer counts; return its path."""
    with locked_folder(stored.path.parent):
        old = _keep_old(stored.path)
        stored.path.unlink()
        sync_directory(old.parent)
    return old


def _keep_old(path: Path) -> Path:
    """Give a key file a second name that does not count, `*.old` or `*.old.2`, and return it."""
    for number in itertools.count(1):
        old = path.with_name(f"{path.name}{OLD}{f'.{number}' if number > 1 else ''}")
        if stamp_of(old) is None:
            os.link(path, old)
            break
        if old.samefile(path):  # of a run that was killed after this
            break
    return old
