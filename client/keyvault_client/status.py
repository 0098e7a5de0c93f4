"""What a gRPC status means: which exception, whether it settles its attempt, and whether a retry may help.

The rules of this file:

* Only a status with KeyVault's google.rpc.ErrorInfo settles an attempt. Any other comes from gRPC or a proxy, after the
  server may have done what was asked.
* What the server or a proxy says becomes printable: a program may log it or show it on a terminal.

Source: https://google.aip.dev/193.
"""

import contextlib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from keyvault_api.envelope import MAX_REVISION
from keyvault_api.printable import printable
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.connect_failures import explain_answer
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
)

_Code = grpc.StatusCode
_BY_CODE: dict[grpc.StatusCode, type[KeyVaultError]] = {
    _Code.INVALID_ARGUMENT: InvalidRequest,
    _Code.NOT_FOUND: NotFound,
    _Code.PERMISSION_DENIED: Denied,
    _Code.UNAUTHENTICATED: Denied,
    _Code.FAILED_PRECONDITION: MasterKeyUnusable,
    _Code.UNAVAILABLE: Unavailable,
    _Code.DEADLINE_EXCEEDED: Unavailable,
    _Code.DATA_LOSS: RecordDamaged,
}
_BY_REASON: dict[str, type[KeyVaultError]] = {"NOT_AUTHORIZED": NotAuthorized, "BAD_PAGE_TOKEN": BadPageToken}
_BY_NUMBER = {code.value[0]: code for code in _Code}
_UNSETTLED = {"BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"}
_WITHOUT_REASON: dict[grpc.StatusCode, type[KeyVaultError]] = {
    _Code.UNAVAILABLE: Unavailable,
    _Code.CANCELLED: Unavailable,  # a cancellation of ours raises asyncio.CancelledError
    _Code.DEADLINE_EXCEEDED: Unavailable,
    _Code.UNKNOWN: Unavailable,
    _Code.INTERNAL: Unavailable,
    _Code.PERMISSION_DENIED: Denied,
    _Code.UNAUTHENTICATED: Denied,
    _Code.RESOURCE_EXHAUSTED: Busy,
}
"""Exceptions for a status that is not KeyVault's. Those that are Unavailable are retried."""


class _Info(NamedTuple):
    """KeyVault's google.rpc.ErrorInfo; without a reason if there is none."""

    reason: str = ""
    metadata: Mapping[str, str] = {}


class Failure(NamedTuple):
    """Why an attempt failed."""

    error: KeyVaultError
    settled: bool
    """True if the attempt changed nothing, for certain."""
    retry: bool
    """True if the same bytes may succeed later."""


def failure_of(failed: grpc.aio.AioRpcError, method: str) -> Failure:
    """Return what the status of a failed attempt means; `method` is the one that was called."""
    info, retry_after = _details(failed)
    if not info.reason:
        error = _error_without_reason(failed, method)
        return Failure(error, settled=False, retry=isinstance(error, Unavailable))
    error = error_of(failed.code(), failed.details() or failed.code().name, info.reason, info.metadata, retry_after)
    return Failure(error, settled=info.reason not in _UNSETTLED, retry=_may_succeed_later(error))


def _may_succeed_later(error: KeyVaultError) -> bool:
    return isinstance(error, (Unavailable, Busy)) and error.reason != "STORE_FULL"


def _seconds(delay: Any) -> float:
    """Return a google.protobuf.Duration in seconds, 0 for a negative one."""
    seconds: float = delay.seconds + delay.nanos / 1e9
    return max(0.0, seconds)


def _error_without_reason(failed: grpc.aio.AioRpcError, method: str) -> KeyVaultError:
    code = failed.code()
    details = printable(failed.details() or "no details")
    explained = explain_answer(details)
    if code is _Code.UNIMPLEMENTED and explained == details:
        return ServerFailure(f"the server does not know {method}: it is an older KeyVault, or another service")
    return _WITHOUT_REASON.get(code, ServerFailure)(f"{code.name}: {explained}")


def error_of(
    code: grpc.StatusCode, message: str, reason: str, metadata: Mapping[str, str], retry_after: float
) -> KeyVaultError:
    """Return the exception for a status with KeyVault's ErrorInfo; `retry_after` is in seconds."""
    message = printable(message)
    about: dict[str, Any] = {"reason": printable(reason), "request_id": printable(metadata.get("request_id", ""))}
    if reason in ("RECORD_EXISTS", "STALE_REVISION"):
        about["current_revision"] = _revision(metadata.get("current_revision", "")) or 0
        about["remembered_since"] = _revision(metadata.get("remembered_since", ""))
        if reason == "RECORD_EXISTS":
            return AlreadyExists(message, **about)
        return Conflict(message, vacant=metadata.get("vacant", "") == "true", **about)
    if reason == "REVISION_NOT_FOUND":
        return RevisionNotFound(message, current_revision=_revision(metadata.get("current_revision", "")) or 0, **about)
    if reason in _BY_REASON:
        return _BY_REASON[reason](message, **about)
    if code is _Code.RESOURCE_EXHAUSTED:
        return Busy(message, retry_after=retry_after, **about)
    return _BY_CODE.get(code, ServerFailure)(message, **about)


def failure_of_item(failed: pb.BatchReadResponse.Error) -> Failure:
    """Return what the error of one Read of a batch means."""
    code = _BY_NUMBER.get(failed.code, _Code.UNKNOWN)
    message = failed.message or code.name
    error = error_of(code, message, failed.reason, failed.metadata, _seconds(failed.retry_delay))
    return Failure(error, settled=True, retry=_may_succeed_later(error))


def _revision(text: str) -> int | None:
    """Return a revision in decimal, 0 included; None for anything else, of whatever length."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_REVISION))):
        return None
    number = int(text)
    return number if number <= MAX_REVISION else None


def _details(failed: grpc.aio.AioRpcError) -> tuple[_Info, float]:
    """Return KeyVault's ErrorInfo (empty if there is none) and the seconds of the RetryInfo (0 if there is none)."""
    info, retry_after = _Info(), 0.0
    for detail in _packed(failed):
        kind = detail.type_url.rpartition("/")[2]
        with contextlib.suppress(DecodeError):
            if kind == "google.rpc.ErrorInfo":
                found = _google_rpc().ErrorInfo.FromString(detail.value)
                info = _Info(found.reason, found.metadata) if found.domain == "keyvault" else info
            elif kind == "google.rpc.RetryInfo":
                retry_after = _seconds(_google_rpc().RetryInfo.FromString(detail.value).retry_delay)
    return info, retry_after


def _packed(failed: grpc.aio.AioRpcError) -> list[Any]:
    """Return the details that the status carries, still packed."""
    for name, value in failed.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                status = _google_rpc().Status.FromString(value)
            except DecodeError:
                return []
            return list(status.details)
    return []


def _google_rpc() -> ModuleType:
    """Return the module with the messages. The first status with details makes them: no start waits for that."""
    return importlib.import_module("keyvault_client.google_rpc")
