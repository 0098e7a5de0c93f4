"""Many Reads in one call: each is judged, charged and answered as a Read of its own.

The rule of this file: together the answers are no snapshot, and they hold a bounded number of bytes. Names are asked
for in chunks, so that a store reads little that the caller does not get; what did not fit costs the caller nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from keyvault_api.names import MAX_BATCH_ITEMS
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import BatchFull, InvalidRequest, VaultError
from keyvault_server.core.vault import Found, Vault

MAX_ENVELOPES = 1024 * 1024
"""Bytes of envelopes in one answer; its first envelope is in it whatever its size."""
CHUNK = 8
"""Names that the store is asked for at a time."""


class Item(NamedTuple):
    """One Read of a batch."""

    key_id: str
    known_revision: int
    include_deleted: bool


Author = TypeVar("Author", bound=Caller)


async def read_many(
    vault: Vault, items: Sequence[Item], author_of: Callable[[int], Author]
) -> list[tuple[Author, Found | VaultError]]:
    """Return the author and the answer of each item, in order; `author_of` makes the author of one.

    Raises InvalidRequest for too many items, or for a name that is asked for twice.
    """
    _check(items)
    answers: list[tuple[Author, Found | VaultError]] = []
    left, full = MAX_ENVELOPES, False
    for start in range(0, len(items), CHUNK):
        callers = [author_of(number) for number in range(start, min(start + CHUNK, len(items)))]
        if full:
            answers += [(caller, BatchFull()) for caller in callers]
            continue
        chunk = zip(callers, items[start : start + CHUNK], strict=True)
        for caller, found in zip(callers, await asyncio.gather(*(_read(vault, *one) for one in chunk)), strict=True):
            if isinstance(found, VaultError):
                answers.append((caller, found))
                continue
            size = len(found.envelope or b"")
            full |= size > left and left < MAX_ENVELOPES
            if full:
                caller.refund(size)
            left -= size
            answers.append((caller, BatchFull() if full else found))
    return answers


def _check(items: Sequence[Item]) -> None:
    if len(items) > MAX_BATCH_ITEMS:
        raise InvalidRequest(f"{len(items)} items; at most {MAX_BATCH_ITEMS} are read in one call", field="items")
    if len({item.key_id for item in items}) < len(items):
        raise InvalidRequest("a key_id is among the items twice: ask for each once", field="items")


async def _read(vault: Vault, caller: Caller, item: Item) -> Found | VaultError:
    try:
        return await vault.read(caller, item.key_id, item.known_revision, include_deleted=item.include_deleted)
    except VaultError as error:
        return error
