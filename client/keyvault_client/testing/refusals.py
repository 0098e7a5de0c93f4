"""What a KeyVault server refuses with: its status, its message and its details, for each exception of this library.

The rule of this file: a refusal that is played is, byte for byte, one that the server could send. A test compares this
table with the server's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from keyvault_client.errors import (
    AlreadyExists,
    BadPageToken,
    Busy,
    Conflict,
    Denied,
    InvalidRequest,
    KeyVaultError,
    MasterKeyUnusable,
    NotAuthorized,
    NotFound,
    RecordDamaged,
    RevisionNotFound,
    ServerFailure,
    Unavailable,
    WrongRevision,
)
from keyvault_client.google_rpc import ErrorInfo, RetryInfo, Status
from keyvault_client.status import error_of

_Code = grpc.StatusCode
_TYPE = "type.googleapis.com/"

ANSWERS: Mapping[str, tuple[grpc.StatusCode, str, float | None]] = {
    "MALFORMED_REQUEST": (
        _Code.INVALID_ARGUMENT,
        "the bytes do not decode as this method's request message",
        None,
    ),
    "INVALID_KEY_ID": (
        _Code.INVALID_ARGUMENT,
        'a key_id is 1 to 255 characters of [A-Za-z0-9._~:@/+=-] and does not end in "/"',
        None,
    ),
    "MALFORMED_WRAPPED_KEY": (
        _Code.INVALID_ARGUMENT,
        "not a wrapped key: send wrapped_key as GenerateKey returned it",
        None,
    ),
    "WRONG_SCOPE": (_Code.INVALID_ARGUMENT, "the wrapped key's scope does not cover this key_id", None),
    "MALFORMED_ENVELOPE": (_Code.INVALID_ARGUMENT, "not a KVE1 envelope", None),
    "WRONG_KIND": (_Code.INVALID_ARGUMENT, "the envelope is of a kind that this method does not take", None),
    "TOO_LARGE": (_Code.INVALID_ARGUMENT, "a field of the request exceeds its limit", None),
    "ENVELOPE_NOT_UNDER_KEY": (
        _Code.INVALID_ARGUMENT,
        "the envelope does not open under this data key for this tenant, key_id, revision and kind",
        None,
    ),
    "SAME_DATA_KEY": (
        _Code.INVALID_ARGUMENT,
        "both wrapped keys hold the same data key: rotate to a fresh one from GenerateKey",
        None,
    ),
    "BAD_PAGE_TOKEN": (
        _Code.INVALID_ARGUMENT,
        "page_token is not from a List of this prefix and deleted: send the last next_page_token, or none",
        None,
    ),
    "RECORD_NOT_FOUND": (_Code.NOT_FOUND, "no such record", None),
    "REVISION_NOT_FOUND": (
        _Code.NOT_FOUND,
        "this revision of the record is not kept: ListRevisions shows which are",
        None,
    ),
    "RECORD_EXISTS": (_Code.ALREADY_EXISTS, "a record of this key_id exists: read it and update it", None),
    "STALE_REVISION": (
        _Code.ABORTED,
        "the envelope's revision is not the stored revision + 1: read the record and seal for the next one",
        None,
    ),
    "NOT_AUTHORIZED": (_Code.PERMISSION_DENIED, "the presented key is not authorised for this record", None),
    "POLICY_DENIED": (_Code.PERMISSION_DENIED, "the server's policy does not allow this call", None),
    "UNAUTHENTICATED": (_Code.UNAUTHENTICATED, "the call carries no valid identity", None),
    "RATE_LIMITED": (_Code.RESOURCE_EXHAUSTED, "too many requests: retry later", 0.1),
    "BACKEND_THROTTLED": (_Code.RESOURCE_EXHAUSTED, "the backend is throttled: retry later", 0.5),
    "STORE_FULL": (_Code.RESOURCE_EXHAUSTED, "the store is full; nothing was written", None),
    "MASTER_KEY_UNUSABLE": (
        _Code.FAILED_PRECONDITION,
        "the master key is unknown, disabled, pending deletion or not permitted to the server: ask the operator",
        None,
    ),
    "BACKEND_UNAVAILABLE": (_Code.UNAVAILABLE, "the backend gave no clear answer: retry with the same bytes", None),
    "DEADLINE_EXCEEDED": (_Code.DEADLINE_EXCEEDED, "the deadline passed: retry with the same bytes", None),
    "RECORD_CORRUPT": (
        _Code.DATA_LOSS,
        "the stored bytes are not a record: ask the operator to restore or purge it",
        None,
    ),
    "SERVER_STOPPING": (
        _Code.UNAVAILABLE,
        "the server is stopping and did nothing: retry with the same bytes",
        None,
    ),
    "INTERNAL": (_Code.INTERNAL, "internal error", None),
}
"""By reason: the status, the server's message, and the seconds of its RetryInfo, None if it sends none."""

_REASONS: Mapping[type[KeyVaultError], str] = {
    InvalidRequest: "MALFORMED_REQUEST",
    BadPageToken: "BAD_PAGE_TOKEN",
    NotFound: "RECORD_NOT_FOUND",
    RevisionNotFound: "REVISION_NOT_FOUND",
    AlreadyExists: "RECORD_EXISTS",
    Conflict: "STALE_REVISION",
    NotAuthorized: "NOT_AUTHORIZED",
    Denied: "POLICY_DENIED",
    Busy: "RATE_LIMITED",
    MasterKeyUnusable: "MASTER_KEY_UNUSABLE",
    Unavailable: "SERVER_STOPPING",
    RecordDamaged: "RECORD_CORRUPT",
    ServerFailure: "INTERNAL",
}
"""The reason that an exception without one stands for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as it goes to the server's process."""

    reason: str
    message: str
    retry_after: float | None = None
    """Seconds in the RetryInfo; None without one."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the ErrorInfo has, but for the request id."""

    @classmethod
    def of(cls, error: KeyVaultError | type[KeyVaultError]) -> Self:
        """Return the refusal that makes the client raise this error, or one of this class.

        Raises ValueError for an error that no answer of the server makes the client raise.
        """
        kind, given = (error, None) if isinstance(error, type) else (type(error), error)
        reason = (given.reason if given else "") or _REASONS.get(kind, "")
        if not reason:
            raise ValueError(f"a server does not refuse with {kind.__name__}: {_instead(kind)}")
        if reason not in ANSWERS:
            raise ValueError(f"unknown reason {reason!r}: keyvault.proto lists them (ErrorReason)")
        code, message, retry_after = ANSWERS[reason]
        if isinstance(given, Busy):
            retry_after = given.retry_after or None
        made = cls(reason, (str(given) if given else "") or message, retry_after, _metadata(kind, given))
        raised = type(error_of(code, made.message, reason, made.metadata, made.retry_after or 0.0))
        if raised is not kind:
            raise ValueError(f"reason {reason} is a {raised.__name__}, not a {kind.__name__}")
        return made

    @property
    def code(self) -> grpc.StatusCode:
        """Its status."""
        return ANSWERS[self.reason][0]

    def details(self, request_id: str) -> bytes:
        """Return the value of the trailer grpc-status-details-bin, a serialized google.rpc.Status."""
        status: Any = Status(code=self.code.value[0], message=self.message)
        info = ErrorInfo(reason=self.reason, domain="keyvault", metadata={**self.metadata, "request_id": request_id})
        parts: list[Message] = [info]
        if self.retry_after is not None:
            seconds, milliseconds = divmod(math.ceil(self.retry_after * 1000), 1000)
            parts.append(RetryInfo(retry_delay={"seconds": seconds, "nanos": milliseconds * 1_000_000}))
        for part in parts:
            # By hand: the classes are of a descriptor pool of their own, and so is their Any.
            status.details.add(type_url=_TYPE + part.DESCRIPTOR.full_name, value=part.SerializeToString())
        return bytes(status.SerializeToString())


def _metadata(kind: type[KeyVaultError], given: KeyVaultError | None) -> dict[str, str]:
    """Return what the server says about revisions; of a class alone, that the record is at revision 1."""
    if isinstance(given, RevisionNotFound):
        return {"current_revision": str(given.current_revision)}
    if isinstance(given, WrongRevision):
        current = given.current_revision
        since = current if given.remembered_since is None else given.remembered_since
        found = {"current_revision": str(current), "remembered_since": str(since)}
        return found | ({"vacant": "true"} if given.vacant else {})
    if given is None and issubclass(kind, WrongRevision):
        return {"current_revision": "1", "remembered_since": "1"}
    if given is None and issubclass(kind, RevisionNotFound):
        return {"current_revision": "1"}
    return {}


def _instead(kind: type[KeyVaultError]) -> str:
    if kind.__name__ == "OutcomeUnknown":
        return "the client finds it out, for instance after cut_after_commit() or unknown()"
    return "the client finds it out by itself"
