"""The layer below KVE1, C2SP's chunked encryption, against vectors of others and against cryptography.cobblestone.

The package cryptography_vectors has vectors for AES-256-GCM, but with SHA-256 in the derivation; Cobblestone-256, which
KVE1 uses, has SHA-512, and the package has no vectors of that. So three tests make the chain: the reference with
SHA-256 put in its place does what the vectors say, which leaves the hash open; the reference's own derivation is
HKDF-Expand with SHA-512; and what the reference seals, cryptography opens, and the other way round.
"""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.vectors import reference

PUBLISHED = json.loads(
    (Path(cryptography_vectors.__file__).parent / "chunked-encryption" / "vectors.json").read_bytes()
)
VECTORS = [vector for vector in PUBLISHED["vectors"] if vector["aead"] == "AEAD_AES_256_GCM"]
GOOD = [vector for vector in VECTORS if vector["expect"] == "success"]
BAD = [vector for vector in VECTORS if vector["expect"] == "failure"]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def parts(vector: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    """Key, context, message."""
    message = base64.b64decode(vector["ciphertext"] or "")
    if vector.get("compressed"):
        message = zlib.decompress(message)
    return bytes.fromhex(vector["key"]), vector["context"].encode(), message


def expanded(algorithm: HashAlgorithm, key: bytes, salt: bytes, context: bytes) -> reference.Derived:
    """The derivation with another's HKDF-Expand."""
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    made = HKDFExpand(algorithm, 76, info).derive(key)
    return reference.Derived(made[:32], made[32:44], made[44:])


@pytest.fixture
def with_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference as the instance that the published vectors are of."""
    monkeypatch.setattr(reference, "derive", lambda key, salt, context: expanded(SHA256(), key, salt, context))


def test_the_package_has_vectors_of_both_sorts() -> None:
    assert len(GOOD) >= 9
    assert len(BAD) >= 25


@pytest.mark.usefixtures("with_sha256")
@pytest.mark.parametrize("vector", GOOD, ids=name_of)
def test_with_sha_256_the_reference_does_what_others_do(vector: dict[str, Any]) -> None:
    key, context, message = parts(vector)
    derived = reference.derive(key, message[:24], context)
    assert (derived.aes_key.hex(), derived.base_nonce.hex()) == (vector["aead_key"], vector["base_nonce"])
    opened = reference.cobblestone_open(key, context, message)
    assert (len(opened), hashlib.sha256(opened).hexdigest()) == (vector["payload_length"], vector["payload_sha256"])
    same = reference.cobblestone_seal(key, context, message[:24], opened) == message  # not spelled out if it fails
    assert same


@pytest.mark.usefixtures("with_sha256")
@pytest.mark.parametrize("vector", BAD, ids=name_of)
def test_with_sha_256_the_reference_refuses_what_others_refuse(vector: dict[str, Any]) -> None:
    with pytest.raises(reference.DoesNotOpen):
        reference.cobblestone_open(*parts(vector))


@pytest.mark.parametrize("vector", GOOD, ids=name_of)
def test_the_reference_derives_with_hkdf_expand_of_sha_512(vector: dict[str, Any]) -> None:
    key, context, message = parts(vector)
    assert reference.derive(key, message[:24], context) == expanded(SHA512(), key, message[:24], context)


@pytest.mark.parametrize("vector", GOOD, ids=name_of)
def test_the_reference_and_cryptography_open_each_others_seals(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, context, message = parts(vector)
    with monkeypatch.context() as patch:
        patch.setattr(reference, "derive", lambda *parts: expanded(SHA256(), *parts))
        payload = reference.cobblestone_open(key, context, message)
    encryptor = Cobblestone256Encryptor(key, context)
    theirs = encryptor.update(payload) + encryptor.finalize()
    same = reference.cobblestone_open(key, context, theirs) == payload
    assert same
    same = reference.cobblestone_seal(key, context, theirs[:24], payload) == theirs
    assert same
    ours = reference.cobblestone_seal(key, context, message[:24], payload)
    assert opened_by_cryptography(key, context, ours) == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("vector", VECTORS, ids=name_of)
def test_cobblestone_256_opens_nothing_sealed_with_sha_256(vector: dict[str, Any]) -> None:
    key, context, message = parts(vector)
    with pytest.raises(InvalidTag if len(key) == 32 else ValueError):
        opened_by_cryptography(key, context, message)
    with pytest.raises(reference.DoesNotOpen):
        reference.cobblestone_open(key, context, message)


def opened_by_cryptography(key: bytes, context: bytes, message: bytes) -> bytes:
    """The digest of what cryptography.cobblestone opens."""
    decryptor = Cobblestone256Decryptor(key, context)
    return hashlib.sha256(decryptor.update(message) + decryptor.finalize()).digest()
