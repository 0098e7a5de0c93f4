"""Earlier revisions of a record: which ones the server keeps, and one of them, opened.

The rules of this file:

* An earlier revision is opened with the checks of a current one: its kind, its revision, the record's key. It has to be
  the one that was asked for: a server that does not know `revision` answers with the current one.
* A low revision that was asked for is no rollback. A server that says of a record that it never was at a revision which
  this client has proved, is one.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeAlias

from keyvault_api.envelope import MAX_ENVELOPE, MAX_REVISION, MIN_ENVELOPE
from keyvault_api.names import MAX_HISTORY
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, RevisionNotFound, ServerFailure
from keyvault_client.keys import DataKey
from keyvault_client.records import Record, check_key_id, check_scope, json_time, open_record, time_of
from keyvault_client.seen_revisions import SeenRevisions, refuse_rollback
from keyvault_client.transport import Transport


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of a record that can be read."""

    revision: int
    update_time: datetime
    """When it was written, by the server's clock; informational."""
    size: int
    """Bytes of its envelope: those of the data, and 88 to 456 more."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"revision": self.revision, "update_time": json_time(self.update_time), "size": self.size}

    def __str__(self) -> str:
        """Return a line for a person."""
        return (
            f"revision {self.revision}  {json_time(self.update_time.replace(microsecond=0))}  {self.size} bytes sealed"
        )


Revisions: TypeAlias = list[Revision]


class History:
    """Reads of the past through one transport. Every deadline is a time of the loop's clock."""

    def __init__(self, transport: Transport, seen: SeenRevisions) -> None:
        self._transport = transport
        self._seen = seen

    async def revisions(self, key_id: str, deadline: float) -> Revisions:
        """Return the revisions that can be read, newest first. Raises NotFound, ServerFailure."""
        check_key_id(key_id)
        request = pb.ListRevisionsRequest(key_id=key_id)
        answer = await self._transport.call("ListRevisions", request, deadline, pb.ListRevisionsResponse)
        return _checked(
            key_id, [Revision(one.revision, time_of(one.update_time), one.size) for one in answer.revisions]
        )

    async def read(self, key_id: str, key: DataKey, revision: int, deadline: float) -> Record:
        """Return this revision of the record, opened. Raises RevisionNotFound, NotFound, RecordDamaged, RolledBack."""
        check_scope(key, key_id)
        if not 1 <= revision <= MAX_REVISION:
            raise InvalidRequest(f"invalid revision {revision}: must be 1 to 2^63-1")
        floor = self._seen.get(key, key_id)  # before the call, as Reader does
        request = pb.ReadRequest(key_id=key_id, revision=revision)
        try:
            answer = await self._transport.call("Read", request, deadline, pb.ReadResponse)
        except RevisionNotFound as error:
            if error.current_revision:
                refuse_rollback(key_id, error.current_revision, floor)
            raise
        if answer.revision != revision:
            raise ServerFailure(
                f"the server answered with revision {answer.revision} of {key_id} instead of {revision}: "
                "it is an older KeyVault, which cannot read earlier revisions"
            )
        record = open_record(key_id, answer, key)
        self._seen.note(key, key_id, revision)  # which lowers nothing
        return record


def _checked(key_id: str, revisions: Revisions) -> Revisions:
    """Return the revisions that a server listed. Raises ServerFailure for a list that cannot be."""
    numbers = [one.revision for one in revisions]
    ordered = all(newer > older for newer, older in pairwise(numbers))
    possible = all(1 <= one.revision <= MAX_REVISION and MIN_ENVELOPE <= one.size <= MAX_ENVELOPE for one in revisions)
    if not (ordered and possible and 1 <= len(numbers) <= 1 + MAX_HISTORY):
        raise ServerFailure(f"the server answered ListRevisions of {key_id} with an impossible list: report it")
    return revisions
