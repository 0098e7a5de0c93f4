"""The embedded record store: SQLite in WAL mode with synchronous=FULL. A RecordStore (see ports.py).

The rules of this file:

- One writer. Waiting puts share a transaction, and one fsync makes all of them durable (group commit). Conditions of a
  batch are checked in order, and no put of it, accepted or refused, is answered before its COMMIT.
- A COMMIT that fails makes the whole batch BackendUnavailable, since a restart may find it done, and stops all writes
  until then. A full disk is the exception, and so is everything that fails before the COMMIT, such as a want of memory:
  nothing was done, and reads and writes go on.
- What a restart finds is made durable before it is shown. A cancelled put still commits.
- Records that were read are kept in memory (row_cache.py). That is exact: the directory is locked to one process, the
  records of a batch are not kept while it is written, and a write by another process is looked for.
- Statements run on the event loop's thread: they touch memory and the page cache, and a hop to another thread costs
  several times as much. Only COMMIT, which waits for the disk, runs on its own thread.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from keyvault_server.backends.embedded.database import open_connections
from keyvault_server.backends.embedded.names import NAMES, page_of, page_values
from keyvault_server.backends.embedded.row_cache import RowCache
from keyvault_server.backends.embedded.rows import COPY, HEAD, WHOLE, rows_of, select, stored_head, stored_record
from keyvault_server.backends.embedded.writes import Put, Removal, Write, answer, batch_length, remove_and_commit
from keyvault_server.core.errors import BackendUnavailable, StoreFull, VaultError
from keyvault_server.core.meter import Meter
from keyvault_server.core.ports import CopyName, NamePage, Walked
from keyvault_server.core.records import FORMAT, Record, StoredHead
from keyvault_server.disk.group_commit import GroupCommit
from keyvault_server.disk.stepping_back import Workers

SNAPSHOT_SECONDS = 0.1
"""Maximum seconds for which reads share one view of the database."""
WALK_PAGE = 32
"""Records that a walk holds at a time, at most 12 MB."""

# A writer that bypasses the vault may have stored values of any type, and text that is not UTF-8.
_PAGE = (
    "SELECT rowid, CAST(tenant AS BLOB), CAST(key_id AS BLOB), typeof(format) = 'integer' AND format = ?,"
    " CAST(head AS BLOB), CAST(ring AS BLOB), CAST(created AS INTEGER), CAST(updated AS INTEGER),"
    " CAST(since AS INTEGER), CAST(revisions AS BLOB), CAST(body AS BLOB)"
    " FROM record WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_COPIES = (
    "SELECT rowid, CAST(tenant AS BLOB), CAST(key_id AS BLOB), CAST(revision AS INTEGER)"
    " FROM copy WHERE rowid > ? ORDER BY rowid LIMIT ?"
)

_SURELY_UNDONE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
"""Errors of a COMMIT that changed nothing; after any other the batch may be found done after a restart."""

_log = logging.getLogger(__name__)


class SqliteStore:
    """The records of one open database. Made by `open_store`; belongs to one event loop."""

    copies_itself = True
    reads_together = 1
    full = False
    """Whether the last write found no space on the disk."""

    def __init__(self, reader: sqlite3.Connection, writer: sqlite3.Connection) -> None:
        self._reader = reader
        self._writer = writer
        self._cache = RowCache()
        self._changes_outside = _changes_outside(writer)
        self._has_copies = bool(rows_of(writer, "SELECT 1 FROM copy LIMIT 1"))
        """Whether there may be a copy to remove: where nobody ever kept one, the look is spared."""
        self._disk = Workers(1, "keyvault-commit")
        self._writes = GroupCommit[Write](batch_length, self._commit_and_answer)
        self._failed = False
        self._writing = False
        self._ending: asyncio.TimerHandle | None = None

    async def get_head(self, tenant: str, key_id: str) -> StoredHead | None:
        """See RecordStore."""
        snapshot = self._snapshot()
        if kept := self._cache.get((tenant, key_id)):
            return kept.stored_head
        row = select(snapshot, HEAD, tenant, key_id)
        return stored_head(row) if row else None

    async def get(self, tenant: str, key_id: str) -> Record | None:
        """See RecordStore."""
        snapshot = self._snapshot()
        record = self._cache.get((tenant, key_id))
        if record is None and (row := select(snapshot, WHOLE, tenant, key_id)):
            record = stored_record(row)
            self._cache.keep((tenant, key_id), record)
        return record

    async def put_if(self, tenant: str, key_id: str, record: Record, expected: bytes | None) -> None:
        """See RecordStore."""
        self._refuse_if_failed()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.add(Put(tenant, key_id, record, expected, answer))
        await answer

    async def list_names(self, tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> NamePage:
        """See RecordStore."""
        rows = rows_of(self._snapshot(), NAMES, *page_values(tenant, prefix, after, limit, deleted=deleted))
        return page_of(rows, limit)

    async def keep(self, tenant: str, key_id: str, revision: int, stored: Record) -> None:
        """See RecordStore. Does nothing: `put_if` makes the copy."""

    async def get_copy(self, tenant: str, key_id: str, revision: int) -> bytes | None:
        """See RecordStore."""
        rows = rows_of(self._snapshot(), COPY, tenant, key_id, revision)
        copy: bytes | None = rows[0][0] if rows else None
        return copy

    def remove(self, tenant: str, key_id: str, revisions: range) -> None:
        """See RecordStore. Does nothing: `put_if` removes the copies."""

    async def remove_copy(self, tenant: str, key_id: str, revision: int, envelope: bytes) -> bool:
        """See RecordStore."""
        self._refuse_if_failed()
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writes.add(Removal(tenant, key_id, revision, envelope, answer))
        return await answer

    async def walk(self) -> AsyncIterator[Walked]:
        """See RecordStore. Yields in the order of first creation; reads a page at a time."""
        self._end_snapshot()
        last = 0
        while rows := rows_of(self._reader, _PAGE, FORMAT, last, WALK_PAGE):
            for tenant, key_id, known, *columns in (row[1:] for row in rows):
                yield Walked(_name(tenant), _name(key_id), stored_record(tuple(columns)) if known else None)
            last = rows[-1][0]

    async def walk_copies(self) -> AsyncIterator[CopyName]:
        """See RecordStore."""
        self._end_snapshot()
        last = 0
        while rows := rows_of(self._reader, _COPIES, last, WALK_PAGE):
            for _, tenant, key_id, revision in rows:
                yield CopyName(_name(tenant), _name(key_id), revision)
            last = rows[-1][0]

    async def check(self) -> None:
        """See RecordStore. Raises if the store stopped writing."""
        self._refuse_if_failed()
        select(self._snapshot(), HEAD, "", "")

    async def close(self) -> None:
        """Commit what waits, then close."""
        await self._writes.finish()
        self._end_snapshot()
        self._disk.shutdown()
        self._reader.close()
        self._writer.close()

    def _refuse_if_failed(self) -> None:
        if self._failed:
            raise BackendUnavailable(
                "the store stopped writing after a disk error: ask the operator to restart the server"
            )

    def _snapshot(self) -> sqlite3.Connection:
        """Return the reader, in a transaction that reads share until the next write: else each would lock and unlock.

        A change by another process, which none should make, is seen when the transaction ends by itself.
        """
        if not self._writing and not self._reader.in_transaction:
            self._forget_if_changed_outside()
            self._reader.execute("BEGIN")
            self._ending = asyncio.get_running_loop().call_later(SNAPSHOT_SECONDS, self._end_snapshot)
        return self._reader

    def _forget_if_changed_outside(self) -> None:
        """Forget what is known if another process has written since the last look: it may have kept a copy, too."""
        changes = _changes_outside(self._writer)
        if changes != self._changes_outside:
            self._changes_outside = changes
            self._has_copies = True
            self._cache.clear()

    def _end_snapshot(self) -> None:
        if self._ending:
            self._ending.cancel()
            self._ending = None
        if self._reader.in_transaction:
            self._reader.commit()

    async def _commit_and_answer(self, batch: list[Write]) -> None:
        for write, outcome in zip(batch, await self._commit(batch), strict=True):
            answer(write, outcome)

    async def _commit(self, batch: list[Write]) -> list[Exception | None]:
        """Run one transaction; return the answer to each write: None, its refusal, or the same failure for all."""
        if self._failed:
            return [BackendUnavailable() for _ in batch]
        self._writing = True
        self._cache.set_changing((write.tenant, write.key_id) for write in batch)
        try:
            return await self._run_transaction(batch)
        finally:
            self._writing = False
            self._cache.set_changing(())

    async def _run_transaction(self, batch: list[Write]) -> list[Exception | None]:
        """Write, then commit. What fails before COMMIT changed nothing; a failed COMMIT may be found done later."""
        try:
            self._end_snapshot()  # it would show the past, and keep the write-ahead log from being reused
            self._writer.execute("BEGIN IMMEDIATE")
            self._forget_if_changed_outside()
            outcomes = [write.write(self._writer) for write in batch]
            self._has_copies |= any(write.keeps for write in batch)
        except Exception as error:
            failure = self._roll_back("write failed", error)
            return [failure() for _ in batch]
        try:
            uncommitted = await asyncio.get_running_loop().run_in_executor(
                self._disk, remove_and_commit, self._writer, batch if self._has_copies else ()
            )
        except Exception as error:
            failure = self._roll_back("commit failed", error)
            self._failed |= getattr(error, "sqlite_errorcode", None) not in _SURELY_UNDONE
            return [failure() for _ in batch]
        if uncommitted:
            failure = self._roll_back("write failed", uncommitted)
            return [failure() for _ in batch]
        self.full = False
        return outcomes

    def _roll_back(self, what: str, error: Exception) -> type[VaultError]:
        """Roll back and return the class of the batch's answers; stop writing if even that fails."""
        _log.error(what, extra={"error": getattr(error, "sqlite_errorname", type(error).__name__)})
        try:
            self._writer.rollback()
        except sqlite3.Error:
            self._failed = True
        self.full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        return StoreFull if self.full else BackendUnavailable


@asynccontextmanager
async def open_store(database: Path, meter: Meter | None = None) -> AsyncIterator[SqliteStore]:
    """Open the database while the body runs, create it if absent, close it after the last commit.

    `meter` shows whether the store is full. Raises UnusableData, UnsafeFile.
    """
    store = SqliteStore(*open_connections(database))
    if meter is not None:
        meter.gauge("store_full", "1: the last write found no space on the disk.", lambda: store.full)
    try:
        yield store
    finally:
        await store.close()


def _changes_outside(writer: sqlite3.Connection) -> int:
    """Return a number that writes by other processes change; our own ones do not change the writer's."""
    (changes,) = rows_of(writer, "PRAGMA data_version")[0]
    return int(changes)


def _name(stored: bytes) -> str:
    return stored.decode(errors="backslashreplace")
