"""The caller as the vault sees it: a tenant, and what stands between the caller and the records."""

from typing import Protocol

from keyvault_server.core.records import StoredHead

DEFAULT_TENANT = "default"
"""Tenant of every caller where no authentication is configured."""
ANONYMOUS = "anonymous"
"""Identity of every caller where no authentication is configured; the only identity without a kind."""
MAX_IDENTITY = 2048
"""Characters in an identity: the longest SPIFFE ID."""


class Caller(Protocol):
    """The author of one call.

    The vault calls, in this order: `note` before anything is checked; `permit` once the names are valid, before
    anything is looked up; `spend` once the envelope's shape is valid; `intend` before a conditional write, or
    `replays` where none is needed; `charge` for the bytes that a Read or List returned.
    """

    @property
    def tenant(self) -> str:
        """Tenant whose records the call is about."""

    def note(self, name: str, envelope: bytes = b"") -> None:
        """Note the key_id, scope or prefix, and the envelope, that were sent. Neither need be valid."""

    def permit(self, name: str) -> None:
        """Raise PolicyDenied unless the caller may make this call for a key_id, a scope or a prefix.

        An empty scope is one that the server makes; an empty prefix lists all names.
        """

    def spend(self) -> None:
        """Take this call from the caller's quota. Raises RateLimited."""

    def charge(self, size: int) -> None:
        """Take `size` bytes, which the call has used already, from the caller's quota."""

    def refund(self, size: int) -> None:
        """Give back what a Read cost of which the caller does not get the `size` bytes."""

    async def intend(self, record: StoredHead, expected: bytes | None) -> None:
        """Record durably what is about to be written if the stored head is `expected` (None: nothing is stored).

        Raises BackendUnavailable: then nothing may be written.
        """

    def replays(self) -> None:
        """Note that the envelope had been accepted before."""
