"""How requests to AWS are signed: as the SDK signs them, at half the cost.

The SDK collects the headers that it signs, twice for each request, in a class for mail, which parses and folds each of
them. The rule of this file: only that collection is ours; what is signed, and how, is the SDK's.

Source: botocore, "choose-signer" in signers.py and SigV4Auth in auth.py.
"""

from typing import Any

from botocore.auth import AUTH_TYPE_MAPS, SIGNED_HEADERS_BLACKLIST, SigV4Auth, _host_from_url

NAME = "keyvault-v4"
"""Signature version under which the SDK finds it."""


class _Headers(dict[str, str]):
    """Headers of a request by their names in lower case."""

    def get_all(self, name: str) -> list[str]:
        """Return the values of a header: one, since a request has each header once."""
        return [self[name]]


class QuickSigV4(SigV4Auth):  # type: ignore[misc]
    """Signature version 4."""

    def headers_to_sign(self, request: Any) -> _Headers:
        """See SigV4Auth."""
        headers = _Headers((name.lower(), value) for name, value in request.headers.items())
        for name in SIGNED_HEADERS_BLACKLIST:
            headers.pop(name, None)
        headers.setdefault("host", _host_from_url(request.url))
        return headers


def sign_quickly(client: Any) -> None:
    """Let a client of the SDK sign its requests by QuickSigV4."""
    AUTH_TYPE_MAPS.setdefault(NAME, QuickSigV4)
    client.meta.events.register("choose-signer", _choose)


def _choose(signature_version: object, **_event: object) -> str | None:
    return NAME if signature_version == "v4" else None
