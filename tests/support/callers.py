"""The caller that may do everything, for tests of the vault alone."""

from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.records import StoredHead


class Unrestricted:
    """A Caller that holds nobody back."""

    def __init__(self, tenant: str = DEFAULT_TENANT) -> None:
        self.tenant = tenant

    def note(self, name: str, envelope: bytes = b"") -> None:
        """See Caller."""

    def permit(self, name: str) -> None:
        """See Caller."""

    def spend(self) -> None:
        """See Caller."""

    def charge(self, size: int) -> None:
        """See Caller."""

    def refund(self, size: int) -> None:
        """See Caller."""

    async def intend(self, record: StoredHead, expected: bytes | None) -> None:
        """See Caller."""

    def replays(self) -> None:
        """See Caller."""
