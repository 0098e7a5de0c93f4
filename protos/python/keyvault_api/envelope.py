"""The KVE1 envelope: seal, parse, open, commits_to. Specified byte by byte in docs/envelope.md.

    off len field (all integers big-endian)
      0   3 magic "KVE"        3  1 version 01
      4   1 alg 01 = Cobblestone-256 (C2SP chunked-encryption@v1)
      5   1 kind 01 DATA | 02 TOMBSTONE (empty) | 03 REKEY (SHA-256 of the new envelope)
      6   2 reserved 00 00
      8   8 revision 1 .. 2^63-1
     16  24 salt, random, fresh for every seal
     40  32 commitment to the data key, the first 16 bytes, the tenant and the key_id
     72  .. chunks: 16384 bytes of plaintext each, ciphertext || 16-byte tag; the last is shorter and may be empty

The rule of this file: it writes no cipher code. From offset 16 on an envelope is what `cryptography.cobblestone`
makes of the context below. Every way to fail after `parse` is one error, and nothing is returned before all opened.
Source: https://c2sp.org/chunked-encryption
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

HEAD_SIZE = 72
"""Bytes up to and with the commitment: enough to tell whose record it is."""
MAX_PLAINTEXT = 380_000
MAX_ENVELOPE = 380_456
MIN_ENVELOPE = 88
MAX_REVISION = 2**63 - 1

_FIXED = struct.Struct(">3sBBBHQ")
_COMMITTED = 16  # bytes of the head that the context begins with
_CHUNK, _TAG = 16_384, 16


class Kind(IntEnum):
    """What an envelope is for. REKEY is never stored: it authorises the bytes that it names."""

    DATA = 1
    TOMBSTONE = 2
    REKEY = 3


_KINDS = {int(kind): kind for kind in Kind}
_EXACT_SIZE = {Kind.TOMBSTONE: 88, Kind.REKEY: 120}


class MalformedEnvelope(ValueError):
    """The bytes are no KVE1 envelope: found without any key."""


class EnvelopeDoesNotOpen(Exception):
    """The envelope does not open under this data key, tenant and key_id. Nothing says which of them is wrong."""


class Header(NamedTuple):
    """What an envelope says of itself before any key is at hand."""

    kind: Kind
    revision: int


def seal(data_key: bytes, tenant: str, key_id: str, revision: int, plaintext: bytes, kind: Kind = Kind.DATA) -> bytes:
    """Seals at most 380,000 bytes under a 32-byte data key, for one tenant, key_id, revision and kind.

    Returns an envelope of 88 bytes more than the plaintext, and 16 more for each full 16 KiB of it.
    Raises ValueError for what an envelope cannot hold: a plaintext too long or of another length than its kind has, a
    revision out of range, no such kind, a data key of another length.
    """
    kind = Kind(kind)
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"the plaintext has {len(plaintext)} bytes, at most {MAX_PLAINTEXT} fit")
    if not 1 <= revision <= MAX_REVISION:
        raise ValueError("a revision is 1 to 2^63-1")
    if kind in _EXACT_SIZE and len(plaintext) != _EXACT_SIZE[kind] - MIN_ENVELOPE:
        raise ValueError(f"a {kind.name} envelope holds {_EXACT_SIZE[kind] - MIN_ENVELOPE} bytes")
    fixed = _FIXED.pack(b"KVE", 1, 1, kind, 0, revision)
    encryptor = Cobblestone256Encryptor(data_key, _context(fixed, tenant, key_id))
    return fixed + encryptor.update(plaintext) + encryptor.finalize()


def parse(envelope: bytes) -> Header:
    """Checks all that can be checked without a key. Raises MalformedEnvelope."""
    if not MIN_ENVELOPE <= len(envelope) <= MAX_ENVELOPE:
        raise MalformedEnvelope(f"an envelope has {MIN_ENVELOPE} to {MAX_ENVELOPE} bytes")
    header = parse_head(envelope[:HEAD_SIZE])
    if (len(envelope) - HEAD_SIZE) % (_CHUNK + _TAG) < _TAG:
        raise MalformedEnvelope("the last chunk is cut short or missing")
    if len(envelope) != _EXACT_SIZE.get(header.kind, len(envelope)):
        raise MalformedEnvelope(f"a {header.kind.name} envelope has {_EXACT_SIZE[header.kind]} bytes")
    return header


def parse_head(head: bytes) -> Header:
    """Checks the first 72 bytes of an envelope alone. Raises MalformedEnvelope."""
    if len(head) != HEAD_SIZE:
        raise MalformedEnvelope(f"a head has {HEAD_SIZE} bytes")
    magic, version, alg, kind, reserved, revision = _FIXED.unpack_from(head)
    if (magic, version, alg, reserved) != (b"KVE", 1, 1, 0):
        raise MalformedEnvelope("not a KVE1 envelope with algorithm 1")
    if kind not in _KINDS:
        raise MalformedEnvelope("the kind is none of DATA, TOMBSTONE, REKEY")
    if not 1 <= revision <= MAX_REVISION:
        raise MalformedEnvelope("a revision is 1 to 2^63-1")
    return Header(_KINDS[kind], revision)


def open(  # noqa: A001 - read as envelope.open; nothing here opens a file
    data_key: bytes, tenant: str, key_id: str, envelope: bytes
) -> bytes:
    """Opens an envelope: returns its plaintext, at most 380,000 bytes, once every chunk has opened.

    Raises MalformedEnvelope, or EnvelopeDoesNotOpen for a wrong data key, tenant, key_id or byte anywhere.
    """
    parse(envelope)
    decryptor = Cobblestone256Decryptor(data_key, _context(envelope[:_COMMITTED], tenant, key_id))
    try:
        return decryptor.update(memoryview(envelope)[_COMMITTED:]) + decryptor.finalize()
    except InvalidTag:
        raise EnvelopeDoesNotOpen from None


def commits_to(head: bytes, data_key: bytes, tenant: str, key_id: str) -> bool:
    """True if a 72-byte head commits to this data key, tenant and key_id; compared in constant time, body unseen."""
    parse_head(head)
    decryptor = Cobblestone256Decryptor(data_key, _context(head[:_COMMITTED], tenant, key_id))
    try:
        decryptor.update(head[_COMMITTED:])  # cobblestone checks the commitment as soon as it has it
    except InvalidTag:
        return False
    return True


def _context(fixed: bytes, tenant: str, key_id: str) -> bytes:
    """envelope[0:16] || u16 len(tenant) || tenant || u16 len(key_id) || key_id, in UTF-8."""
    return fixed + _counted(tenant.encode()) + _counted(key_id.encode())


def _counted(text: bytes) -> bytes:
    if len(text) > 0xFFFF:
        raise ValueError("a tenant or key_id has at most 65,535 bytes")
    return struct.pack(">H", len(text)) + text
