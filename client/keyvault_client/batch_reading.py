"""Many reads in few calls: each record opened and checked as if it had been read alone.

The rule of this file: the error of one record is no error of the others. What the server had no room for, and what a
retry may help, is asked for again until the deadline.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from keyvault_api.names import MAX_BATCH_ITEMS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, KeyVaultError, ServerFailure
from keyvault_client.keys import DataKey
from keyvault_client.reading import Reader
from keyvault_client.records import Record, check_scope
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.status import Failure, failure_of_item
from keyvault_client.transport import Backoff, Transport, remaining, retry_after

_FULL = "BATCH_FULL"

Results: TypeAlias = dict[str, Record | KeyVaultError]


class BatchReader:
    """Reads through one transport. Every deadline is a time of the loop's clock."""

    def __init__(self, transport: Transport, reader: Reader, seen: SeenRevisions) -> None:
        self._transport = transport
        self._reader = reader
        self._seen = seen

    async def read(self, keys: Mapping[str, DataKey], deadline: float) -> Results:
        """Return each record, opened, or why there is none. Raises KeyVaultError if a call fails as a whole."""
        results: Results = {}
        wanted = [name for name, key in keys.items() if _check(results, name, key)]
        backoff = Backoff()
        while wanted:
            asked, later = wanted[:MAX_BATCH_ITEMS], wanted[MAX_BATCH_ITEMS:]
            failures = await self._read_some(asked, keys, deadline, results)
            full = [name for name, one in failures.items() if one.error.reason == _FULL]
            if len(full) == len(asked):
                raise ServerFailure("the server has no room for a single record in its answer")
            again = {name: one.error for name, one in failures.items() if name not in full}
            wait = backoff.wait(remaining(deadline), max(map(retry_after, again.values()))) if again else 0.0
            if wait is None:  # no time is left to ask again
                results |= again
                again, wait = {}, 0.0
            await asyncio.sleep(wait)
            wanted = [*full, *again, *later]
        return {name: results[name] for name in keys}

    async def _read_some(
        self, asked: Sequence[str], keys: Mapping[str, DataKey], deadline: float, results: Results
    ) -> dict[str, Failure]:
        """Ask for these names once; add what came to the results, and return what is to be asked for again."""
        floors = {name: self._seen.get(keys[name], name) for name in asked}  # before the call, as Reader does
        request = pb.BatchReadRequest(items=[pb.BatchReadRequest.Item(key_id=name) for name in asked])
        answer = await self._transport.call("BatchRead", request, deadline, pb.BatchReadResponse)
        if len(answer.results) != len(asked):
            raise ServerFailure(f"the server answered {len(answer.results)} of {len(asked)} reads")
        again: dict[str, Failure] = {}
        for name, result in zip(asked, answer.results, strict=True):
            failure = failure_of_item(result.error) if result.WhichOneof("answer") == "error" else None
            if failure is None:
                results[name] = self._opened(name, result.record, keys[name], floors[name])
            elif failure.retry:
                again[name] = failure
            else:
                results[name] = failure.error
        return again

    def _opened(self, name: str, record: pb.ReadResponse, key: DataKey, floor: int) -> Record | KeyVaultError:
        try:
            return self._reader.accept(name, record, key, floor)
        except KeyVaultError as error:
            return error


def _check(results: Results, name: str, key: DataKey) -> bool:
    """Return whether the key may be used for this name; else say why not in the results."""
    try:
        check_scope(key, name)
    except InvalidRequest as error:
        results[name] = error
        return False
    return True
