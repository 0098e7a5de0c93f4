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

The rule of this file: it contains no cipher code. From offset 16 on, an envelope is what `cryptography.cobblestone`
makes with the context below. Every failure after `parse` is one error, and nothing is returned before every chunk has
opened.
Source: https://c2sp.org/chunked-encryption
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

HEAD_SIZE = 72
"""Bytes up to the end of the commitment: enough to decide whether a data key owns the record."""
CHUNK_SIZE, TAG_SIZE = 16_384, 16
"""Bytes of plaintext in a full chunk, and of the tag after each chunk."""
MAX_PLAINTEXT = 380_000
MAX_ENVELOPE = 380_456
MIN_ENVELOPE = 88
MAX_REVISION = 2**63 - 1

_FIXED = struct.Struct(">3sBBBHQ")
_COMMITTED = 16  # bytes of the head that the context begins with


class Kind(IntEnum):
    """What an envelope is for. A REKEY is never stored: it authorises the envelope whose digest it holds."""

    DATA = 1
    TOMBSTONE = 2
    REKEY = 3


_KINDS = {int(kind): kind for kind in Kind}
_EXACT_SIZE = {Kind.TOMBSTONE: 88, Kind.REKEY: 120}


class MalformedEnvelope(ValueError):
    """The bytes are not a valid KVE1 envelope, which can be seen without a key."""


class EnvelopeDoesNotOpen(Exception):
    """The envelope does not open under this data key, tenant and key_id. It never says which of them is wrong."""


class Header(NamedTuple):
    """Public fields of an envelope: a claim until the envelope has opened."""

    kind: Kind
    revision: int


def seal(data_key: bytes, tenant: str, key_id: str, revision: int, plaintext: bytes, kind: Kind = Kind.DATA) -> bytes:
    """Seal at most 380,000 bytes under a 32-byte data key, for one tenant, key_id, revision and kind.

    The envelope is 88 bytes longer than the plaintext, and 16 more for each full 16 KiB of it.
    Raises ValueError for an unknown kind, a plaintext that is too long or that the kind does not allow, a revision out
    of range, a data key of another length, and a name that has no UTF-8 or has more than 65,535 bytes of it.
    """
    kind = Kind(kind)
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"the plaintext is {len(plaintext)} bytes; an envelope holds at most {MAX_PLAINTEXT}")
    if not 1 <= revision <= MAX_REVISION:
        raise ValueError(f"invalid revision {revision}: must be 1 to 2^63-1")
    if kind in _EXACT_SIZE and len(plaintext) != _EXACT_SIZE[kind] - MIN_ENVELOPE:
        raise ValueError(f"the plaintext of a {kind.name} envelope must be {_EXACT_SIZE[kind] - MIN_ENVELOPE} bytes")
    fixed = _FIXED.pack(b"KVE", 1, 1, kind, 0, revision)
    encryptor = Cobblestone256Encryptor(data_key, _context(fixed, tenant, key_id))
    return fixed + encryptor.update(plaintext) + encryptor.finalize()


def parse(envelope: bytes) -> Header:
    """Check everything that needs no key, and return the header. Raises MalformedEnvelope."""
    if not MIN_ENVELOPE <= len(envelope) <= MAX_ENVELOPE:
        raise MalformedEnvelope(f"the envelope is {len(envelope)} bytes; it must be {MIN_ENVELOPE} to {MAX_ENVELOPE}")
    header = parse_head(envelope[:HEAD_SIZE])
    if (len(envelope) - HEAD_SIZE) % (CHUNK_SIZE + TAG_SIZE) < TAG_SIZE:
        raise MalformedEnvelope("the last chunk is truncated or missing")
    if len(envelope) != _EXACT_SIZE.get(header.kind, len(envelope)):
        raise MalformedEnvelope(f"a {header.kind.name} envelope must be {_EXACT_SIZE[header.kind]} bytes")
    return header


def parse_head(head: bytes) -> Header:
    """Check the first 72 bytes of an envelope, and return the header. Raises MalformedEnvelope."""
    if len(head) != HEAD_SIZE:
        raise MalformedEnvelope(f"the head is {len(head)} bytes; it must be {HEAD_SIZE}")
    magic, version, alg, kind, reserved, revision = _FIXED.unpack_from(head)
    if (magic, version, alg, reserved) != (b"KVE", 1, 1, 0):
        raise MalformedEnvelope("not a KVE1 envelope with algorithm 1")
    if kind not in _KINDS:
        raise MalformedEnvelope(f"unknown kind {kind}: expected 1 (DATA), 2 (TOMBSTONE) or 3 (REKEY)")
    if not 1 <= revision <= MAX_REVISION:
        raise MalformedEnvelope(f"invalid revision {revision}: must be 1 to 2^63-1")
    return Header(_KINDS[kind], revision)


def open(  # noqa: A001 - read as envelope.open; nothing here opens a file
    data_key: bytes, tenant: str, key_id: str, envelope: bytes
) -> bytes:
    """Return the plaintext, at most 380,000 bytes, once every chunk of the envelope has opened.

    Raises MalformedEnvelope, or EnvelopeDoesNotOpen for a wrong data key, tenant, key_id or byte anywhere; ValueError
    for a data key or a name that `seal` refuses.
    """
    parse(envelope)
    decryptor = Cobblestone256Decryptor(data_key, _context(envelope[:_COMMITTED], tenant, key_id))
    try:
        return decryptor.update(memoryview(envelope)[_COMMITTED:]) + decryptor.finalize()
    except InvalidTag:
        raise EnvelopeDoesNotOpen from None


def plaintext_size(envelope_size: int) -> int:
    """Return how many bytes of plaintext a valid envelope of this size holds."""
    chunks = (envelope_size - HEAD_SIZE) // (CHUNK_SIZE + TAG_SIZE) + 1
    return envelope_size - HEAD_SIZE - TAG_SIZE * chunks


def commits_to(head: bytes, data_key: bytes, tenant: str, key_id: str) -> bool:
    """Return True if a 72-byte head commits to this data key, tenant and key_id, compared in constant time.

    Raises MalformedEnvelope for other bytes than a head; ValueError for a data key or a name that `seal` refuses. The
    body of the envelope is not needed.
    """
    parse_head(head)
    decryptor = Cobblestone256Decryptor(data_key, _context(head[:_COMMITTED], tenant, key_id))
    try:
        decryptor.update(head[_COMMITTED:])  # cobblestone checks the commitment as soon as it has it
    except InvalidTag:
        return False
    return True


def _context(fixed: bytes, tenant: str, key_id: str) -> bytes:
    """Return envelope[0:16] || u16 len(tenant) || tenant || u16 len(key_id) || key_id, in UTF-8."""
    return fixed + _length_prefixed(tenant) + _length_prefixed(key_id)


def _length_prefixed(name: str) -> bytes:
    try:
        text = name.encode()
    except UnicodeEncodeError:  # replaced by another character, two names would be one
        raise ValueError(f"invalid tenant or key_id {name[:255]!a}: it has no UTF-8") from None
    if len(text) > 0xFFFF:
        raise ValueError(f"a tenant or key_id of {len(text)} bytes is too long: at most 65535")
    return struct.pack(">H", len(text)) + text
