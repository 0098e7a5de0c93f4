"""How a refusal looks to a caller: the vault's error, a call's status with its details, a command's one line."""

import subprocess
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from keyvault_server.core.errors import VaultError


async def refused(call: Awaitable[object]) -> VaultError:
    """Await a call to the vault that has to fail; return its error."""
    with pytest.raises(VaultError) as error:
        await call
    return error.value


@dataclass(frozen=True)
class Failure:
    """What a failed gRPC call says."""

    status: str
    reason: str
    metadata: dict[str, str]
    message: str
    kinds: list[str]
    """Names of the types of all details."""
    details: list[Message]


async def failure_of(call: Any) -> Failure:
    """Await a gRPC call that has to fail; return what it says."""
    try:
        await call
    except grpc.aio.AioRpcError as failed:
        return read_failure(failed)
    raise AssertionError("the call succeeded")


def read_failure(failed: grpc.aio.AioRpcError) -> Failure:
    """Decode a failure with googleapis' own messages, independent of our client."""
    status = status_pb2.Status()
    for name, value in failed.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status.ParseFromString(value)
    known = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    details: list[Message] = []
    info = error_details_pb2.ErrorInfo()
    for packed in status.details:
        for kind in known:
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                details.append(message)
                if isinstance(message, error_details_pb2.ErrorInfo):
                    info = message
    kinds = [detail.DESCRIPTOR.name for detail in details]
    code = failed.code().name
    assert status.code == failed.code().value[0] or not details
    return Failure(code, info.reason, dict(info.metadata), failed.details() or "", kinds, details)


def refusal(done: "subprocess.CompletedProcess[str]", status: int, *, after_log: bool = False) -> str:
    """Return the one line with which `keyvault-server` refuses; JSON log lines may come before it."""
    assert (done.returncode, done.stdout) == (status, "")
    *log, line = done.stderr.splitlines(keepends=True)
    assert line.startswith("keyvault-server: "), done.stderr
    assert line.endswith("\n") or after_log
    assert all(after_log and other.startswith("{") for other in log), done.stderr
    return line
