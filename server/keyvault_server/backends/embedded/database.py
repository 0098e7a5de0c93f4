"""Opens the SQLite database of the records: its file, its settings and its schema.

The rule of this file: what an earlier process left is durable before a connection shows it, and a database that cannot
be used, or whose writes would not be durable, is refused with one line.
"""

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from keyvault_api.files import sync_directory
from keyvault_server.backends.embedded.data_directory import UnusableData
from keyvault_server.disk.files import explain, rewrite_durably
from keyvault_server.disk.permissions import refuse_unsafe

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE record (
    tenant TEXT NOT NULL, key_id TEXT NOT NULL, format INTEGER NOT NULL,
    head BLOB NOT NULL, ring BLOB NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
    since INTEGER NOT NULL, revisions BLOB NOT NULL, kind INTEGER, body BLOB NOT NULL,
    PRIMARY KEY (tenant, key_id),
    CHECK (typeof(head) = 'blob' AND typeof(ring) = 'blob' AND typeof(body) = 'blob' AND typeof(revisions) = 'blob'));
CREATE INDEX names ON record (tenant, kind, key_id, created) WHERE kind IS NOT NULL;
CREATE TABLE copy (
    tenant TEXT NOT NULL, key_id TEXT NOT NULL, revision INTEGER NOT NULL, envelope BLOB NOT NULL,
    PRIMARY KEY (tenant, key_id, revision),
    CHECK (typeof(envelope) = 'blob'))
"""


def open_connections(database: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Open a reader and a writer; create the database if absent. Raises UnusableData, UnsafeFile."""
    with ExitStack() as opened:  # closes what is open if a later step fails
        try:
            _create_if_absent(database)
            rewrite_durably(database.with_name(f"{database.name}-wal"))
            writer = _connect(database, opened)
            _create_schema(writer, database)
            reader = _connect(database, opened)
        except (sqlite3.DatabaseError, OSError) as error:
            raise UnusableData(f"{database} {_explain(error)}") from None
        opened.pop_all()
    return reader, writer


def _create_if_absent(database: Path) -> None:
    if not database.exists():
        os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(database.parent)
    refuse_unsafe(database, secret=True)


def _connect(database: Path, opened: ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=0)
    opened.callback(connection.close)
    settings = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 0}
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}")
        if connection.execute(f"PRAGMA {name}").fetchone() != (value,):
            raise UnusableData(
                f"{database}: SQLite refuses {name}={value} here, so writes would not be durable: use a local disk"
            )
    return connection


def _create_schema(connection: sqlite3.Connection, database: Path) -> None:
    """Create the tables in a new database. Raises UnusableData for one of another schema."""
    if _schema_of(connection):
        refuse_other_schema(connection, database)
    else:
        connection.executescript(f"BEGIN; {_SCHEMA}; PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT")


def refuse_other_schema(connection: sqlite3.Connection, database: Path) -> None:
    """Raise UnusableData unless the database has the tables of this release; no release had those of schema 1."""
    version = _schema_of(connection)
    if version == 0:
        raise UnusableData(f"{database} has no records: name the server's own directory")
    if version < _SCHEMA_VERSION:
        raise UnusableData(
            f"{database} has schema {version} of a version before the first release, which no release reads:"
            " name a new directory, and create its records there"
        )
    if version > _SCHEMA_VERSION:
        raise UnusableData(
            f"{database} has schema {version}, this server supports {_SCHEMA_VERSION}: run the release that wrote it"
        )


def _schema_of(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _explain(error: Exception) -> str:
    """Say why a database cannot be opened, and what to do."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"is not a KeyVault database ({error}): restore it from its backup"
    if isinstance(error, OSError):
        return f"cannot be opened: {explain(error)}"
    return f"cannot be opened ({error}): check whether its disk is full or failing"
