"""The embedded key service: a file of numbered master keys. A KeyService (see ports.py).

The file is JSON {"version": 1, "master_keys": {"1": base64 of 32 bytes, ...}}. The number is the label; the highest
one wraps, every one unwraps. A wrapped data key is the Cobblestone-256 message (C2SP chunked-encryption@v1) of its 32
bytes under the master key, 104 bytes, with the context

    for (name, value) of (keyvault:v, 1), (keyvault:tenant, tenant), (keyvault:scope, scope):
        u16 len(name) || name || u16 len(value) || value              big-endian, UTF-8

This file opens every wrapped key, and without it none can be opened: back it up, and keep it apart from the database's
backups. The rule of this module: no message shows a part of the keyring.
"""

import base64
import functools
import json
import os
import struct
from pathlib import Path

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from keyvault_api.names import DATA_KEY_SIZE
from keyvault_server.backends.embedded.data_directory import UnusableData
from keyvault_server.core.errors import NotAuthorized
from keyvault_server.core.ports import NewDataKey, WrappedBlob
from keyvault_server.disk.files import explain, replace_durably
from keyvault_server.disk.watched import read_file

MAX_LABEL = 255
"""Bytes of a label in a wrapped key."""
_BLOB_SIZE = 24 + 32 + DATA_KEY_SIZE + 16  # salt, commitment, data key, tag


class Keyring:
    """Numbered master keys of 32 bytes, in memory."""

    def __init__(self, master_keys: dict[int, bytes]) -> None:
        self._keys = {str(number): key for number, key in master_keys.items()}
        self._current = str(max(master_keys))

    @classmethod
    def create(cls, path: Path) -> "Keyring":
        """Write a keyring of one new master key. Raises FileExistsError: a keyring is never overwritten."""
        if path.exists():
            raise FileExistsError(path)
        return cls._write(path, {1: os.urandom(DATA_KEY_SIZE)})

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """Read a keyring. Raises Unreadable, UnsafeFile if others can read it, UnusableData if it is not valid."""
        return cls(_read(path))

    @classmethod
    def rotate(cls, path: Path) -> "Keyring":
        """Add a new master key, which wraps from now on; the earlier ones still unwrap. Raises as `load`."""
        keys = _read(path)
        return cls._write(path, keys | {max(keys) + 1: os.urandom(DATA_KEY_SIZE)})

    @classmethod
    def _write(cls, path: Path, keys: dict[int, bytes]) -> "Keyring":
        encoded = {str(number): base64.b64encode(key).decode() for number, key in keys.items()}
        try:
            replace_durably(path, json.dumps({"version": 1, "master_keys": encoded}, indent=1).encode())
        except OSError as error:
            raise UnusableData(f"{path}: cannot write: {explain(error)}") from None
        return cls(keys)

    @property
    def current_label(self) -> str:
        """Label of the master key that wraps."""
        return self._current

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        """See KeyService."""
        data_key = os.urandom(DATA_KEY_SIZE)
        return NewDataKey(data_key, self._wrap(tenant, scope, data_key))

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        """See KeyService."""
        master_key = self._keys.get(wrapped.label)
        if master_key is None or len(wrapped.blob) != _BLOB_SIZE:
            raise NotAuthorized
        decryptor = Cobblestone256Decryptor(master_key, _context(tenant, scope))
        try:
            return decryptor.update(wrapped.blob) + decryptor.finalize()
        except InvalidTag:
            raise NotAuthorized from None

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        """See KeyService."""
        return self._wrap(tenant, scope, await self.unwrap(tenant, scope, wrapped))

    async def check(self) -> None:
        """See KeyService. Never fails: the keys are in memory."""

    def _wrap(self, tenant: str, scope: str, data_key: bytes) -> WrappedBlob:
        encryptor = Cobblestone256Encryptor(self._keys[self._current], _context(tenant, scope))
        return WrappedBlob(self._current, encryptor.update(data_key) + encryptor.finalize())


def _read(path: Path) -> dict[int, bytes]:
    """Return the master keys by number; at least one. Raises as `Keyring.load`."""
    text = read_file(path, secret=True)
    try:
        content = json.loads(text)
        _refuse_later_version(path, content["version"])
        keys = {_number(label): base64.b64decode(key, validate=True) for label, key in content["master_keys"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnusableData(f"{path} is not a valid keyring: restore it from its backup") from None
    if content.get("version") != 1 or not keys or any(len(key) != DATA_KEY_SIZE for key in keys.values()):
        raise UnusableData(f"{path} is not a valid keyring of version 1: restore it from its backup")
    return keys


def _refuse_later_version(path: Path, version: object) -> None:
    """Raise UnusableData for a keyring that is not damaged: an earlier backup would lack its newest master keys."""
    if type(version) is int and version > 1:
        raise UnusableData(
            f"{path} has version {version}: it was written by a later version of keyvault-server;"
            " this one is older. Run the later one"
        )


def _number(label: str) -> int:
    """Return the number that a label is. Raises ValueError for another spelling: "1" and "01" would be one key."""
    number = int(label)
    if label != str(number) or len(label) > MAX_LABEL:
        raise ValueError(label)
    return number


@functools.lru_cache(1024)
def _context(tenant: str, scope: str) -> bytes:
    pairs = ("keyvault:v", "1", "keyvault:tenant", tenant, "keyvault:scope", scope)
    return b"".join(struct.pack(">H", len(text.encode())) + text.encode() for text in pairs)
