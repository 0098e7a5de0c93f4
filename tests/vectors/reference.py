"""KVE1 once more, written from docs/envelope.md alone with HMAC-SHA-512 and AES-256-GCM: the vectors come from here.

The rule of this file: it imports nothing of ours, so that it and `keyvault.envelope` can find each other's mistakes.
`cobblestone_*` is the layer below, checked, with SHA-256 put in place of its hash, against the vectors that
cryptography publishes. `seal` checks nothing: it also has to make what every reader must refuse. Sizes and constants
are spelled out as in the document.
"""

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LABEL = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM"


class Malformed(Exception):
    """The envelope or head is refused in phase "parse", without a key."""


class DoesNotOpen(Exception):
    """The envelope is refused in phase "open"; no reason is given."""


@dataclass(frozen=True)
class Derived:
    """What comes of one data key, salt and context."""

    aes_key: bytes
    base_nonce: bytes
    commitment: bytes


def derive(key: bytes, salt: bytes, context: bytes) -> Derived:
    """The first 76 bytes of HKDF-Expand-SHA-512 with the data key as PRK, as two HMACs."""
    info = LABEL + b"\x00" + salt + context
    t1 = hmac.digest(key, info + b"\x01", hashlib.sha512)
    t2 = hmac.digest(key, t1 + info + b"\x02", hashlib.sha512)
    return Derived(t1[:32], t1[32:44], t1[44:64] + t2[:12])


def nonce(base_nonce: bytes, index: int) -> bytes:
    """The base nonce XOR the chunk's index, a 96-bit big-endian integer."""
    return bytes(a ^ b for a, b in zip(base_nonce, index.to_bytes(12, "big"), strict=True))


def cobblestone_seal(key: bytes, context: bytes, salt: bytes, plaintext: bytes) -> bytes:
    """salt || commitment || chunks."""
    made = derive(key, salt, context)
    aead = AESGCM(made.aes_key)
    starts = range(0, len(plaintext) + 1, 16_384)  # a last chunk, shorter and maybe empty, always follows
    chunks = [aead.encrypt(nonce(made.base_nonce, i), plaintext[at : at + 16_384], None) for i, at in enumerate(starts)]
    return salt + made.commitment + b"".join(chunks)


def cobblestone_open(key: bytes, context: bytes, message: bytes) -> bytes:
    """The plaintext. Raises DoesNotOpen."""
    if len(key) != 32 or len(message) < 56 or (len(message) - 56) % 16_400 < 16:
        raise DoesNotOpen
    made = derive(key, message[:24], context)
    if not hmac.compare_digest(made.commitment, message[24:56]):
        raise DoesNotOpen
    aead = AESGCM(made.aes_key)
    chunks = [message[at : at + 16_400] for at in range(56, len(message), 16_400)]
    try:
        return b"".join([aead.decrypt(nonce(made.base_nonce, i), chunk, None) for i, chunk in enumerate(chunks)])
    except InvalidTag:
        raise DoesNotOpen from None


def header(revision: int, kind: int) -> bytes:
    """envelope[0:16]."""
    return b"KVE\x01\x01" + bytes([kind, 0, 0]) + revision.to_bytes(8, "big")


def context(fixed: bytes, tenant: str, key_id: str) -> bytes:
    """What the derivation binds in addition to the data key and the salt."""
    names = [name.encode() for name in (tenant, key_id)]
    return fixed + b"".join(len(name).to_bytes(2, "big") + name for name in names)


def seal(key: bytes, tenant: str, key_id: str, fixed: bytes, salt: bytes, plaintext: bytes) -> bytes:
    """An envelope with this header, whatever it says."""
    return fixed + cobblestone_seal(key, context(fixed, tenant, key_id), salt, plaintext)


def parse(envelope: bytes) -> tuple[int, int]:
    """Kind and revision. Raises Malformed."""
    if not 88 <= len(envelope) <= 380_456:
        raise Malformed("length")
    kind, revision = parse_head(envelope[:72])
    if (len(envelope) - 72) % 16_400 < 16:
        raise Malformed("last chunk")
    if (kind == 2 and len(envelope) != 88) or (kind == 3 and len(envelope) != 120):
        raise Malformed("length of this kind")
    return kind, revision


def parse_head(envelope: bytes) -> tuple[int, int]:
    """Kind and revision of an envelope of which there is no more than the head. Raises Malformed."""
    if len(envelope) != 72:
        raise Malformed("length of a head")
    if envelope[:5] != b"KVE\x01\x01" or envelope[6:8] != b"\x00\x00":
        raise Malformed("magic, version, alg or reserved")
    kind, revision = envelope[5], int.from_bytes(envelope[8:16], "big")
    if kind not in (1, 2, 3) or not 1 <= revision <= 2**63 - 1:
        raise Malformed("kind or revision")
    return kind, revision


def open_(key: bytes, tenant: str, key_id: str, envelope: bytes) -> bytes:
    """The plaintext. Raises Malformed, DoesNotOpen."""
    parse(envelope)
    return cobblestone_open(key, context(envelope[:16], tenant, key_id), envelope[16:])


def commits_to(head: bytes, key: bytes, tenant: str, key_id: str) -> bool:
    """Whether a head is this key's for these names. Raises Malformed."""
    parse_head(head)
    made = derive(key, head[16:40], context(head[:16], tenant, key_id))
    return hmac.compare_digest(made.commitment, head[40:72])
