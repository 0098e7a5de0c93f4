"""The two things that the vault needs of the world. `tests/contract/` says what an implementation must do.

Any method may also raise BackendUnavailable (not reached, or a write's outcome is unknown), BackendThrottled
(surely nothing was done) and, where a store is meant, StoreFull; nothing else leaves an implementation, and no text of
a backend is in it. A cancelled call leaves no lock, no connection and no half-written record behind.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from keyvault_server.core.records import Record, StoredHead


@dataclass(frozen=True, slots=True)
class WrappedBlob:
    """What a key service makes of a data key."""

    label: str
    """Names the master key, 1 to 255 bytes of UTF-8."""
    blob: bytes
    """Opaque to all but the key service."""


@dataclass(frozen=True, slots=True)
class NewDataKey:
    """A data key in both forms."""

    plaintext: bytes = field(repr=False)
    """32 bytes."""
    wrapped: WrappedBlob


class KeyService(Protocol):
    """Mints and unwraps data keys, each bound to one tenant and one scope.

    Every method raises MasterKeyUnusable if a master key that it needs is disabled, pending deletion or gone.
    """

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        """A fresh 32-byte data key, wrapped under the current master key for this tenant and scope."""

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        """The 32-byte data key. Raises NotAuthorized for an unknown label (without a call to the key service), and
        for a blob that was changed or made for another master key, tenant or scope.
        """

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        """The same data key under the current master key; it never leaves the key service. Raises as unwrap."""

    async def check(self) -> None:
        """Returns if the current master key can be used now; raises otherwise."""


class HeadChanged(Exception):
    """A conditional write found another head than it expected: nothing was written. `stored` is what is there."""

    def __init__(self, stored: StoredHead | None) -> None:
        super().__init__("the stored head is not the expected one")
        self.stored = stored


class Walked(NamedTuple):
    """What a walk over a store found under one name."""

    tenant: str
    key_id: str
    """The name as it is stored, which need not be one that the vault would take."""
    record: Record | None
    """What `get` returns for it; None where the store holds something that it cannot read as a record."""


class RecordStore(Protocol):
    """Keeps one record under each (tenant, key_id). Reads show every write that was answered before they began."""

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        """What is stored, without the body; None if the name was never used."""

    async def get(self, tenant: str, key_id: str) -> Record | None:
        """All that is stored; None if the name was never used."""

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        """Stores the record iff the stored head is `expected`, or nothing is stored and `expected` is None.

        Atomic and durable when it returns. Raises HeadChanged with what is stored otherwise, never for a condition
        that its own first attempt may have spoilt: that is BackendUnavailable unless the record was looked at.
        """

    def walk(self) -> AsyncIterator[Walked]:
        """Every name and what is stored under it, in no order: for operators, never on the data path.

        Each record is as it was at some moment of the walk; together they are no snapshot. What was there before the
        walk and stays is met once. Something that is no record is reported and does not end the walk.
        """

    async def check(self) -> None:
        """Returns if the store answers reads and takes writes now; raises otherwise."""
