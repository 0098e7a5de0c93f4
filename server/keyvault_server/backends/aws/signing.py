"""How requests to AWS are signed: as the SDK signs them, at a third of the cost.

The SDK collects the headers that it signs, twice for each request, in a class for mail, which parses and folds each of
them; it puts the whole request together to hash its body; and it derives the day's signing key each time. The rule of
this file: only these three are ours; what is signed, and how, is the SDK's.

Source: botocore, "choose-signer" in signers.py and SigV4Auth in auth.py; AWS IAM User Guide, "Create a signed AWS API
request".
"""

from functools import lru_cache
from hashlib import sha256
from typing import Any, ClassVar

from botocore.auth import AUTH_TYPE_MAPS, SIGNED_HEADERS_BLACKLIST, SigV4Auth, _host_from_url

NAME = "keyvault-v4"
"""Signature version under which the SDK finds it."""
_host_of = lru_cache(8)(_host_from_url)  # all requests of a client have the same URL


class _Headers(dict[str, str]):
    """Headers of a request by their names in lower case."""

    def get_all(self, name: str) -> list[str]:
        """Return the values of a header: one, since a request has each header once."""
        return [self[name]]


class QuickSigV4(SigV4Auth):  # type: ignore[misc]
    """Signature version 4. The SDK makes one for each request."""

    _keys: ClassVar[dict[str, tuple[tuple[str, str, str], bytes]]] = {}
    """The last signing key of each service, and of what it was made: the secret, the day and the region."""

    _collected: _Headers | None = None

    def add_auth(self, request: Any) -> None:
        """See SigV4Auth."""
        self._collected = None
        super().add_auth(request)

    def headers_to_sign(self, request: Any) -> _Headers:
        """See SigV4Auth."""
        if self._collected is None:
            headers = _Headers((name.lower(), value) for name, value in request.headers.items())
            for name in SIGNED_HEADERS_BLACKLIST:
                headers.pop(name, None)
            headers.setdefault("host", _host_of(request.url))
            self._collected = headers
        return self._collected

    def payload(self, request: Any) -> str:
        """See SigV4Auth; the SDK's requests to KMS and DynamoDB have bytes as their body."""
        if isinstance(request.data, bytes) and self._should_sha256_sign_payload(request):
            return sha256(request.data).hexdigest()
        hashed: str = super().payload(request)
        return hashed

    def signature(self, string_to_sign: str, request: Any) -> str:
        """See SigV4Auth."""
        made_of = (self.credentials.secret_key, request.context["timestamp"][:8], self._region_name)
        last, key = self._keys.get(self._service_name, (None, b""))
        if last != made_of:
            key = f"AWS4{made_of[0]}".encode()
            for part in (*made_of[1:], self._service_name, "aws4_request"):
                key = self._sign(key, part)
            self._keys[self._service_name] = made_of, key
        signature: str = self._sign(key, string_to_sign, hex=True)
        return signature


def sign_quickly(client: Any) -> None:
    """Let a client of the SDK sign its requests by QuickSigV4."""
    AUTH_TYPE_MAPS.setdefault(NAME, QuickSigV4)
    client.meta.events.register("choose-signer", _choose)


def _choose(signature_version: object, **_event: object) -> str | None:
    return NAME if signature_version == "v4" else None
