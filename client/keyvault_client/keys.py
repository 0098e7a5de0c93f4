"""Data keys on the caller's side: the 32 bytes read a record; together with their wrapped form they change it.

A key file is JSON {"tenant", "scope", "plaintext_key", "wrapped_key"}, bytes in base64. "plaintext_key" may be left out
where the server's settings let the caller unwrap.
"""

import base64
import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from keyvault_api.names import DATA_KEY_SIZE, MAX_WRAPPED_KEY, is_scope, is_tenant
from keyvault_client.errors import InvalidRequest
from keyvault_client.file_locks import locked_folder
from keyvault_client.key_files import read_private, replace_file, save_new_file

_PROTOBUF_NAMES = {"plaintextKey": "plaintext_key", "wrappedKey": "wrapped_key"}  # grpcurl prints these


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key for one tenant and one scope. Its repr shows neither the plaintext nor the wrapped form."""

    tenant: str
    """The tenant that the server gave the caller."""
    scope: str
    """The key_id, or the prefix that ends in "/", that the key may be used for."""
    wrapped_key: bytes = field(repr=False)
    """1 to 8,192 opaque bytes."""
    plaintext_key: bytes | None = field(default=None, repr=False)
    """32 bytes; None if the key was saved without them. `KeyVault.unwrap_key` may get them back."""

    def secret(self) -> bytes:
        """Return the 32 bytes. Raises InvalidRequest if the key was saved without them."""
        if self.plaintext_key is None:
            raise InvalidRequest("this key has no plaintext_key: unwrap it first (`keyvault unwrap-key`)")
        return self.plaintext_key

    def without_plaintext(self) -> "DataKey":
        """Return this key with its wrapped form alone."""
        return dataclasses.replace(self, plaintext_key=None)

    def to_json(self) -> str:
        """Return the key as JSON, secret included."""
        content = {"tenant": self.tenant, "scope": self.scope}
        if self.plaintext_key is not None:
            content["plaintext_key"] = base64.b64encode(self.plaintext_key).decode()
        content["wrapped_key"] = base64.b64encode(self.wrapped_key).decode()
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "DataKey":
        """Parse what `to_json` returned, or the JSON of a GenerateKeyResponse. Raises InvalidRequest."""
        try:
            content = {_PROTOBUF_NAMES.get(name, name): value for name, value in json.loads(text).items()}
            plaintext = content.get("plaintext_key")
            key = cls(
                str(content["tenant"]),
                str(content["scope"]),
                base64.b64decode(content["wrapped_key"], validate=True),
                None if plaintext is None else base64.b64decode(plaintext, validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidRequest(
                "not a data key: expected JSON with tenant, scope, plaintext_key and wrapped_key"
            ) from None
        if not (is_tenant(key.tenant) and is_scope(key.scope) and 0 < len(key.wrapped_key) <= MAX_WRAPPED_KEY):
            raise InvalidRequest("not a data key: its tenant, scope or wrapped_key is invalid")
        if key.plaintext_key is not None and len(key.plaintext_key) != DATA_KEY_SIZE:
            raise InvalidRequest(f"not a data key: its plaintext_key must be {DATA_KEY_SIZE} bytes")
        return key

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new file of mode 0600 that survives a crash. Raises FileExistsError rather than overwrite a file.

        Raises OSError, and leaves no partial file, if the disk is full.
        """
        save_new_file(path, self.to_json().encode())

    def replace(self, path: str | os.PathLike[str], *, old: "DataKey | None" = None) -> None:
        """Replace a key file by this key. The old one stays until this one is on the disk; mode and group are kept.

        `old` is the key that the file must still have: another program may have exchanged it. Raises InvalidRequest
        if it has another one, OSError if this one cannot be written; then the file stays as it is.
        """
        with locked_folder(Path(path).parent):
            if old is not None and not _has(path, old):
                raise InvalidRequest(f"{os.fspath(path)}: another program has exchanged the key: nothing was written")
            replace_file(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DataKey":
        """Read a saved key. Raises OSError, or InvalidRequest with the name of the file.

        Refuses a file that another user owns, may read or may write (keyvault_client/key_files.py has the rule).
        """
        content = read_private(path)
        try:
            return cls.from_json(content)
        except InvalidRequest as error:
            raise InvalidRequest(f"{os.fspath(path)}: {error}") from None


def _has(path: str | os.PathLike[str], key: DataKey) -> bool:
    """Report whether a file still has this key."""
    try:
        return DataKey.load(path) == key
    except FileNotFoundError:
        return False
