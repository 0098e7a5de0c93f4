"""Reads of a client: fetched, checked against the revisions that it has proved, and opened.

The rule of this file: what a record opens to is remembered, and nothing that the server only says.
"""

from dataclasses import dataclass, field

from keyvault_api.envelope import commits_to
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import AlreadyExists, Conflict, NotFound, ServerFailure
from keyvault_client.keys import DataKey
from keyvault_client.records import Record, check_scope, open_record, open_tombstone, parse_head
from keyvault_client.seen_revisions import SeenRevisions, refuse_rollback
from keyvault_client.transport import Transport


@dataclass(frozen=True, slots=True)
class Change:
    """What a record became since a known revision: another revision, or a tombstone."""

    revision: int
    record: Record | None
    """None if the record was deleted, which its tombstone proves."""
    envelope: bytes = field(repr=False)


class Reader:
    """Reads through one transport. Every deadline is a time of the loop's clock."""

    def __init__(self, transport: Transport, seen: SeenRevisions) -> None:
        self._transport = transport
        self._seen = seen

    async def read(self, key_id: str, key: DataKey, deadline: float) -> Record:
        """Return the record, opened. Raises NotFound, RecordDamaged, RolledBack."""
        check_scope(key, key_id)
        return self._opened(key_id, await self._fetch(key_id, key, deadline), key)

    async def read_if_changed(self, key_id: str, key: DataKey, deadline: float, known_revision: int) -> Record | None:
        """Return the record, None if it is still at this revision."""
        check_scope(key, key_id)
        answer = await self._fetch(key_id, key, deadline, known_revision)
        return None if _is_known(key_id, answer, known_revision) else self._opened(key_id, answer, key)

    async def read_for_rotation(
        self, key_id: str, key: DataKey, new_key: DataKey, deadline: float
    ) -> tuple[Record, bool]:
        """Return the record, and whether `new_key` owns it already."""
        check_scope(key, key_id)
        check_scope(new_key, key_id)
        answer = await self._fetch(key_id, key, deadline)
        done = is_sealed_under(new_key, key_id, answer)
        return self._opened(key_id, answer, new_key if done else key), done

    async def deleted_revision(self, key_id: str, key: DataKey, stale: Conflict, deadline: float) -> int:
        """Return the revision of the tombstone under a name that a Create has found in use, opened under the key."""
        if stale.vacant:
            raise Conflict(
                f"{key_id} was purged, the server says at revision {stale.current_revision}: "
                "check that with the operator, and name it to go on from there (revision=N, --revision N)",
                current_revision=stale.current_revision,
                remembered_since=stale.remembered_since,
                reason=stale.reason,
                request_id=stale.request_id,
                vacant=True,
            ) from None
        try:
            answer = await self._fetch(key_id, key, deadline, include_deleted=True)
        except NotFound:
            raise stale from None
        if not answer.deleted:
            raise AlreadyExists(f"a record of {key_id} exists", current_revision=answer.revision)
        revision = open_tombstone(key_id, answer, key)
        self._seen.note(key, key_id, revision)
        return revision

    async def _fetch(
        self, key_id: str, key: DataKey, deadline: float, known_revision: int = 0, *, include_deleted: bool = False
    ) -> pb.ReadResponse:
        """Ask for a record, which is not opened yet. Raises RolledBack, ServerFailure."""
        # Before the call: a concurrent write of ours may raise it while we wait. What the caller knows was proved, too.
        floor = max(self._seen.get(key, key_id), known_revision)
        request = pb.ReadRequest(key_id=key_id, known_revision=known_revision, include_deleted=include_deleted)
        answer = await self._transport.call("Read", request, deadline, pb.ReadResponse)
        _check_revision(key_id, answer, floor)
        return answer

    def accept(self, key_id: str, answer: pb.ReadResponse, key: DataKey, floor: int) -> Record:
        """Return the record in an answer, opened; `floor` is the revision that was proved before the call.

        Raises RecordDamaged, RolledBack, ServerFailure.
        """
        _check_revision(key_id, answer, floor)
        return self._opened(key_id, answer, key)

    def accept_change(
        self, key_id: str, answer: pb.ReadResponse, key: DataKey, floor: int, known_revision: int
    ) -> Change | None:
        """Return what an answer shows that may have a tombstone; None if the record is still at the known revision.

        The known revision was proved, as `floor` was: what is below it is rolled back. Raises as `accept` does.
        """
        _check_revision(key_id, answer, max(floor, known_revision))
        if _is_known(key_id, answer, known_revision):
            return None
        if not answer.deleted:
            return Change(answer.revision, self._opened(key_id, answer, key), answer.envelope)
        revision = open_tombstone(key_id, answer, key)
        self._seen.note(key, key_id, revision)
        return Change(revision, None, answer.envelope)

    def proved_revision(self, key: DataKey, key_id: str) -> int:
        """Return the highest revision that was proved under this key, 0 if none was."""
        return self._seen.get(key, key_id)

    def accept_sealed(self, record: Record, key: DataKey) -> Record:
        """Return a record that was opened without the server, as one that is proved. Raises RolledBack."""
        refuse_rollback(record.key_id, record.revision, self.proved_revision(key, record.key_id))
        self._seen.note(key, record.key_id, record.revision)
        return record

    def _opened(self, key_id: str, answer: pb.ReadResponse, key: DataKey) -> Record:
        record = open_record(key_id, answer, key)
        self._seen.note(key, key_id, record.revision)
        return record


def is_sealed_under(key: DataKey, key_id: str, answer: pb.ReadResponse) -> bool:
    """Report whether the record's data key is this one. Raises RecordDamaged."""
    return commits_to(parse_head(key_id, answer.envelope), key.secret(), key.tenant, key_id)


def _is_known(key_id: str, answer: pb.ReadResponse, known_revision: int) -> bool:
    """Report whether the server says that the record is still at this revision. Raises ServerFailure."""
    if answer.not_modified and answer.revision != known_revision:
        raise ServerFailure(f"the server's answer for {key_id} contradicts the request: not modified, but changed")
    return answer.not_modified


def _check_revision(key_id: str, answer: pb.ReadResponse, floor: int) -> None:
    """Raise ServerFailure, RolledBack for a revision that cannot be, or that is below the proved one."""
    if answer.revision < 1:
        raise ServerFailure(f"the server answered Read of {key_id} with the invalid revision {answer.revision}")
    refuse_rollback(key_id, answer.revision, floor)


def contradiction(key_id: str, revision: int) -> Conflict:
    """Return the error for a server that refuses the next revision and shows no later one."""
    return Conflict(
        f"the server says that {key_id} was changed, but shows revision {revision}, which is not new",
        current_revision=revision,
    )
