"""What can go wrong in the vault, in the domain's words: every expected failure is a VaultError.

`reason` is stable: an ErrorReason of keyvault.proto, which the caller gets as `google.rpc.ErrorInfo.reason`. The
message is a sentence that says what to do and never holds a secret. `rpc/status.py` maps each reason to a gRPC status.
Reasons by class:

    VaultError
      InvalidRequest        MALFORMED_REQUEST
        InvalidKeyId        INVALID_KEY_ID
        MalformedWrappedKey MALFORMED_WRAPPED_KEY
        WrongScope          WRONG_SCOPE
        MalformedEnvelope   MALFORMED_ENVELOPE
        WrongKind           WRONG_KIND
        TooLarge            TOO_LARGE
        EnvelopeNotUnderKey ENVELOPE_NOT_UNDER_KEY
        SameDataKey         SAME_DATA_KEY
        BadPageToken        BAD_PAGE_TOKEN
      RecordNotFound        RECORD_NOT_FOUND
      RevisionNotFound      REVISION_NOT_FOUND
      RecordExists          RECORD_EXISTS
      StaleRevision         STALE_REVISION
      NotAuthorized         NOT_AUTHORIZED
      PolicyDenied          POLICY_DENIED
      Unauthenticated       UNAUTHENTICATED
      RateLimited           RATE_LIMITED
      BackendThrottled      BACKEND_THROTTLED
      BatchFull             BATCH_FULL
      StoreFull             STORE_FULL
      MasterKeyUnusable     MASTER_KEY_UNUSABLE
      BackendUnavailable    BACKEND_UNAVAILABLE
        AuditUnavailable    BACKEND_UNAVAILABLE
        TokenKeysTooOld     BACKEND_UNAVAILABLE
      DeadlineExceeded      DEADLINE_EXCEEDED
      RecordCorrupt         RECORD_CORRUPT
      ServerStopping        SERVER_STOPPING
"""

from collections.abc import Mapping
from typing import ClassVar


class OperatorError(Exception):
    """The operator has to change something first; the message is one line that says what is wrong and what to do."""


class BackendFault(Exception):
    """What a backend did, often the cause of a VaultError. Its text is fit for the log and says no secret."""


class VaultError(Exception):
    """An expected failure; only subclasses are raised."""

    reason: ClassVar[str]
    message: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which the same request may succeed, if the server knows."""
    field: str | None = None
    """The request's field that is wrong, if it is one field."""

    def __init__(self, message: str | None = None, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message or self.message)
        self.metadata = dict(metadata or {})


class InvalidRequest(VaultError):
    """The request can never succeed as it is."""

    reason = "MALFORMED_REQUEST"
    message = "the bytes do not decode as this method's request message"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidKeyId(InvalidRequest):
    """A key_id or scope breaks the naming rule."""

    reason = "INVALID_KEY_ID"
    message = 'a key_id is 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and does not end in "/"'


class MalformedWrappedKey(InvalidRequest):
    """The bytes are not framed as a wrapped key."""

    reason = "MALFORMED_WRAPPED_KEY"
    message = "not a wrapped key: send wrapped_key as GenerateKey returned it"


class WrongScope(InvalidRequest):
    """The wrapped key was made for other names."""

    reason = "WRONG_SCOPE"
    message = "the wrapped key's scope does not cover this key_id"


class MalformedEnvelope(InvalidRequest):
    """The bytes are not a KVE1 envelope."""

    reason = "MALFORMED_ENVELOPE"
    message = "not a KVE1 envelope"


class WrongKind(InvalidRequest):
    """The method takes an envelope of another kind."""

    reason = "WRONG_KIND"
    message = "the envelope is of a kind that this method does not take"


class TooLarge(InvalidRequest):
    """A field exceeds its limit."""

    reason = "TOO_LARGE"
    message = "a field of the request exceeds its limit"


class EnvelopeNotUnderKey(InvalidRequest):
    """The key is right, the envelope is not."""

    reason = "ENVELOPE_NOT_UNDER_KEY"
    message = "the envelope does not open under this data key for this tenant, key_id, revision and kind"


class SameDataKey(InvalidRequest):
    """RotateKey to the data key that the record already has."""

    reason = "SAME_DATA_KEY"
    message = "both wrapped keys hold the same data key: rotate to a fresh one from GenerateKey"


class BadPageToken(InvalidRequest):
    """The page token is not one of this listing."""

    reason = "BAD_PAGE_TOKEN"
    message = "page_token is not from a List of this prefix and deleted: send the last next_page_token, or none"


class RecordNotFound(VaultError):
    """Nothing is stored under the name, or it is deleted."""

    reason = "RECORD_NOT_FOUND"
    message = "no such record"


class RevisionNotFound(VaultError):
    """The record is live, but this revision of it cannot be read."""

    reason = "REVISION_NOT_FOUND"
    message = "this revision of the record is not kept: ListRevisions shows which are"

    def __init__(self, current_revision: int) -> None:
        super().__init__(metadata={"current_revision": str(current_revision)})


class RecordExists(VaultError):
    """Create on a live record."""

    reason = "RECORD_EXISTS"
    message = "a record of this key_id exists: read it and update it"

    def __init__(self, current_revision: int, remembered_since: int) -> None:
        super().__init__(metadata=_revisions(current_revision, remembered_since))


class StaleRevision(VaultError):
    """The envelope's revision is not the stored one + 1."""

    reason = "STALE_REVISION"
    message = "the envelope's revision is not the stored revision + 1: read the record and seal for the next one"

    def __init__(self, current_revision: int, remembered_since: int, *, vacant: bool = False) -> None:
        """`current_revision` is 0 if the name was never used; `vacant`: a purge destroyed the record."""
        metadata = _revisions(current_revision, remembered_since)
        super().__init__(metadata=metadata | {"vacant": "true"} if vacant else metadata)


class NotAuthorized(VaultError):
    """The wrapped key does not unwrap, or its data key is not the record's; one message for both."""

    reason = "NOT_AUTHORIZED"
    message = "the presented key is not authorised for this record"


class PolicyDenied(VaultError):
    """The policy does not let the caller try."""

    reason = "POLICY_DENIED"
    message = "the server's policy does not allow this call"


class Unauthenticated(VaultError):
    """The caller presents no identity, or an invalid one."""

    reason = "UNAUTHENTICATED"
    message = "the call carries no valid identity"


class RateLimited(VaultError):
    """The caller's quota or the server's concurrency limit is used up."""

    reason = "RATE_LIMITED"
    message = "too many requests: retry later"

    def __init__(self, retry_after: float = 0.1) -> None:
        super().__init__()
        self.retry_after = retry_after


class BackendThrottled(VaultError):
    """KMS or the store refuses the rate; nothing was written."""

    reason = "BACKEND_THROTTLED"
    message = "the backend is throttled: retry later"
    retry_after = 0.5


class BatchFull(VaultError):
    """An item of a batch did not fit into the answer; nothing was charged."""

    reason = "BATCH_FULL"
    message = "the answer has no room for this item: ask for it again"


class StoreFull(VaultError):
    """No space; nothing was written, and reads still work."""

    reason = "STORE_FULL"
    message = "the store is full; nothing was written"


class MasterKeyUnusable(VaultError):
    """The operator has to fix the master key."""

    reason = "MASTER_KEY_UNUSABLE"
    message = "the master key is unknown, disabled, pending deletion or not permitted to the server: ask the operator"


class BackendUnavailable(VaultError):
    """KMS or the store was not reached, or the outcome of a write is unknown."""

    reason = "BACKEND_UNAVAILABLE"
    message = "the backend gave no clear answer: retry with the same bytes"


class AuditUnavailable(BackendUnavailable):
    """The audit log accepts no line, and nothing is done or answered without one. What was done already is unknown."""

    message = "the audit log cannot be written: retry with the same bytes once the operator has fixed it"


class TokenKeysTooOld(BackendUnavailable):
    """The tokens' issuer has not answered for too long: no token can be verified."""

    message = "the keys of the tokens' issuer are too old: retry with the same bytes once the operator has fixed it"


class DeadlineExceeded(VaultError):
    """The call's time is up; the outcome of a write is unknown."""

    reason = "DEADLINE_EXCEEDED"
    message = "the deadline passed: retry with the same bytes"


class RecordCorrupt(VaultError):
    """The stored bytes are not a record."""

    reason = "RECORD_CORRUPT"
    message = "the stored bytes are not a record: ask the operator to restore or purge it"

    def __init__(self, current_revision: int | None = None) -> None:
        """`current_revision` is that of the stored head, if it could be parsed."""
        super().__init__(metadata={} if current_revision is None else {"current_revision": str(current_revision)})


class ServerStopping(VaultError):
    """The server is shutting down; nothing was done."""

    reason = "SERVER_STOPPING"
    message = "the server is stopping and did nothing: retry with the same bytes"


def _revisions(current: int, remembered_since: int) -> dict[str, str]:
    """Return what a caller needs to settle the outcome of an earlier attempt.

    The server would have recognized an accepted envelope of revision r if remembered_since <= r <= current: a replay of
    it answers OK, so one that is refused was never accepted.
    """
    return {"current_revision": str(current), "remembered_since": str(remembered_since)}
