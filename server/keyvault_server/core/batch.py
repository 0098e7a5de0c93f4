"""Many Reads in one call: each is judged, charged and answered as a Read of its own.

The rule of this file: together the answers are no snapshot, and they hold a bounded number of bytes. Names are asked
for in chunks, so that a store reads little that the caller does not get; what did not fit costs the caller nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from keyvault_api.names import MAX_BATCH_ITEMS
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import BatchFull, InvalidRequest, VaultError
from keyvault_server.core.reading import Found, judge
from keyvault_server.core.turn import NO_WAIT, Turn
from keyvault_server.core.vault import Vault

MAX_ENVELOPES = 1024 * 1024
"""Bytes of envelopes in one answer; its first envelope is in it whatever its size."""
MOST_ASKING = 2
"""Batches that ask the store for a chunk at a time, where it shares requests: as many requests are out."""


class Item(NamedTuple):
    """One Read of a batch."""

    key_id: str
    known_revision: int
    include_deleted: bool


Author = TypeVar("Author", bound=Caller)
Answer = Found | VaultError


async def _no_wait() -> None:
    """Return at once."""


async def read_many(
    vault: Vault,
    items: Sequence[Item],
    author_of: Callable[[int], Author],
    wait_turn: Callable[[], Awaitable[None]] = _no_wait,
    asking: Turn = NO_WAIT,
) -> list[tuple[Author, Answer]]:
    """Return the author and the answer of each item, in order; `author_of` makes the author of one.

    `wait_turn` is awaited once, before the store is asked for the first item that may be read: a batch in which none
    may does not wait. `asking` is the turn of a chunk: the store's answers are held until the last of them is there.

    Raises InvalidRequest for too many items, or for a name that is asked for twice; what `wait_turn` raises.
    """
    _check(items)
    answers: list[tuple[Author, Answer]] = []
    left, full, waited = MAX_ENVELOPES, False, False
    for start in range(0, len(items), vault.reads_together):
        chunk = items[start : start + vault.reads_together]
        callers = [author_of(number) for number in range(start, start + len(chunk))]
        if full:
            answers += [(caller, BatchFull()) for caller in callers]
            continue
        refusals = [_refusal(caller, item) for caller, item in zip(callers, chunk, strict=True)]
        if not waited and None in refusals:
            await _wait(wait_turn, [caller for caller, refused in zip(callers, refusals, strict=True) if not refused])
            waited = True
        async with asking:
            answered = await _find(vault, callers, chunk, refusals)
        for caller, found in zip(callers, answered, strict=True):
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


def _refusal(caller: Caller, item: Item) -> VaultError | None:
    """Return why the caller may not read an item now; None if it may, and pays."""
    try:
        judge(caller, item.key_id, item.known_revision, include_deleted=item.include_deleted)
    except VaultError as error:
        return error
    return None


async def _wait(wait_turn: Callable[[], Awaitable[None]], callers: Sequence[Caller]) -> None:
    """Wait for the batch's turn; without one, its Reads cost nothing."""
    try:
        await wait_turn()
    except VaultError:
        for caller in callers:
            caller.refund(0)
        raise


async def _find(
    vault: Vault, callers: Sequence[Caller], items: Sequence[Item], refusals: Sequence[VaultError | None]
) -> Sequence[Answer]:
    """Return the answers of a chunk. A task for an item costs as much as a look-up, so one item gets none."""
    asked = [
        _found(vault, caller, item)
        for caller, item, refusal in zip(callers, items, refusals, strict=True)
        if refusal is None
    ]
    found = iter([await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked))
    return [refusal or next(found) for refusal in refusals]


async def _found(vault: Vault, caller: Caller, item: Item) -> Answer:
    try:
        return await vault.find(caller, item.key_id, item.known_revision, include_deleted=item.include_deleted)
    except VaultError as error:
        return error
