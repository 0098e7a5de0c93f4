"""A data key on the caller's side: 32 bytes that read, and their wrapped form that together with them writes.

Saved, it is JSON {"tenant", "scope", "plaintext_key", "wrapped_key"}, bytes in base64, or without "plaintext_key" for
callers whom the server's settings let unwrap. A file is written 0600, durably, and never over another one.
"""

import base64
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from keyvault_api.names import DATA_KEY_SIZE, MAX_WRAPPED_KEY, is_scope, is_tenant
from keyvault_client.errors import InvalidRequest

MAX_FILE = 64 * 1024
"""Bytes in a file that may be a key."""

_SPELT = {"plaintextKey": "plaintext_key", "wrappedKey": "wrapped_key"}  # as protobuf's JSON, and so grpcurl, has them


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key for one tenant and one scope. Its repr shows neither form."""

    tenant: str
    """Whose it is, as the server knows the caller."""
    scope: str
    """The key_id, or the prefix ending in "/", that it may be used for."""
    wrapped_key: bytes = field(repr=False)
    """At most 8,192 bytes, opaque."""
    plaintext_key: bytes | None = field(default=None, repr=False)
    """32 bytes; None in a key that was saved without it: `KeyVault.unwrap_key` may get it back."""

    def secret(self) -> bytes:
        """The 32 bytes. Raises InvalidRequest if only the wrapped form is at hand."""
        if self.plaintext_key is None:
            raise InvalidRequest("this key has no plaintext_key: unwrap it first (`keyvault unwrap-key`)")
        return self.plaintext_key

    def without_plaintext(self) -> "DataKey":
        """The wrapped form alone."""
        return replace(self, plaintext_key=None)

    def to_json(self) -> str:
        """The key as JSON, secret included."""
        content = {"tenant": self.tenant, "scope": self.scope}
        if self.plaintext_key is not None:
            content["plaintext_key"] = base64.b64encode(self.plaintext_key).decode()
        content["wrapped_key"] = base64.b64encode(self.wrapped_key).decode()
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "DataKey":
        """Reads what `to_json` wrote, or the JSON of a GenerateKeyResponse. Raises InvalidRequest."""
        try:
            content = {_SPELT.get(name, name): value for name, value in json.loads(text).items()}
            plaintext = content.get("plaintext_key")
            key = cls(
                str(content["tenant"]),
                str(content["scope"]),
                base64.b64decode(content["wrapped_key"], validate=True),
                None if plaintext is None else base64.b64decode(plaintext, validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidRequest("this is no key: JSON of tenant, scope, plaintext_key and wrapped_key") from None
        if not (is_tenant(key.tenant) and is_scope(key.scope) and 0 < len(key.wrapped_key) <= MAX_WRAPPED_KEY):
            raise InvalidRequest("this is no key: its tenant, scope or wrapped_key breaks the rules")
        if key.plaintext_key is not None and len(key.plaintext_key) != DATA_KEY_SIZE:
            raise InvalidRequest(f"this is no key: its plaintext_key has not {DATA_KEY_SIZE} bytes")
        return key

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a new file of mode 0600 that survives a crash. Raises FileExistsError: no key is written over.

        Raises OSError, and leaves no part of a file, if there is no room.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            Path(path).unlink()
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        _sync_directory(Path(path).parent)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DataKey":
        """Reads a saved key. Raises OSError, InvalidRequest."""
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise InvalidRequest(f"this is no key: a key has less than {MAX_FILE} bytes")
        return cls.from_json(content)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
