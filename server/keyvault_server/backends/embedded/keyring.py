"""The embedded key service: a file of numbered master keys. A KeyService (see ports.py).

The file is JSON {"version": 1, "master_keys": {"1": base64 of 32 bytes, ...}}; the highest number is current, the
number is the label. A data key is wrapped as the Cobblestone-256 message (C2SP chunked-encryption@v1) of its 32 bytes
under the master key, 104 bytes, with the context

    for (name, value) of (keyvault:v, 1), (keyvault:tenant, tenant), (keyvault:scope, scope):
        u16 len(name) || name || u16 len(value) || value              big-endian, UTF-8

Master keys are as good as every wrapped key together with the data that it seals: back the file up, keep it apart
from the database's backups, and never lose it.
"""

import base64
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
from keyvault_server.disk.files import replace_durably
from keyvault_server.disk.watched import read_file

_BLOB_SIZE = 24 + 32 + DATA_KEY_SIZE + 16  # salt, commitment, data key, tag


class Keyring:
    """Numbered master keys of 32 bytes, in memory."""

    def __init__(self, master_keys: dict[int, bytes]) -> None:
        self._keys = {str(number): key for number, key in master_keys.items()}
        self._current = str(max(master_keys))

    @classmethod
    def create(cls, path: Path) -> "Keyring":
        """Writes a keyring of one fresh master key. Raises FileExistsError: a keyring is never overwritten."""
        if path.exists():
            raise FileExistsError(path)
        return cls._write(path, {1: os.urandom(DATA_KEY_SIZE)})

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """Read a keyring. Raises UnsafeFile for one that others can read, UnusableData for an invalid one."""
        return cls(_read(path))

    @classmethod
    def rotate(cls, path: Path) -> "Keyring":
        """Adds a fresh master key, which wraps from now on; the old ones go on unwrapping."""
        keys = _read(path)
        return cls._write(path, keys | {max(keys) + 1: os.urandom(DATA_KEY_SIZE)})

    @classmethod
    def _write(cls, path: Path, keys: dict[int, bytes]) -> "Keyring":
        encoded = {str(number): base64.b64encode(key).decode() for number, key in keys.items()}
        try:
            replace_durably(path, json.dumps({"version": 1, "master_keys": encoded}, indent=1).encode())
        except OSError as error:
            raise UnusableData(f"{path} cannot be written: {error.strerror}; is its disk full or failing?") from None
        return cls(keys)

    @property
    def current_label(self) -> str:
        """The label of the master key that wraps."""
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
        """See KeyService: what is in memory can be used."""

    def _wrap(self, tenant: str, scope: str, data_key: bytes) -> WrappedBlob:
        encryptor = Cobblestone256Encryptor(self._keys[self._current], _context(tenant, scope))
        return WrappedBlob(self._current, encryptor.update(data_key) + encryptor.finalize())


def _read(path: Path) -> dict[int, bytes]:
    text = read_file(path, secret=True)
    try:
        content = json.loads(text)
        keys = {int(number): base64.b64decode(key, validate=True) for number, key in content["master_keys"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnusableData(f"{path} is no keyring: restore it from its backup") from None
    if content.get("version") != 1 or not keys or any(len(key) != DATA_KEY_SIZE for key in keys.values()):
        raise UnusableData(f"{path} is no keyring of version 1: restore it from its backup")
    return keys


def _context(tenant: str, scope: str) -> bytes:
    pairs = ("keyvault:v", "1", "keyvault:tenant", tenant, "keyvault:scope", scope)
    return b"".join(struct.pack(">H", len(text.encode())) + text.encode() for text in pairs)
