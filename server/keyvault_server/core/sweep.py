"""Sweep: remove the copies of earlier envelopes that nothing can need any more, which a crash or a late writer left.

The rule of this file: a copy is removed only if the record's head, read after the copy was seen, shows that it cannot
be read, and only while it has the bytes that were looked at. `since` never goes back, so it stays unreadable.
Copies of a name that has no record, or a corrupt one, stay: no head says what they are.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.ports import CopyName, RecordStore
from keyvault_server.core.records import oldest_needed

CHUNK = 16
"""Copies that are looked at together, so that a store may share requests."""


@dataclass(slots=True)
class Swept:
    """What a sweep did."""

    copies: int = 0
    """Copies that were looked at."""
    removed: int = 0
    unclear: int = 0
    """Copies of names that have no record, or a corrupt one."""


async def sweep(records: RecordStore, belongs: Callable[[CopyName], bool] = lambda name: True) -> Swept:
    """Remove the copies, among those that belong, that cannot be read. Safe while servers run."""
    swept = Swept()
    chunk: list[CopyName] = []
    async for name in records.walk_copies():
        if belongs(name):
            chunk.append(name)
        if len(chunk) == CHUNK:
            await _sweep(records, chunk, swept)
            chunk = []
    await _sweep(records, chunk, swept)
    return swept


async def _sweep(records: RecordStore, names: Sequence[CopyName], swept: Swept) -> None:
    for unneeded in await asyncio.gather(*(_remove_unneeded(records, name) for name in names)):
        swept.copies += 1
        swept.removed += unneeded is True
        swept.unclear += unneeded is None


async def _remove_unneeded(records: RecordStore, name: CopyName) -> bool | None:
    """Return whether the copy was removed; None if no head says whether it is needed."""
    try:
        stored = await records.get_head(name.tenant, name.key_id)
        needed_from = None if stored is None else oldest_needed(stored)
    except RecordCorrupt:
        needed_from = None
    if needed_from is None:
        return None
    if name.revision >= needed_from:
        return False
    envelope = await records.get_copy(name.tenant, name.key_id, name.revision)
    return envelope is not None and await records.remove_copy(name.tenant, name.key_id, name.revision, envelope)
