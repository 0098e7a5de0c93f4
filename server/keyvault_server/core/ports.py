"""The two ports of the vault. `tests/contract/` specifies what an implementation must do.

Any method may also raise BackendUnavailable (not reached, or a write's outcome is unknown), BackendThrottled (surely
nothing was done) and, in a store, StoreFull. Nothing else leaves an implementation, and no message holds a text of the
backend. A cancelled call leaves no lock, no connection and no half-written record behind.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from keyvault_server.core.records import Record, StoredHead


@dataclass(frozen=True, slots=True)
class WrappedBlob:
    """A data key as a key service wrapped it."""

    label: str
    """Names the master key, 1 to 255 bytes of UTF-8."""
    blob: bytes
    """Opaque to everything but the key service."""


@dataclass(frozen=True, slots=True)
class NewDataKey:
    """A data key in both forms."""

    plaintext: bytes = field(repr=False)
    """32 bytes."""
    wrapped: WrappedBlob


class KeyService(Protocol):
    """Mint and unwrap data keys, each bound to one tenant and one scope.

    Every method raises MasterKeyUnusable if a master key that it needs is disabled, pending deletion or gone.
    """

    async def generate(self, tenant: str, scope: str) -> NewDataKey:
        """Mint a 32-byte data key, wrapped under the current master key for this tenant and scope."""

    async def unwrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> bytes:
        """Return the 32-byte data key.

        Raises NotAuthorized for an unknown label (without a call to the key service), and for a blob that was changed
        or made for another master key, tenant or scope.
        """

    async def rewrap(self, tenant: str, scope: str, wrapped: WrappedBlob) -> WrappedBlob:
        """Wrap the same data key under the current master key, inside the key service. Raises as `unwrap`."""

    async def check(self) -> None:
        """Raise unless the current master key can be used now."""


class HeadChanged(Exception):
    """A conditional write found another head than the expected one and wrote nothing. `stored` is what it found."""

    def __init__(self, stored: StoredHead | None) -> None:
        super().__init__("the stored head is not the expected one")
        self.stored = stored


class Walked(NamedTuple):
    """What a walk over a store found under one name."""

    tenant: str
    key_id: str
    """The name as it is stored; the vault might not accept it."""
    record: Record | None
    """What `get` returns for it; None where the stored bytes are not a record."""


class ListedName(NamedTuple):
    """The name of a record, as it is stored; the vault might not accept it."""

    key_id: str
    created: int
    """Microseconds since 1970 by the server's clock; informational."""


class NamePage(NamedTuple):
    """Names in the order of their bytes."""

    names: list[ListedName]
    more: str | None
    """The name after which the next page begins; None at the end."""


class CopyName(NamedTuple):
    """Which copy of an earlier envelope a store has."""

    tenant: str
    key_id: str
    revision: int


class RecordStore(Protocol):
    """Keep one record under each (tenant, key_id). A read shows every write that was answered before it began.

    It also keeps copies of earlier envelopes. A copy that is late, repeated, left over or missing is harmless: the
    record's `since` decides which of them are looked for, and its ring whether one is believed.
    """

    copies_itself: bool
    """Whether `put_if` makes and removes copies, in its own transaction; `keep` and `remove` then do nothing."""
    reads_together: int
    """Names that a store which shares requests is best asked for at the same time; 1 if it gains nothing by that."""

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        """Return what is stored, without the body; None if the name was never used."""

    async def get(self, tenant: str, key_id: str) -> Record | None:
        """Return everything that is stored; None if the name was never used."""

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        """Store the record iff the stored head is `expected`, or nothing is stored and `expected` is None.

        Atomic, and durable when it returns. Otherwise raises HeadChanged with what is stored; but if an attempt of its
        own may have changed the head, BackendUnavailable, unless the stored record shows the outcome.

        A store that copies itself makes a copy of the envelope of `record.superseded` here, and removes those below
        `record.since`.
        """

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        """Return at most `limit` names that begin with `prefix` and come after `after` ("": from the first one on).

        Names of live records, or of deleted ones; never of vacancies. A page can be short, or empty, before the end.
        It may show what was stored some time ago, and each page what was stored at another time. `after` begins with
        the prefix.
        """

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        """Store a copy of the envelope of `stored`, which has this revision, before a put replaces it.

        Unconditional; durable when it returns, or once the put has returned whose `record.superseded` it is.
        """

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        """Return the envelope of which a copy is stored for this revision; None if there is none."""

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """Begin to remove the copies of these revisions, which cannot be read any more.

        Returns at once and never raises: what stays is logged, and `sweep` removes it. A store closes after the end.
        """

    def walk_copies(self) -> AsyncIterator[CopyName]:
        """Yield the name of every copy, in no order: for operators, as `walk`."""

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        """Remove one copy iff it has exactly these bytes; return whether it did."""

    def walk(self) -> AsyncIterator[Walked]:
        """Yield every name and what is stored under it, in no order: for operators, never on the data path.

        Each record is as it was at some moment of the walk; together they are not a snapshot. A record that exists
        during the whole walk is yielded once. Bytes that are not a record are reported and do not end the walk. Copies
        are left out.
        """

    async def check(self) -> None:
        """Raise unless the store answers reads and accepts writes now."""
