"""A key set: the public keys of the tokens' issuer, as a JSON Web Key Set (JWKS, RFC 7517).

The rules of this file:

- A set that has a symmetric or a private key is refused: anyone who reads the published secret can forge tokens.
- Keys that cannot verify a signature here (other uses, other curves, weak RSA) are skipped: issuers publish them too.
- The type of a key decides which algorithms it verifies; the token does not.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from keyvault_server.access.rsa_strength import MIN_RSA_BITS
from keyvault_server.core.errors import OperatorError

_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
    "RSA": RSAAlgorithm.from_jwk,
}

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class BadKeySet(OperatorError):
    """The JWKS or its location cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key of the issuer, with the algorithms (RFC 7518, RFC 8037) that it verifies."""

    key: PublicKey
    algorithms: frozenset[str]


KeySet: TypeAlias = Mapping[str, VerifyingKey]
"""Keys by their `kid`."""


def parse_key_set(content: bytes) -> KeySet:
    """Return the keys of a JWKS that verify signatures here. Raises BadKeySet."""
    try:
        keys = json.loads(content)["keys"]
        entries = [dict(key) for key in keys]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadKeySet('not a key set: expected JSON {"keys": [...]} (RFC 7517)') from None
    found: dict[str, VerifyingKey] = {}
    for entry in entries:
        if entry.get("kty") == "oct" or "d" in entry or "k" in entry:
            raise BadKeySet("the key set has a secret key: publish public keys only, and replace the exposed one")
        key = _verifying_key(entry)
        if key is None:
            continue
        if entry["kid"] in found:
            raise BadKeySet(f"two keys of the key set have the same kid, {entry['kid'][:80]!a}: each needs its own")
        found[entry["kid"]] = key
    if not found:
        raise BadKeySet("the key set has no usable key: it needs one with a kid that verifies signatures")
    return found


def _verifying_key(entry: dict[str, Any]) -> VerifyingKey | None:
    """Return the key of an entry, or None if it cannot verify a signature here."""
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
    """Return the algorithms that a key of this type and size verifies; none if it is too weak."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    if isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(key.curve.name)
        return frozenset({algorithm} if algorithm else ())
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return frozenset(f"{kind}{size}" for kind in ("RS", "PS") for size in (256, 384, 512))
    return frozenset()
