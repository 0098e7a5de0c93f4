"""An "invisible salamander": one AES-GCM ciphertext and tag that open under two keys. Why KVE1 has a commitment.

GCM's tag is E_k(J0) XOR GHASH_H(ciphertext), and GHASH is linear in every ciphertext block. So take any blocks, leave
one free, and choose it such that both tags are the same: one equation, linear in GF(2^128).
Source: Grubbs, Lu, Ristenpart, "Message Franking via Committing Authenticated Encryption" (CRYPTO 2017), section 3;
Dodis et al., "Fast Message Franking: From Invisible Salamanders to Encryptment" (CRYPTO 2018).
"""

import functools

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.vectors.reference import Derived

_REDUCTION = 0xE1 << 120  # x^128 + x^7 + x^2 + x + 1 in GCM's reflected bit order (NIST SP 800-38D, 6.3)
_ONE = 1 << 127


def both_open(one: Derived, other: Derived, blocks: list[bytes]) -> bytes:
    """Ciphertext and tag, with the nonces of chunk 0: 16-byte `blocks`, then one more that makes both tags agree."""
    data = [int.from_bytes(block, "big") for block in blocks]
    lengths = (len(data) + 1) * 128  # no additional data, and the ciphertext's bits
    hashes, masks = [], []
    for derived in (one, other):
        hashes.append(_block(derived.aes_key, bytes(16)))
        masks.append(_block(derived.aes_key, derived.base_nonce + b"\x00\x00\x00\x01"))
    partial = [_ghash(h, [*data, 0, lengths]) ^ mask for h, mask in zip(hashes, masks, strict=True)]
    squares = [_multiply(h, h) for h in hashes]  # the free block is the last but one: it is multiplied by H^2
    free = _multiply(partial[0] ^ partial[1], _inverse(squares[0] ^ squares[1]))
    tag = partial[0] ^ _multiply(free, squares[0])
    return b"".join(number.to_bytes(16, "big") for number in (*data, free, tag))


def _block(key: bytes, block: bytes) -> int:
    return int.from_bytes(Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(block), "big")


def _ghash(h: int, blocks: list[int]) -> int:
    return functools.reduce(lambda y, block: _multiply(y ^ block, h), blocks, 0)


def _multiply(x: int, y: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (_REDUCTION if y & 1 else 0)
    return product


def _inverse(x: int) -> int:
    """x^(2^128 - 2), that is the product of x^(2^i) for i from 1 to 127."""
    powers = [x := _multiply(x, x) for _ in range(127)]
    return functools.reduce(_multiply, powers, _ONE)
