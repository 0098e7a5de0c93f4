"""Records on the caller's side: sealed before they are sent, opened and checked when they are read."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_PLAINTEXT, MAX_REVISION, EnvelopeDoesNotOpen, Kind, MalformedEnvelope
from keyvault_api.names import covers, is_key_id
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, OutcomeUnknown, RecordDamaged, quote
from keyvault_client.keys import DataKey

MutationResponse: TypeAlias = pb.CreateResponse | pb.UpdateResponse | pb.DeleteResponse | pb.RotateKeyResponse


@dataclass(frozen=True, slots=True)
class Written:
    """Result of an accepted mutation."""

    revision: int
    created: datetime
    """Time by the server's clock; informational."""
    updated: datetime
    """Time by the server's clock; informational."""
    replayed: bool
    """True if an earlier attempt had been accepted and its answer was lost."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"revision": self.revision, **_json_times(self.created, self.updated), "replayed": self.replayed}


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read and opened. Its repr does not show the plaintext."""

    key_id: str
    plaintext: bytes = field(repr=False)
    revision: int
    created: datetime
    """Time by the server's clock; informational."""
    updated: datetime
    """Time by the server's clock; informational."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them, with the plaintext as `data` in base64."""
        times, data = _json_times(self.created, self.updated), base64.b64encode(self.plaintext).decode()
        return {"key_id": self.key_id, "revision": self.revision, **times, "data": data}


def result_of(answer: MutationResponse, sealed: int) -> Written:
    """Return the server's answer to an envelope of revision `sealed`. Raises OutcomeUnknown if it is for another."""
    if answer.revision != sealed:
        raise OutcomeUnknown(
            f"the server answered for revision {answer.revision}, not for {sealed}, which was sent: "
            "the outcome of the change is unknown: read the record to see"
        )
    return Written(sealed, time_of(answer.create_time), time_of(answer.update_time), answer.replayed)


def check_key_id(key_id: str) -> None:
    """Raise InvalidRequest for an invalid name."""
    if not is_key_id(key_id):
        raise InvalidRequest(
            f'invalid key_id {quote(key_id)}: must be 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and not end in "/"'
        )


def check_scope(key: DataKey, key_id: str) -> None:
    """Raise InvalidRequest unless the key may be used for this name."""
    check_key_id(key_id)
    if not covers(key.scope, key_id):
        raise InvalidRequest(
            f"the key's scope {key.scope} does not cover {key_id}: use a key for this name or for a prefix of it"
        )


def seal(key: DataKey, key_id: str, revision: int, plaintext: bytes, kind: Kind = Kind.DATA) -> bytes:
    """Return an envelope under the key. Raises InvalidRequest."""
    check_scope(key, key_id)
    if not 1 <= revision <= MAX_REVISION:
        raise InvalidRequest(f"invalid revision {revision}: must be 1 to 2^63-1")
    if len(plaintext) > MAX_PLAINTEXT:
        raise InvalidRequest(f"the plaintext is {len(plaintext)} bytes: a record holds at most {MAX_PLAINTEXT}")
    return kve1.seal(key.secret(), key.tenant, key_id, revision, plaintext, kind)


def parse_head(key_id: str, envelope: bytes) -> bytes:
    """Return the 72 bytes that commit to the record's data key. Raises RecordDamaged."""
    try:
        kve1.parse(envelope)
    except MalformedEnvelope:
        raise RecordDamaged(f"the record stored under {key_id} is not a valid envelope") from None
    return envelope[: kve1.HEAD_SIZE]


def open_record(key_id: str, answer: pb.ReadResponse, key: DataKey) -> Record:
    """Open and return the record that the server sent. Raises RecordDamaged."""
    plaintext = _open(key_id, answer, key, Kind.DATA)
    return Record(key_id, plaintext, answer.revision, time_of(answer.create_time), time_of(answer.update_time))


def open_tombstone(key_id: str, answer: pb.ReadResponse, key: DataKey) -> int:
    """Open the tombstone of a deleted record and return its revision. Raises RecordDamaged."""
    _open(key_id, answer, key, Kind.TOMBSTONE)
    return answer.revision


def _open(key_id: str, answer: pb.ReadResponse, key: DataKey, kind: Kind) -> bytes:
    try:
        header = kve1.parse(answer.envelope)
        plaintext = kve1.open(key.secret(), key.tenant, key_id, answer.envelope)
    except (MalformedEnvelope, EnvelopeDoesNotOpen):
        raise RecordDamaged(f"{key_id} does not open under this key: the record is another key's, or damaged") from None
    if header != (kind, answer.revision):
        raise RecordDamaged(f"the server's answer for {key_id} contradicts its envelope")
    return plaintext


def _json_times(created: datetime, updated: datetime) -> dict[str, str]:
    return {"create_time": json_time(created), "update_time": json_time(updated)}


def json_time(time: datetime) -> str:
    """Return a time as RFC 3339 has it, in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_of(timestamp: Timestamp) -> datetime:
    """Return a time of the server's; the epoch for one that no clock shows."""
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)
