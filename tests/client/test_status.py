"""Exceptions of a server's failures, valid and invalid ones."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from keyvault_client import KeyVaultError
from keyvault_client.status import failure_of


def failed(*details: Any) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=14, details=details).SerializeToString()
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status))
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "down")


@pytest.mark.parametrize("kind", ["ErrorInfo", "RetryInfo"])
def test_an_unreadable_detail_is_ignored(kind: str) -> None:
    info = Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="BACKEND_UNAVAILABLE", domain="keyvault"))
    unreadable = Any(type_url=f"type.googleapis.com/google.rpc.{kind}", value=b"\xff")
    error, settled, retry = failure_of(failed(info, unreadable), "Read")
    assert isinstance(error, KeyVaultError)
    assert (error.reason, settled, retry) == ("BACKEND_UNAVAILABLE", False, True)


def test_an_error_info_of_another_domain_settles_nothing() -> None:
    info = Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="RECORD_EXISTS", domain="example.com"))
    error, settled, _ = failure_of(failed(info), "Create")
    assert (error.reason, settled) == ("", False)
