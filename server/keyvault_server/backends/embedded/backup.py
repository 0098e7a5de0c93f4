"""A copy of the embedded records, made while a server runs.

The rule of this file: the copy is one file that is complete, checked and durable when `backup` returns, or it does not
exist. Copying the files of a running server would lose what is in the write-ahead log. The keyring is not in it:
keep it apart from the records, which it opens together with a wrapped key.
Source: SQLite, "Using the SQLite Online Backup API".
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from keyvault_api.files import sync_directory
from keyvault_server.backends.embedded.data_directory import DataDirectory, UnusableData
from keyvault_server.backends.embedded.database import refuse_other_schema
from keyvault_server.disk.files import explain

_PAGES = 256  # copied between two looks for a writer: 1 MiB


def backup(directory: DataDirectory, target: Path) -> int:
    """Copy the records to a new file of mode 0600; return how many there are. Raises UnusableData.

    The copy shows the records at one moment, every write that was answered before it began included.
    """
    if not directory.database.exists():
        raise UnusableData(f"{directory.path} has no records: name the server's own directory")
    if target.exists():
        raise UnusableData(f"{target} exists: name a new file")
    draft = target.with_name(f"{target.name}.part")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise UnusableData(f"{draft} exists: remove it if no other backup is running") from None
    except OSError as error:
        raise UnusableData(f"{draft}: cannot write: {explain(error)}") from None
    try:
        records = _copy(directory.database, draft)
        _publish(draft, target)
    except OSError as error:
        raise UnusableData(f"{target}: backup failed: {explain(error)}") from None
    except sqlite3.Error as error:
        raise UnusableData(f"{target}: backup failed: {error}") from None
    finally:
        draft.unlink(missing_ok=True)
    return records


def _copy(database: Path, draft: Path) -> int:
    """Fill the draft and check it. Raises sqlite3.Error, UnusableData."""
    with (
        closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as source,
        closing(sqlite3.connect(draft, isolation_level=None)) as copy,
    ):
        source.execute("BEGIN")
        refuse_other_schema(source, database)
        source.execute("SELECT 1 FROM record LIMIT 1").fetchone()  # fixes the moment that the copy shows
        source.backup(copy, pages=_PAGES)
        copy.execute("PRAGMA journal_mode = delete")  # one file, without a write-ahead log
        (verdict,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise UnusableData(f"{database} is damaged ({verdict}): restore it from an earlier backup")
        (records,) = copy.execute("SELECT count(*) FROM record").fetchone()
        return int(records)


def _publish(draft: Path, target: Path) -> None:
    """Make the draft durable and give it its name, which no other file has. Raises OSError."""
    descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.link(draft, target)  # unlike rename, this never replaces an earlier backup
    sync_directory(target.parent)
