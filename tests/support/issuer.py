"""An issuer of tokens for tests: good ones by PyJWT, bad ones by hand, as an attacker makes them."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.certificates import PrivateKey

ISSUER, AUDIENCE, SUBJECT = "https://issuer.test", "keyvault", "service-7"
_RSA = rsa.generate_private_key(65537, 2048)  # takes a while: one for all


class Issuer:
    """Signs tokens with any of its keys; its key set is what it publishes."""

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "ed": ed25519.Ed25519PrivateKey.generate(),
            "rsa": _RSA,
        }

    def key_set(self, *more: dict[str, Any], only: tuple[str, ...] = ("ec", "ed", "rsa")) -> bytes:
        """Return the JWKS of these keys, with further entries of the test."""
        return json.dumps({"keys": [self.jwk(kid) for kid in only] + list(more)}).encode()

    def jwk(self, kid: str) -> dict[str, Any]:
        return {"kid": kid, "use": "sig"} | jwk_of(self.keys[kid])

    def token(self, kid: str = "ec", header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """Return a token for an hour, with these claims and header fields instead; None leaves one out."""
        algorithm = {"ec": "ES256", "ed": "EdDSA", "rsa": "RS256"}[kid]
        headers: dict[str, Any] = {"kid": kid} | (header or {})
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(claims_with(claims), key or self.keys[kid], headers.pop("alg", algorithm), headers)

    def public_pem(self, kid: str) -> bytes:
        return (
            self.keys[kid]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )


def claims_with(changed: dict[str, Any]) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": now + 3600, "iat": now} | changed
    return {name: value for name, value in claims.items() if value is not None}


def jwk_of(key: PrivateKey) -> dict[str, Any]:
    """Return the public key as RFC 7517 writes it."""
    made: dict[str, Any]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        made = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, rsa.RSAPrivateKey):
        made = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made


def by_hand(header: Any, claims: Any, secret: bytes | None = None) -> str:
    """Return a token that no library would make: any header, signed by HMAC-SHA-256 or not at all."""
    signed = b".".join(_encoded(part) for part in (header, claims))
    signature = hmac.digest(secret, signed, hashlib.sha256) if secret is not None else b""
    return b".".join((signed, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def _encoded(part: Any) -> bytes:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
