"""VaultError -> gRPC status, with exactly one google.rpc.ErrorInfo and the request id.

Source: google.rpc.Status, google/rpc/error_details.proto; AIP-193.
"""

import math

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

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
    "RECORD_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RECORD_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "STALE_REVISION": grpc.StatusCode.ABORTED,
    "NOT_AUTHORIZED": grpc.StatusCode.PERMISSION_DENIED,
    "POLICY_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BACKEND_THROTTLED": grpc.StatusCode.RESOURCE_EXHAUSTED,
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
    """Return the value of the trailer grpc-status-details-bin, a serialized google.rpc.Status."""
    metadata = error.metadata | {"request_id": request_id}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(math.ceil(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=status_of(error).value[0], message=message_of(error))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized
