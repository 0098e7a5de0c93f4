"""JSON Web Tokens (JWT, RFC 7519) as proof of who calls; PyJWT verifies them.

The rules of this file, after RFC 8725:

- The settings name the algorithms, never the token, and only signatures with public keys are among them.
- The key is the one that `kid` names in the issuer's key set; its type must fit the algorithm.
- `exp`, `aud`, `iss` and `sub` are required.
- The settings may also demand a `typ`, so that no other kind of token of the issuer is accepted (3.11, 3.12), and a
  greatest lifetime, which makes `iat` required.
- A header that refers to a key elsewhere (jku, x5u, jwk) is ignored.
- No error message has any part of a token.
"""

import contextlib
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from keyvault_server.access.key_set import KeySet, VerifyingKey
from keyvault_server.access.key_source import KeySource, open_key_source, timing_within
from keyvault_server.core.errors import OperatorError, Unauthenticated
from keyvault_server.core.meter import Meter

MAX_TOKEN = 8_000
"""Characters of a token; all metadata of a call must fit into gRPC's 8 KiB."""
MAX_SUBJECT = 255
"""Visible ASCII characters of `sub`, the limit of OpenID Connect."""
CACHE_SECONDS = 60.0
"""Seconds for which a verified token is cached; never beyond its `exp` or a reload of the key set."""
CACHE_TOKENS = 10_000
"""Verified tokens that are cached, about 4 MB; the least recently used is dropped first."""
ALGORITHMS = frozenset({"ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
"""Algorithms that the settings may name. HS* would need a shared secret here, and "none" proves nothing."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SUBJECT = re.compile(r"[!-~]{1,255}", re.ASCII)
_REQUIRED = ["exp", "aud", "iss", "sub"]
_SENTENCES: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired: get a fresh one",
    jwt.ImmatureSignatureError: "the token is not valid yet: compare the clocks of its issuer and this server",
    jwt.InvalidAudienceError: "the token is for another audience: get one for this server's audience",
    jwt.InvalidIssuerError: "the token is from another issuer: get one from the issuer that this server trusts",
    jwt.InvalidSignatureError: "the token's signature is not by the key that its kid names: get a fresh one",
}


class BadTokenRules(OperatorError):
    """The rules for tokens cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The tokens that are accepted. Raises BadTokenRules for rules that would accept too many."""

    issuer: str
    """Required value of `iss`."""
    audience: str
    """Required value of `aud`, or of one of its members."""
    algorithms: tuple[str, ...] = ("ES256", "EdDSA", "RS256")
    """Accepted algorithms, out of ALGORITHMS."""
    leeway_seconds: float = 10.0
    """How far the issuer's clock may be off, 0 to 60."""
    type: str | None = None
    """Required `typ`, a media type such as at+jwt (RFC 9068). None: any, or none."""
    lifetime_seconds: float | None = None
    """Longest time from `iat`, which is then required, to `exp`. None: any."""

    def __post_init__(self) -> None:
        if not (self.issuer and self.audience):
            raise BadTokenRules("tokens need an issuer and an audience: otherwise tokens for any service are accepted")
        unknown = sorted(set(self.algorithms) - ALGORITHMS)
        if unknown or not self.algorithms:
            wrong = f"unknown token algorithm {unknown[0]!a}" if unknown else "no token algorithm"
            raise BadTokenRules(f"{wrong}: choose from {', '.join(sorted(ALGORITHMS))}")
        if not 0 <= self.leeway_seconds <= 60:
            raise BadTokenRules(f"the leeway of tokens must be 0 to 60 seconds, not {self.leeway_seconds:g}")


def _media_type(text: str) -> str:
    """Return the media type that a `typ` means (RFC 7515, 4.1.9), in small letters (RFC 2045, 5.1)."""
    return (text if "/" in text else f"application/{text}").lower()


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """Where the keys of tokens come from, and which tokens are accepted."""

    location: str
    """File or URL of the issuer's key set."""
    rules: TokenRules
    ca: Path | None = None
    """PEM file of the CAs that an https location is verified against. None: the system's."""
    oldest_seconds: float = 86_400.0
    """Age at which keys from a URL are no longer used."""
    keys_token_file: Path | None = None
    """File with the bearer token for fetches of a URL. None: none is sent."""


class TokenCache:
    """Verified tokens, by their SHA-256."""

    def __init__(self, clock: Callable[[], float] = time.time, size: int = CACHE_TOKENS) -> None:
        self._clock = clock
        self._size = size
        self._entries: OrderedDict[bytes, tuple[str, float, KeySet]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, keys: KeySet) -> str | None:
        """Return the subject of a token that this very key set verified and that is still valid, or None."""
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
        """Cache a token until it expires, for CACHE_SECONDS at most."""
        self._entries[digest] = (subject, min(expires, self._clock() + CACHE_SECONDS), keys)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class Tokens:
    """Verifies tokens in memory: no input or output, no waiting."""

    def __init__(self, rules: TokenRules, keys: KeySource) -> None:
        self._rules = rules
        self._required = _REQUIRED if rules.lifetime_seconds is None else [*_REQUIRED, "iat"]
        self._keys = keys
        self._cache = TokenCache()

    @property
    def keys_age(self) -> float:
        """Seconds since the keys were last fetched; 0 for a file."""
        return self._keys.age

    async def reload(self) -> None:
        """See Reloadable; what is reloaded are the issuer's keys."""
        await self._keys.reload()

    def subject(self, token: str) -> str:
        """Return the `sub` of a valid token. Raises Unauthenticated for any other; TokenKeysTooOld."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token has more than {MAX_TOKEN} characters: get one with fewer claims")
        if not _TOKEN.fullmatch(token):
            raise Unauthenticated("not a JWT: expected three parts of base64url, separated by dots")
        keys = self._keys.current
        digest = hashlib.sha256(token.encode()).digest()
        subject = self._cache.get(digest, keys)
        if subject is None:
            claims = self._verify(token, keys)
            subject = claims["sub"]
            if not _SUBJECT.fullmatch(subject):
                raise Unauthenticated(f"the token's sub must be 1 to {MAX_SUBJECT} visible ASCII characters")
            self._cache.put(digest, subject, int(claims["exp"]), keys)
        return subject

    def _verify(self, token: str, keys: KeySet) -> dict[str, Any]:
        """Return the claims of a valid token. Raises Unauthenticated."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
                allowed = ", ".join(self._rules.algorithms)
                raise Unauthenticated(f"the token's algorithm is not accepted here: sign with one of {allowed}")
            key = self._find_key(header.get("kid"), keys)
            if algorithm not in key.algorithms:
                raise Unauthenticated("the token's algorithm does not fit the key that its kid names")
            self._check_type(header.get("typ"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],  # one of the settings', by now
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_seconds,
                options={"require": self._required},
            )
        except jwt.MissingRequiredClaimError as error:
            *others, last = self._required
            required = f"{', '.join(others)} and {last}"
            raise Unauthenticated(f"the token has no {error.claim}: {required} are required") from None
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(_SENTENCES.get(type(error), "not a valid JWT: get a fresh one")) from None
        self._check_lifetime(claims)
        return claims

    def _check_type(self, found: object) -> None:
        demanded = self._rules.type
        if demanded is None:
            return
        if not isinstance(found, str) or _media_type(found) != _media_type(demanded):
            raise Unauthenticated(f"the token's typ is not {demanded}: get a token of this type")

    def _check_lifetime(self, claims: dict[str, Any]) -> None:
        longest = self._rules.lifetime_seconds
        if longest is not None and int(claims["exp"]) - int(claims["iat"]) > longest:
            raise Unauthenticated(f"the token is valid for more than {longest:g} s: get one with a shorter lifetime")

    def _find_key(self, kid: object, keys: KeySet) -> VerifyingKey:
        if not isinstance(kid, str):
            raise Unauthenticated("the token has no kid: it must name the key that signed it")
        if kid not in keys:
            self._keys.request_reload()
            raise Unauthenticated("the token's kid is not in the issuer's key set; if it was just published, try again")
        return keys[kid]


@contextlib.asynccontextmanager
async def open_tokens(options: TokenOptions, *, meter: Meter) -> AsyncIterator[Tokens]:
    """Verify tokens while the body runs, with keys that are kept fresh. Raises OperatorError."""
    timing = timing_within(options.oldest_seconds)
    source = open_key_source(
        options.location, ca=options.ca, token_file=options.keys_token_file, meter=meter, timing=timing
    )
    async with source as keys:
        yield Tokens(options.rules, keys)
