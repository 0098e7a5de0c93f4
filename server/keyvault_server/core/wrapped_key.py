"""The frame of a wrapped data key: which master key, which scope, and the key service's blob.

    01 || u8 len(label) || label || u16 len(scope) || scope || blob          at most 8,192 bytes, text in UTF-8

The frame is checked without a call to the key service, which binds label and scope: a rewritten one fails there. Opaque
to callers.
"""

import struct
from dataclasses import dataclass, field

from keyvault_api.names import MAX_WRAPPED_KEY, is_scope
from keyvault_server.core.errors import MalformedWrappedKey, TooLarge
from keyvault_server.core.ports import WrappedBlob

_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A parsed frame."""

    scope: str
    wrapped: WrappedBlob

    def __bytes__(self) -> bytes:
        label, scope = self.wrapped.label.encode(), self.scope.encode()
        return b"".join((_VERSION, bytes([len(label)]), label, struct.pack(">H", len(scope)), scope, self.wrapped.blob))


@dataclass(frozen=True, slots=True)
class DataKey:
    """What GenerateKey and UnwrapKey return."""

    tenant: str
    scope: str
    plaintext: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)


def parse_wrapped_key(data: bytes, field: str = "wrapped_key") -> WrappedKey:
    """Parse the frame in a request's field; the blob stays opaque. Raises TooLarge, MalformedWrappedKey."""
    if len(data) > MAX_WRAPPED_KEY:
        raise TooLarge(f"{field} is {len(data)} bytes; at most {MAX_WRAPPED_KEY} are allowed", field=field)
    try:
        label_end = 2 + data[1]
        scope_at = label_end + 2
        scope_end = scope_at + int.from_bytes(data[label_end:scope_at], "big")
        label, scope = data[2:label_end].decode(), data[scope_at:scope_end].decode()
    except (IndexError, UnicodeDecodeError):
        raise MalformedWrappedKey(field=field) from None
    whole = data[:1] == _VERSION and scope_end < len(data)
    if not (whole and label and is_scope(scope)):
        raise MalformedWrappedKey(field=field)
    return WrappedKey(scope, WrappedBlob(label, data[scope_end:]))
