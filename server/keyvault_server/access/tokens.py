"""JSON Web Tokens (RFC 7519) as proof of who calls; PyJWT verifies them.

The rules of this file, after RFC 8725: the algorithms are the settings', never the token's choice; only signatures
with public keys; the key is the one that `kid` names in the issuer's key set, and its type has to fit the algorithm;
`exp`, `aud`, `iss` and `sub` are required; a header that points elsewhere (jku, x5u, jwk) is not followed. No error
holds anything of a token.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from keyvault_server.access.key_set import KeySet, VerifyingKey
from keyvault_server.access.key_source import KeySource
from keyvault_server.core.errors import OperatorError, Unauthenticated

MAX_TOKEN = 8_000
"""Characters of a token; all metadata of a call has to fit into gRPC's 8 KiB."""
MAX_SUBJECT = 255
"""Characters of `sub`, as OpenID Connect has it; visible ASCII."""
CACHE_SECONDS = 60.0
"""A verified token is known again for so long at most; never beyond its `exp`, nor after the key set was read anew."""
CACHE_TOKENS = 10_000
"""Verified tokens that are remembered, about 4 MB; the least recently seen is forgotten first."""
ALGORITHMS = frozenset({"ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
"""What the settings may name. HS* and none are not among them: the server would hold, or need no, secret."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SUBJECT = re.compile(r"[!-~]{1,255}", re.ASCII)
_REQUIRED = ["exp", "aud", "iss", "sub"]
_SENTENCES: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired: get a fresh one",
    jwt.ImmatureSignatureError: "the token is not valid yet: do the clocks of its issuer and this server agree?",
    jwt.InvalidAudienceError: "the token is for another audience: get one for this server's",
    jwt.InvalidIssuerError: "the token is from another issuer: get one from the issuer that this server trusts",
    jwt.InvalidSignatureError: "the token's signature is not by the key that it names: get a fresh one",
}


class BadTokenRules(OperatorError):
    """The rules for tokens cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens are believed."""

    issuer: str
    """`iss` has to be this."""
    audience: str
    """`aud` has to be this, or have it among others."""
    algorithms: tuple[str, ...] = ("ES256", "EdDSA", "RS256")
    """Some of ALGORITHMS."""
    leeway_seconds: float = 10.0
    """How far the issuer's clock may be off, 0 to 60."""

    def __post_init__(self) -> None:
        if not (self.issuer and self.audience):
            raise BadTokenRules("tokens need both an issuer and an audience: without them any service's would do")
        if not self.algorithms or not set(self.algorithms) <= ALGORITHMS:
            raise BadTokenRules(f"the algorithms of tokens are some of {', '.join(sorted(ALGORITHMS))}")
        if not 0 <= self.leeway_seconds <= 60:
            raise BadTokenRules("the leeway of tokens is 0 to 60 seconds")


class TokenCache:
    """Tokens that were verified, by their SHA-256."""

    def __init__(self, clock: Callable[[], float] = time.time, size: int = CACHE_TOKENS) -> None:
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[bytes, tuple[str, float, KeySet]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, keys: KeySet) -> str | None:
        """The subject of a token that was verified by this very key set and is still valid; else None."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        subject, until, verified_by = entry
        if self._clock() >= until or verified_by is not keys:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return subject

    def put(self, digest: bytes, subject: str, expires: float, keys: KeySet) -> None:
        """Remembers a token until it expires, for CACHE_SECONDS at most."""
        self._entries[digest] = (subject, min(expires, self._clock() + CACHE_SECONDS), keys)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class Tokens:
    """Verifies tokens, by the keys that are at hand: no input or output, and no waiting."""

    def __init__(self, rules: TokenRules, keys: KeySource) -> None:
        self._rules = rules
        self._keys = keys
        self._cache = TokenCache()

    def subject(self, token: str) -> str:
        """The `sub` of a valid token. Raises Unauthenticated for any other; TokenKeysTooOld."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token has more than {MAX_TOKEN} characters: get one with fewer claims")
        if not _TOKEN.fullmatch(token):
            raise Unauthenticated("what was sent is no JWT: three parts of base64url with points between")
        keys = self._keys.current
        digest = hashlib.sha256(token.encode()).digest()
        subject = self._cache.get(digest, keys)
        if subject is None:
            claims = self._claims(token, keys)
            subject = claims["sub"]
            if not _SUBJECT.fullmatch(subject):
                raise Unauthenticated(f"the token's sub is not 1 to {MAX_SUBJECT} visible ASCII characters")
            self._cache.put(digest, subject, int(claims["exp"]), keys)
        return subject

    def _claims(self, token: str, keys: KeySet) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
                allowed = ", ".join(self._rules.algorithms)
                raise Unauthenticated(f"the token is not signed with an algorithm that is allowed here: {allowed}")
            key = self._key(header.get("kid"), keys)
            if algorithm not in key.algorithms:
                raise Unauthenticated("the token's algorithm does not fit the key that it names")
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],  # one of the settings', by now
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_seconds,
                options={"require": _REQUIRED},
            )
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no {error.claim}: exp, aud, iss and sub are required") from None
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(_SENTENCES.get(type(error), "the token is no valid JWT: get a fresh one")) from None

    def _key(self, kid: object, keys: KeySet) -> VerifyingKey:
        if not isinstance(kid, str):
            raise Unauthenticated("the token does not say which key signed it: it needs a kid")
        if kid not in keys:
            self._keys.missing()
            raise Unauthenticated("the token names a key that its issuer has not published, or only just: try again")
        return keys[kid]
