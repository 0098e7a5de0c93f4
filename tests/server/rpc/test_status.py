"""The details of an error, put together from parts: the same message as if protobuf had made it in one go."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from keyvault_server.core.errors import InvalidKeyId, PolicyDenied, RateLimited, StaleRevision, TooLarge, VaultError
from keyvault_server.rpc.status import details_of, message_of, status_of

ERRORS = [
    PolicyDenied(),
    PolicyDenied("UnwrapKey is off for this scope"),
    PolicyDenied("é" * 600),
    RateLimited(),
    RateLimited(0.0),
    RateLimited(12.3456),
    InvalidKeyId(field="key_id"),
    TooLarge("wrapped_key is 9000 bytes; at most 8192 are allowed", field="wrapped_key"),
    StaleRevision(7, 3, vacant=True),
]


def expected(error: VaultError, request_id: str) -> status_pb2.Status:
    status = status_pb2.Status(code=status_of(error).value[0], message=message_of(error))
    metadata = error.metadata | {"request_id": request_id}
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain="keyvault", metadata=metadata)]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds({0.1: 100, 0.0: 0, 12.3456: 12_346}[error.retry_after])
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        status.details.add().Pack(detail)
    return status


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.reason}-{ERRORS.index(error)}")
def test_the_parts_make_the_whole_message(error: VaultError) -> None:
    for request_id in ("a", "1f2e3d4c5b-0", "***", "-" * 42, *("x" * length for length in range(1, 65))):
        assert status_pb2.Status.FromString(details_of(error, request_id)) == expected(error, request_id)
