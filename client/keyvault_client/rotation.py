"""Every record below a leaked key, handed to fresh keys.

The rules of this file:

* A new key is in a file, on the disk, before a record is rotated to it. So a run that is killed between any two steps
  loses nothing, and the next run goes on: it asks the server which key each record has.
* A record that has neither the old key nor its new one is left alone: it is another key's.
* One record's failure stops nothing. What would fail for each record ends the run.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from keyvault_client.errors import NotAuthorized, NotFound, RecordDamaged, WrongRevision
from keyvault_client.keys import DataKey
from keyvault_client.records import Record
from keyvault_client.vault import KeyVault

AT_A_TIME = 4
"""Records that are rotated at a time."""
_CHUNK = 100
_OF_ONE_RECORD = (NotAuthorized, RecordDamaged, WrongRevision)


class NewKeys(Protocol):
    """The new keys of records."""

    async def begin(self, rotated: Iterable[str]) -> None:
        """Prepare a rotation; an earlier run has rotated these records."""

    def find(self, key_id: str) -> DataKey | None:
        """Return the new key of this record, None if it was not made yet."""

    async def make(self, key_id: str) -> DataKey:
        """Return the new key of this record, which is on the disk."""

    def rotated(self, key_id: str) -> None:
        """Note that the record has its new key."""

    def finish(self) -> list[Path]:
        """Let the new keys take the place of the old one; return the files that the user has to know."""


@dataclass
class Survey:
    """Which key the records have."""

    old: list[str] = field(default_factory=list)
    """Names of records that have the old key."""
    new: list[str] = field(default_factory=list)
    """Names of records that have their new key."""
    other: list[str] = field(default_factory=list)
    """Names of records that have another key, or are damaged."""
    failed: dict[str, str] = field(default_factory=dict)
    """Names of records that could not be read or rotated, and why."""

    def __bool__(self) -> bool:
        """Report whether there is any record."""
        return bool(self.old or self.new or self.other or self.failed)

    def add(self, more: "Survey") -> None:
        """Add what was found of other names."""
        self.old += more.old
        self.new += more.new
        self.other += more.other
        self.failed |= more.failed

    def to_json(self) -> dict[str, Any]:
        """Return the names as JSON has them."""
        return {"old_key": self.old, "new_key": self.new, "other_keys": self.other, "failed": self.failed}


async def survey(vault: KeyVault, names: Iterable[str], old: DataKey, new_keys: NewKeys) -> Survey:
    """Read the records, and return which key each has. Those that were deleted are left out. Raises KeyVaultError."""
    found = Survey()
    wanted = list(names)
    for start in range(0, len(wanted), _CHUNK):
        under_old = await vault.read_many(dict.fromkeys(wanted[start : start + _CHUNK], old))
        rest = {name: new_keys.find(name) for name, result in under_old.items() if isinstance(result, RecordDamaged)}
        under_new = await vault.read_many({name: key for name, key in rest.items() if key})
        for name, result in under_old.items():
            if isinstance(result, Record):
                found.old.append(name)
            elif isinstance(under_new.get(name), Record):
                found.new.append(name)
            elif isinstance(result, RecordDamaged):
                found.other.append(name)
            elif not isinstance(result, NotFound):
                found.failed[name] = str(result)
    return found


async def rotate(vault: KeyVault, found: Survey, old: DataKey, new_keys: NewKeys, progress: Callable[[], None]) -> None:
    """Rotate the records that have the old key, and move their names in what was found. Raises KeyVaultError, OSError.

    `progress` is called after each record.
    """
    waiting = iter(list(found.old))

    async def work() -> None:
        for name in waiting:
            try:
                await vault.rotate_key(name, key=old, new_key=await new_keys.make(name))
                new_keys.rotated(name)
                found.new.append(name)
            except NotFound:
                pass  # deleted since
            except _OF_ONE_RECORD as error:
                found.failed[name] = str(error)
            found.old.remove(name)
            progress()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
