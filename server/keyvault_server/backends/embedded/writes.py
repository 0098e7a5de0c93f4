"""What one transaction of the embedded store is made of: conditional puts with their copies, and removals of copies.

The rule of this file: a copy is made inside the database, before the row that it is of is replaced, and nothing is
removed for a put whose condition failed: its `since` is not the stored one.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keyvault_server.backends.embedded.rows import HEAD, select, stored_head
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.ports import HeadChanged
from keyvault_server.core.records import FORMAT, Record, listed_as, readable_revisions

MAX_BATCH = 4 * 1024 * 1024
"""Bytes of bodies and copies in one transaction, and at most one put more: limits how long the event loop is held."""

_INSERT = (
    "INSERT INTO record (format, head, ring, updated, since, revisions, body, created, kind, tenant, key_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
# SQLite writes an index again if a column of it is set, whatever to: a page more in the log for each Update.
_UPDATE = (
    "UPDATE record SET format = ?, head = ?, ring = ?, updated = ?, since = ?, revisions = ?, body = ?"
    " WHERE created = ? AND kind IS ? AND tenant = ? AND key_id = ? AND head = ?"
)
_UPDATE_INDEXED = (
    "UPDATE record SET format = ?, head = ?, ring = ?, updated = ?, since = ?, revisions = ?, body = ?,"
    " created = ?, kind = ? WHERE tenant = ? AND key_id = ? AND head = ?"
)
_KEEP = (
    "INSERT OR REPLACE INTO copy (tenant, key_id, revision, envelope)"
    " SELECT tenant, key_id, ?, CAST(head || body AS BLOB) FROM record WHERE tenant = ? AND key_id = ? AND head = ?"
)
_REMOVE_BELOW = "DELETE FROM copy WHERE tenant = ? AND key_id = ? AND revision < ?"
_REMOVE = "DELETE FROM copy WHERE tenant = ? AND key_id = ? AND revision = ? AND envelope = ?"


@dataclass(eq=False, slots=True)
class Put:
    """A waiting conditional write, and the future that answers its caller."""

    tenant: str
    key_id: str
    record: Record
    expected: bytes | None
    answer: "asyncio.Future[None]"
    accepted: bool = False

    @property
    def keeps(self) -> bool:
        """Whether it makes a copy."""
        return self.record.superseded > 0

    @property
    def size(self) -> int:
        """Bytes that it writes."""
        copied = [one.size for one in readable_revisions(self.record)][1] if self.keeps else 0
        return len(self.record.body) + copied

    def write(self, connection: sqlite3.Connection) -> Exception | None:
        """Write if the condition holds in the transaction so far; else return the refusal, with what is stored."""
        record = self.record
        columns = (FORMAT, record.head, record.ring, record.updated, record.since, record.revisions, record.body)
        values = (*columns, record.created, listed_as(record), self.tenant, self.key_id)
        if self.expected is None:
            written = connection.execute(_INSERT, values)
        else:
            if self.keeps:
                connection.execute(_KEEP, (record.superseded, self.tenant, self.key_id, self.expected))
            written = connection.execute(_UPDATE, (*values, self.expected))
            if not written.rowcount:
                written = connection.execute(_UPDATE_INDEXED, (*values, self.expected))
        self.accepted = written.rowcount > 0
        if self.accepted:
            return None
        try:
            row = select(connection, HEAD, self.tenant, self.key_id)
        except RecordCorrupt as corrupt:
            return corrupt  # the put's condition failed, on a row that another release wrote
        return HeadChanged(stored_head(row) if row else None)

    def remove_unreadable(self, connection: sqlite3.Connection) -> None:
        """Remove the copies that cannot be read any more, if it was written."""
        if self.accepted and self.expected is not None:
            connection.execute(_REMOVE_BELOW, (self.tenant, self.key_id, self.record.since))

    def succeed(self) -> None:
        """Answer that it is done."""
        self.answer.set_result(None)


@dataclass(eq=False, slots=True)
class Removal:
    """The waiting removal of a copy, if it has these bytes."""

    tenant: str
    key_id: str
    revision: int
    envelope: bytes
    answer: "asyncio.Future[bool]"
    removed: bool = False

    keeps = False

    @property
    def size(self) -> int:
        """Bytes that it removes."""
        return len(self.envelope)

    def write(self, connection: sqlite3.Connection) -> None:
        """Remove the copy if it has the bytes."""
        values = (self.tenant, self.key_id, self.revision, self.envelope)
        self.removed = connection.execute(_REMOVE, values).rowcount > 0

    def remove_unreadable(self, connection: sqlite3.Connection) -> None:
        """Do nothing more."""

    def succeed(self) -> None:
        """Answer whether it was removed."""
        self.answer.set_result(self.removed)


Write = Put | Removal


def batch_length(writes: Sequence[Write]) -> int:
    """Return how many of the waiting writes make the next transaction."""
    size = count = 0
    while count < len(writes) and size < MAX_BATCH:
        size += writes[count].size
        count += 1
    return count


def remove_and_commit(connection: sqlite3.Connection, batch: Iterable[Write]) -> sqlite3.Error | None:
    """Remove copies that cannot be read any more, and commit; return the error of a removal: nothing is committed then.

    Runs on the disk's thread: to free a large copy takes longer than to write one. Raises what COMMIT raises.
    """
    try:
        for write in batch:
            write.remove_unreadable(connection)
    except sqlite3.Error as error:
        return error
    connection.commit()
    return None


def answer(write: Write, outcome: Exception | None) -> None:
    """Answer the caller of a write: `outcome` is None if its transaction was committed and its condition held."""
    if write.answer.done():  # its caller was cancelled; the write stands
        return
    if outcome is None:
        write.succeed()
    else:
        future: asyncio.Future[Any] = write.answer
        future.set_exception(outcome)
