"""The rows of the embedded database as records.

The rule of this file: a row of another release's format is refused, whatever else it holds.
"""

import logging
import sqlite3
from typing import Any

from keyvault_server.core.errors import BackendUnavailable, RecordCorrupt
from keyvault_server.core.records import FORMAT, Record, StoredHead

# A writer that bypasses the vault may have stored times of any type. The schema checks the types of bytes.
HEAD = (
    "SELECT format, head, ring, CAST(created AS INTEGER), CAST(updated AS INTEGER), since, revisions"
    " FROM record WHERE tenant = ? AND key_id = ?"
)
WHOLE = (
    "SELECT format, head, ring, CAST(created AS INTEGER), CAST(updated AS INTEGER), since, revisions, body"
    " FROM record WHERE tenant = ? AND key_id = ?"
)
COPY = "SELECT envelope FROM copy WHERE tenant = ? AND key_id = ? AND revision = ?"

_log = logging.getLogger(__name__)

Row = tuple[Any, ...]


def select(connection: sqlite3.Connection, query: str, tenant: str, key_id: str) -> Row | None:
    """Return the row without its format number. Raises RecordCorrupt for a format that is not ours."""
    rows = rows_of(connection, query, tenant, key_id)
    if not rows:
        return None
    if rows[0][0] != FORMAT:
        raise RecordCorrupt
    return rows[0][1:]


def rows_of(connection: sqlite3.Connection, query: str, *values: str | int) -> list[Row]:
    """Return all rows. Raises BackendUnavailable."""
    try:
        return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        _log.error("read failed", extra={"error": getattr(error, "sqlite_errorname", type(error).__name__)})
        raise BackendUnavailable from error


def stored_head(row: Row) -> StoredHead:
    """Return the head in a row, which may have more columns."""
    head, ring, created, updated, since, revisions = row[:6]
    return StoredHead(head, ring, created, updated, since=since, revisions=revisions)


def stored_record(row: Row) -> Record:
    """Return the record in a row."""
    head, ring, created, updated, since, revisions, body = row
    return Record(head, ring, created, updated, body, since=since, revisions=revisions)
