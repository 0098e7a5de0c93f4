"""VaultError -> gRPC status, with exactly one google.rpc.ErrorInfo and the request id.

Source: google.rpc.Status, google/rpc/error_details.proto; AIP-193.
"""

import functools
import math
from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.core.errors import VaultError

DOMAIN = "keyvault"
MAX_MESSAGE_LENGTH = 500
"""Characters of a status message: peers truncate trailers over 8 KiB."""

_STATUS = {
    "MALFORMED_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_KEY_ID": grpc.StatusCode.INVALID_ARGUMENT,
    "MALFORMED_WRAPPED_KEY": grpc.StatusCode.INVALID_ARGUMENT,
    "WRONG_SCOPE": grpc.StatusCode.INVALID_ARGUMENT,
    "MALFORMED_ENVELOPE": grpc.StatusCode.INVALID_ARGUMENT,
    "WRONG_KIND": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "ENVELOPE_NOT_UNDER_KEY": grpc.StatusCode.INVALID_ARGUMENT,
    "SAME_DATA_KEY": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_PAGE_TOKEN": grpc.StatusCode.INVALID_ARGUMENT,
    "RECORD_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "REVISION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RECORD_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "STALE_REVISION": grpc.StatusCode.ABORTED,
    "NOT_AUTHORIZED": grpc.StatusCode.PERMISSION_DENIED,
    "POLICY_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BACKEND_THROTTLED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BATCH_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MASTER_KEY_UNUSABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "BACKEND_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "RECORD_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "SERVER_STOPPING": grpc.StatusCode.UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


class Internal(VaultError):
    """An error that we did not expect; its text is in the log under the request id."""

    reason = "INTERNAL"
    message = "internal error"


def status_of(error: VaultError) -> grpc.StatusCode:
    """Return the gRPC status of an error."""
    return _STATUS[error.reason]


def message_of(error: VaultError) -> str:
    """Return the status message of an error."""
    return str(error)[:MAX_MESSAGE_LENGTH]


def details_of(error: VaultError, request_id: str) -> bytes:
    """Return the value of the trailer grpc-status-details-bin, a serialized google.rpc.Status.

    It is put together from parts that are the same for many errors: two serialized messages, one behind the other, are
    one message that has the fields of both (protobuf.dev, "Last One Wins").
    """
    if error.metadata:
        parts = [_error_info(error.reason, error.metadata | {"request_id": request_id})]
    else:
        before, after = _around_request_id(error.reason, len(request_id))
        parts = [before, request_id.encode(), after]
    if error.retry_after is not None:
        parts.append(_retry_info(_milliseconds(error.retry_after)))
    if error.field is not None:
        parts.append(_bad_request(error.field, str(error)))
    return b"".join((_code_and_message(error.reason, message_of(error)), *parts))


def error_of_item(error: VaultError) -> pb.BatchReadResponse.Error:
    """Return the error of one Read of a batch: what its status would have been."""
    made = pb.BatchReadResponse.Error(
        code=status_of(error).value[0], reason=error.reason, message=message_of(error), metadata=error.metadata
    )
    if error.retry_after is not None:
        made.retry_delay.FromMilliseconds(_milliseconds(error.retry_after))
    return made


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


@functools.lru_cache(256)
def _code_and_message(reason: str, message: str) -> bytes:
    return _serialized(status_pb2.Status(code=_STATUS[reason].value[0], message=message))


@functools.lru_cache(2_048)
def _around_request_id(reason: str, length: int) -> tuple[bytes, bytes]:
    """Return the ErrorInfo before and after a request id of this length, which is its only metadata."""
    # The last such characters: a length before them can be one of them.
    before, _, after = _error_info(reason, {"request_id": "*" * length}).rpartition(b"*" * length)
    return before, after


def _error_info(reason: str, metadata: Mapping[str, str]) -> bytes:
    return _detail(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))


@functools.lru_cache(256)
def _retry_info(milliseconds: int) -> bytes:
    delay = Duration()
    delay.FromMilliseconds(milliseconds)
    return _detail(error_details_pb2.RetryInfo(retry_delay=delay))


def _bad_request(field: str, description: str) -> bytes:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    return _detail(error_details_pb2.BadRequest(field_violations=[violation]))


def _detail(detail: Message) -> bytes:
    """Return a Status with this detail alone."""
    packed = AnyMessage()
    packed.Pack(detail)
    return _serialized(status_pb2.Status(details=[packed]))


def _serialized(message: Message) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized
