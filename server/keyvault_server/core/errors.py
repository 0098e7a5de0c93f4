"""What can go wrong in the vault, in the domain's words: every expected failure is a VaultError.

`reason` is stable and goes to the caller as `google.rpc.ErrorInfo.reason`; the message is a sentence that says what
to do and never holds a secret. `interceptors.py` maps each reason to a gRPC status. Reasons by class:

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
      RecordNotFound        RECORD_NOT_FOUND
      RecordExists          RECORD_EXISTS
      StaleRevision         STALE_REVISION
      NotAuthorized         NOT_AUTHORIZED
      PolicyDenied          POLICY_DENIED
      Unauthenticated       UNAUTHENTICATED
      RateLimited           RATE_LIMITED
      BackendThrottled      BACKEND_THROTTLED
      StoreFull             STORE_FULL
      MasterKeyUnusable     MASTER_KEY_UNUSABLE
      BackendUnavailable    BACKEND_UNAVAILABLE
        AuditUnavailable    BACKEND_UNAVAILABLE
        TokenKeysTooOld     BACKEND_UNAVAILABLE
      DeadlineExceeded      DEADLINE_EXCEEDED
      RecordCorrupt         RECORD_CORRUPT
"""

from collections.abc import Mapping
from typing import ClassVar


class Refused(Exception):
    """The operator has to change something before the server does this; the message is one line that says what."""


class VaultError(Exception):
    """An expected failure; only its subclasses are raised."""

    reason: ClassVar[str]
    message: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which the same request may succeed, where the server knows."""
    field: str | None = None
    """The request's field that is at fault, where there is one."""

    def __init__(self, message: str | None = None, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message or self.message)
        self.metadata = dict(metadata or {})


class InvalidRequest(VaultError):
    """The request can never succeed as it is."""

    reason = "MALFORMED_REQUEST"
    message = "the bytes are not the request message of this method"

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
    message = "this is not a wrapped key: send wrapped_key as GenerateKey returned it"


class WrongScope(InvalidRequest):
    """The wrapped key was made for other names."""

    reason = "WRONG_SCOPE"
    message = "the wrapped key's scope does not cover this key_id"


class MalformedEnvelope(InvalidRequest):
    """The bytes are no KVE1 envelope."""

    reason = "MALFORMED_ENVELOPE"
    message = "this is not a KVE1 envelope"


class WrongKind(InvalidRequest):
    """The envelope is of a kind that this method does not take."""

    reason = "WRONG_KIND"
    message = "the envelope is of a kind that this method does not take"


class TooLarge(InvalidRequest):
    """A field is over its limit."""

    reason = "TOO_LARGE"
    message = "a field of the request is over its limit"


class EnvelopeNotUnderKey(InvalidRequest):
    """The key is right, the envelope is not."""

    reason = "ENVELOPE_NOT_UNDER_KEY"
    message = "the envelope does not open under this data key for this tenant, key_id, revision and kind"


class SameDataKey(InvalidRequest):
    """RotateKey to the data key that the record has."""

    reason = "SAME_DATA_KEY"
    message = "both wrapped keys hold the same data key: rotate to a fresh one from GenerateKey"


class RecordNotFound(VaultError):
    """Nothing is stored under the name, or it is deleted."""

    reason = "RECORD_NOT_FOUND"
    message = "no such record"


class RecordExists(VaultError):
    """Create on a live record."""

    reason = "RECORD_EXISTS"
    message = "a record of this key_id exists: read and update it"

    def __init__(self, current_revision: int) -> None:
        super().__init__(metadata={"current_revision": str(current_revision)})


class StaleRevision(VaultError):
    """The envelope's revision is not the stored one + 1."""

    reason = "STALE_REVISION"
    message = "the envelope's revision is not the stored revision + 1: read again and seal anew"

    def __init__(self, current_revision: int) -> None:
        super().__init__(metadata={"current_revision": str(current_revision)})


class NotAuthorized(VaultError):
    """The wrapped key does not unwrap, or its data key is not the record's: one text for both."""

    reason = "NOT_AUTHORIZED"
    message = "the presented key is not authorised for this record"


class PolicyDenied(VaultError):
    """The caller may not try."""

    reason = "POLICY_DENIED"
    message = "the server's policy does not allow this call"


class Unauthenticated(VaultError):
    """The caller shows no identity, or a bad one."""

    reason = "UNAUTHENTICATED"
    message = "the call carries no valid identity"


class RateLimited(VaultError):
    """The caller's quota or the server's concurrency limit is spent."""

    reason = "RATE_LIMITED"
    message = "too many requests at once: try again later"

    def __init__(self, retry_after: float = 0.1) -> None:
        super().__init__()
        self.retry_after = retry_after


class BackendThrottled(VaultError):
    """KMS or the store refuses the rate; nothing was written."""

    reason = "BACKEND_THROTTLED"
    message = "the backend is throttled: try again later"
    retry_after = 0.5


class StoreFull(VaultError):
    """No space; nothing was written, reads go on."""

    reason = "STORE_FULL"
    message = "the store is full: nothing was written"


class MasterKeyUnusable(VaultError):
    """The operator has to act."""

    reason = "MASTER_KEY_UNUSABLE"
    message = "the master key is unknown, disabled or pending deletion: ask the operator"


class BackendUnavailable(VaultError):
    """KMS or the store was not reached, or the outcome of a write is unknown."""

    reason = "BACKEND_UNAVAILABLE"
    message = "the backend gave no clear answer: send the same bytes again"


class AuditUnavailable(BackendUnavailable):
    """The audit trail takes no line: nothing is done or answered without one. What was done before it is unknown."""

    message = "the audit trail cannot be written: send the same bytes again when the operator has mended it"


class TokenKeysTooOld(BackendUnavailable):
    """The tokens' issuer has been silent for too long: it is not the token's fault, and another one is no help."""

    message = (
        "the keys of the tokens' issuer could not be renewed: send the same bytes again when the operator mended it"
    )


class DeadlineExceeded(VaultError):
    """The call's time is over; the outcome of a write is unknown."""

    reason = "DEADLINE_EXCEEDED"
    message = "the deadline passed: send the same bytes again"


class RecordCorrupt(VaultError):
    """What is stored is not a record."""

    reason = "RECORD_CORRUPT"
    message = "the stored bytes are not a record: ask the operator to restore or purge it"
