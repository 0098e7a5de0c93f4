"""Many reads in few calls: each record opened and checked as if it had been read alone.

The rule of this file: the error of one record is no error of the others. What the server had no room for, and what a
retry may help, is asked for again until the deadline.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from keyvault_api.names import MAX_BATCH_ITEMS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, KeyVaultError, ServerFailure, Unavailable
from keyvault_client.keys import DataKey
from keyvault_client.reading import Reader
from keyvault_client.records import Record, check_scope
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.status import Failure, failure_of_item
from keyvault_client.transport import Backoff, Transport, remaining, retry_after

_FULL = "BATCH_FULL"
_Found = TypeVar("_Found")

Results: TypeAlias = dict[str, Record | KeyVaultError]
Accept: TypeAlias = Callable[[str, pb.ReadResponse, DataKey, int], _Found]
"""Opens an answer: takes the name, the answer, the key, and the revision that was proved before the call."""


@dataclass(frozen=True, slots=True)
class Reads(Generic[_Found]):
    """What to read, and what was found so far: of each name what `accept` returned, or an error."""

    keys: Mapping[str, DataKey]
    accept: Accept[_Found]
    results: dict[str, _Found | KeyVaultError]
    known: Mapping[str, int] | None = None
    """The revisions that the caller has, of some names or none; the answers may then be tombstones. None: they may not,
    and each is a whole record."""

    def add(self, name: str, record: pb.ReadResponse, floor: int) -> None:
        """Open what the server answered; add what it is, or why it is not accepted."""
        try:
            self.results[name] = self.accept(name, record, self.keys[name], floor)
        except KeyVaultError as error:
            self.results[name] = error


class BatchReader:
    """Reads through one transport. Every deadline is a time of the loop's clock."""

    def __init__(self, transport: Transport, reader: Reader, seen: SeenRevisions) -> None:
        self._transport = transport
        self._reader = reader
        self._seen = seen

    async def read(self, keys: Mapping[str, DataKey], deadline: float) -> Results:
        """Return each record, opened, or why there is none. Raises KeyVaultError if a call fails as a whole."""
        reads = Reads(keys, self._reader.accept, {})
        await self.fill(reads, deadline)
        return {name: reads.results[name] for name in keys}

    async def fill(self, reads: Reads[_Found], deadline: float) -> None:
        """Ask for these names, in their order, and add a result for each.

        Raises KeyVaultError if a call fails as a whole; the results of earlier calls are then there.
        """
        wanted = [name for name, key in reads.keys.items() if _check(reads, name, key)]
        backoff, again = Backoff(), dict[str, KeyVaultError]()
        while wanted:
            asked, later = wanted[:MAX_BATCH_ITEMS], wanted[MAX_BATCH_ITEMS:]
            try:
                failures = await self._read_some(reads, asked, deadline)
            except Unavailable:
                if not again.keys() >= set(asked):
                    raise
                reads.results.update({name: again[name] for name in asked})  # why they were asked for again
                wanted = later
                continue
            full = [name for name, one in failures.items() if one.error.reason == _FULL]
            if len(full) == len(asked):
                raise ServerFailure("the server has no room for a single record in its answer")
            again = {name: one.error for name, one in failures.items() if name not in full}
            wait = backoff.wait(remaining(deadline), max(map(retry_after, again.values()))) if again else 0.0
            if wait is None:  # no time is left to ask again
                reads.results.update(again)
                again, wait = {}, 0.0
            await asyncio.sleep(wait)
            wanted = [*full, *again, *later]

    async def _read_some(self, reads: Reads[_Found], asked: Sequence[str], deadline: float) -> dict[str, Failure]:
        """Ask for these names once; add what came to the results, and return what is to be asked for again."""
        floors = {name: self._seen.get(reads.keys[name], name) for name in asked}  # before the call, as Reader does
        request = pb.BatchReadRequest(items=[_item(reads, name) for name in asked])
        answer = await self._transport.call("BatchRead", request, deadline, pb.BatchReadResponse)
        if len(answer.results) != len(asked):
            raise ServerFailure(f"the server answered {len(answer.results)} of {len(asked)} reads")
        again: dict[str, Failure] = {}
        with self._seen.together():
            for name, result in zip(asked, answer.results, strict=True):
                failure = failure_of_item(result.error) if result.WhichOneof("answer") == "error" else None
                if failure is None:
                    reads.add(name, result.record, floors[name])
                elif failure.retry:
                    again[name] = failure
                else:
                    reads.results[name] = failure.error
        return again


def _item(reads: Reads[_Found], name: str) -> pb.BatchReadRequest.Item:
    if reads.known is None:
        return pb.BatchReadRequest.Item(key_id=name)
    return pb.BatchReadRequest.Item(key_id=name, known_revision=reads.known.get(name, 0), include_deleted=True)


def _check(reads: Reads[_Found], name: str, key: DataKey) -> bool:
    """Return whether the key may be used for this name; else say why not in the results."""
    try:
        check_scope(key, name)
    except InvalidRequest as error:
        reads.results[name] = error
        return False
    return True
