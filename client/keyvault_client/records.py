"""Records on the caller's side: sealed before they are sent, opened and checked when they come back."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from keyvault_api import envelope as kve1
from keyvault_api.envelope import MAX_PLAINTEXT, MAX_REVISION, EnvelopeDoesNotOpen, Kind, MalformedEnvelope
from keyvault_api.names import covers, is_key_id
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, RecordDamaged
from keyvault_client.keys import DataKey

MutationResponse: TypeAlias = pb.CreateResponse | pb.UpdateResponse | pb.DeleteResponse | pb.RotateKeyResponse


@dataclass(frozen=True, slots=True)
class Written:
    """What an accepted mutation answers."""

    revision: int
    created: datetime
    """By the server's clock, informational."""
    updated: datetime
    """By the server's clock, informational."""
    replayed: bool
    """True if an earlier try had been accepted already, its answer lost."""


@dataclass(frozen=True, slots=True)
class Record:
    """What Read answers, opened. Its repr does not show the plaintext."""

    key_id: str
    plaintext: bytes = field(repr=False)
    revision: int
    created: datetime
    """By the server's clock, informational."""
    updated: datetime
    """By the server's clock, informational."""


def written(answer: MutationResponse) -> Written:
    """What the server answered to a mutation."""
    created, updated = answer.create_time.ToDatetime(UTC), answer.update_time.ToDatetime(UTC)
    return Written(answer.revision, created, updated, answer.replayed)


def check(key: DataKey, key_id: str) -> None:
    """Raises InvalidRequest unless the key may be used for this name."""
    if not is_key_id(key_id):
        raise InvalidRequest('a key_id is 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and does not end in "/"')
    if not covers(key.scope, key_id):
        raise InvalidRequest(f"this key is for {key.scope}, which does not cover {key_id}")


def sealed(key: DataKey, key_id: str, revision: int, plaintext: bytes, kind: Kind = Kind.DATA) -> bytes:
    """An envelope under the key. Raises InvalidRequest."""
    check(key, key_id)
    if not 1 <= revision <= MAX_REVISION:
        raise InvalidRequest("an envelope's revision is 1 to 2^63-1")
    if len(plaintext) > MAX_PLAINTEXT:
        raise InvalidRequest(f"{len(plaintext)} bytes are too many: a record holds at most {MAX_PLAINTEXT}")
    return kve1.seal(key.secret(), key.tenant, key_id, revision, plaintext, kind)


def head_of(key_id: str, envelope: bytes) -> bytes:
    """The 72 bytes that tell whose envelope it is. Raises RecordDamaged."""
    try:
        kve1.parse(envelope)
    except MalformedEnvelope:
        raise RecordDamaged(f"what is stored under {key_id} is no envelope") from None
    return envelope[: kve1.HEAD_SIZE]


def opened(key_id: str, answer: pb.ReadResponse, key: DataKey) -> Record:
    """The record that the server sent, opened under the key. Raises RecordDamaged."""
    try:
        header = kve1.parse(answer.envelope)
        plaintext = kve1.open(key.secret(), key.tenant, key_id, answer.envelope)
    except (MalformedEnvelope, EnvelopeDoesNotOpen):
        raise RecordDamaged(f"{key_id} does not open under this key: another key's, or damaged") from None
    if header != (Kind.DATA, answer.revision):
        raise RecordDamaged(f"the server says of {key_id} what its envelope does not")
    created, updated = answer.create_time.ToDatetime(UTC), answer.update_time.ToDatetime(UTC)
    return Record(key_id, plaintext, answer.revision, created, updated)
