"""A key set: the public keys of the tokens' issuer, as a JWKS (RFC 7517) has them.

The rules of this file: a set with a symmetric or a private key is refused, since a public set with a secret in it is a
leak, and whoever reads the secret makes tokens. Keys that cannot verify a signature here (other uses, other curves,
weak RSA) are left out: issuers publish such beside. A key's type says which algorithms it is for, not the token.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from keyvault_server.core.errors import OperatorError

_RSA_BITS = 2048
_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
    "RSA": RSAAlgorithm.from_jwk,
}

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class BadKeySet(OperatorError):
    """The JWKS, or where it comes from, cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key of the issuer, and the algorithms of RFC 7518 and RFC 8037 that it is for."""

    key: PublicKey
    algorithms: frozenset[str]


KeySet: TypeAlias = Mapping[str, VerifyingKey]
"""Keys by their `kid`."""


def parse_key_set(content: bytes) -> KeySet:
    """Reads a JWKS. Raises BadKeySet."""
    try:
        keys = json.loads(content)["keys"]
        entries = [dict(key) for key in keys]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadKeySet('this is no key set: JSON {"keys": [...]} (RFC 7517)') from None
    found: dict[str, VerifyingKey] = {}
    for entry in entries:
        if entry.get("kty") == "oct" or "d" in entry or "k" in entry:
            raise BadKeySet("the key set holds a secret key: publish public keys only, and replace that one")
        key = _verifying_key(entry)
        if key is None:
            continue
        if entry["kid"] in found:
            raise BadKeySet("two keys of the key set have the same kid")
        found[entry["kid"]] = key
    if not found:
        raise BadKeySet("the key set has no key that verifies signatures and has a kid")
    return found


def _verifying_key(entry: dict[str, Any]) -> VerifyingKey | None:
    """The key of an entry; None for one that is not for verifying signatures, or not here."""
    operations = entry.get("key_ops", ["verify"])
    verifies = isinstance(operations, list) and "verify" in operations and entry.get("use", "sig") == "sig"
    if not verifies or not isinstance(entry.get("kid"), str):
        return None
    key = _public_key(entry)
    algorithms = _algorithms_of(key)
    if "alg" in entry:
        algorithms &= {entry["alg"]} if isinstance(entry["alg"], str) else set()
    return VerifyingKey(key, algorithms) if key is not None and algorithms else None


def _public_key(entry: dict[str, Any]) -> PublicKey | None:
    reader = _READERS.get(str(entry.get("kty")))
    if reader is None:
        return None
    try:
        key = reader(entry)
    except (InvalidKeyError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, PublicKey) else None


def _algorithms_of(key: PublicKey | None) -> frozenset[str]:
    """The algorithms that a key of this type and size can have signed with; none for one that is too weak."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    if isinstance(key, ec.EllipticCurvePublicKey):
        fitting = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(key.curve.name)
        return frozenset({fitting} if fitting else ())
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
        return frozenset(f"{kind}{size}" for kind in ("RS", "PS") for size in (256, 384, 512))
    return frozenset()
