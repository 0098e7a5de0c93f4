"""Who calls, as the vault sees it: a tenant, and what stands between the caller and the records.

The vault asks in this order: `permit` once the names are known to be names, before anything is looked up; `spend` once
the envelope is known to have a shape; `intend` before a conditional write, or `replays` where none is needed; `charge`
for the bytes that a Read gave out. This class holds nobody back: it is the caller of a vault alone.
"""

from contextvars import ContextVar

from keyvault_server.core.records import StoredHead

DEFAULT_TENANT = "default"
"""Every caller's tenant where no authentication is configured."""


class Caller:
    """The author of one call."""

    __slots__ = ("tenant",)

    def __init__(self, tenant: str = DEFAULT_TENANT) -> None:
        self.tenant = tenant

    def permit(self, name: str) -> None:
        """Raises PolicyDenied unless the caller may make this call for this key_id or scope ("": one to be made)."""

    def spend(self) -> None:
        """Takes this call from the caller's quota. Raises RateLimited."""

    def charge(self, size: int) -> None:
        """Takes so many bytes, which the call has cost already, from the caller's quota."""

    async def intend(self, record: StoredHead, over: bytes | None) -> None:
        """Notes durably what is about to be written, on condition that the stored head is `over` (None: nothing is).

        Raises BackendUnavailable: then nothing may be written.
        """

    def replays(self, envelope: bytes) -> None:
        """Notes that this envelope had been accepted before."""


current_caller: ContextVar[Caller] = ContextVar("current_caller")
"""The author of the call that the running task serves."""
