"""Records that were read lately, in memory: a look-up in SQLite costs a sixth of a Read.

The rule of this file: what is kept is what the database says. While the store writes a record, it is not kept: a COMMIT
can be seen before the store learns that it is done, and other tables, such as that of the copies, would then be newer
than the record. Everything is dropped once another process has written.
"""

from collections import OrderedDict
from collections.abc import Iterable

from keyvault_server.core.records import Record

CACHED_BYTES = 4 * 1024 * 1024
"""Bytes that are kept at most; the records that were not read for longest go first."""
_OVERHEAD = 800  # bytes of Python's objects for one record

Name = tuple[str, str]
"""Tenant and key_id."""


class RowCache:
    """The records that were read last."""

    def __init__(self, most: int = CACHED_BYTES) -> None:
        """`most` is in bytes, Python's own included."""
        self._records: OrderedDict[Name, Record] = OrderedDict()
        self._most = most
        self._size = 0
        self._changing: frozenset[Name] = frozenset()

    def __len__(self) -> int:
        """Return the number of records that are kept."""
        return len(self._records)

    def get(self, name: Name) -> Record | None:
        """Return the record if it is kept."""
        record = self._records.get(name)
        if record is not None:
            self._records.move_to_end(name)
        return record

    def keep(self, name: Name, record: Record) -> None:
        """Keep a record that was read just now, unless it is being written."""
        if name in self._changing:
            return
        self.drop(name)
        self._records[name] = record
        self._size += _size(record)
        while self._size > self._most:
            self.drop(next(iter(self._records)))

    def set_changing(self, names: Iterable[Name]) -> None:
        """Forget the records that are written from now on, until the next call; others are no longer written."""
        self._changing = frozenset(names)
        for name in self._changing:
            self.drop(name)

    def drop(self, name: Name) -> None:
        """Forget a record, if it is kept."""
        record = self._records.pop(name, None)
        if record is not None:
            self._size -= _size(record)

    def clear(self) -> None:
        """Forget all records."""
        self._records.clear()
        self._size = 0


def _size(record: Record) -> int:
    return len(record.head) + len(record.ring) + len(record.revisions) + len(record.body) + _OVERHEAD
