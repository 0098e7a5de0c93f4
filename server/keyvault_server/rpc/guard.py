"""What every call of keyvault.v1 passes through: one guard, whatever goes wrong.

In this order: a request id, the concurrency limit, the caller's identity, decoding (grpc.aio answers a malformed
message with UNKNOWN and a class name of ours), the deadline, the handler; then errors -> status with one
google.rpc.ErrorInfo, the audit log's word on it, and a line in the access log that never holds a secret. The rule of
this file: a VaultError's sentence reaches the caller, any other exception reaches only the log. Health and reflection
pass untouched, so that a busy server is not a dead one.
"""

from __future__ import annotations  # grpc's handler types take parameters in the stubs only

import asyncio
import itertools
import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from keyvault_api.names import is_scope
from keyvault_server.core.caller import current_caller
from keyvault_server.core.errors import BackendUnavailable, DeadlineExceeded, InvalidRequest, RateLimited, VaultError
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import Gatekeeper, Visitor
from keyvault_server.rpc.metrics import Metrics

SERVICE = "/keyvault.v1.KeyVault/"
DOMAIN = "keyvault"
MAX_DETAILS = 500
"""Characters of a status message: trailers over 8 KiB are cut off by peers."""

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
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
_STOPPING = "the server is stopping: send the same bytes again"
_CALLER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_log = logging.getLogger(__name__)
_process = os.urandom(5).hex()
_calls = itertools.count()


class _Internal(VaultError):
    """Anything that we did not expect; its text is in the log under the request id."""

    reason = "INTERNAL"
    message = "internal error"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on."""

    concurrent_calls: int = 256
    """Calls at work at a time; the next is RATE_LIMITED."""
    call_seconds: float = 30.0
    """A call's longest time, whatever deadline its caller gave it."""


class CallGuard(grpc.aio.ServerInterceptor):
    """The one interceptor; also counts the calls at work, for the drain."""

    def __init__(self, limits: Limits, gate: Gatekeeper, metrics: Metrics, access_log: AccessLog | None = None) -> None:
        self._limits = limits
        self._gate = gate
        self._metrics = metrics
        self._access_log = access_log
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._unanswered = 0  # at work, or done and its reply not yet sent
        self._closed = False
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """Refuses the calls that come from now on, before anything is asked or noted of them."""
        self._closed = True

    async def wait_idle(self) -> None:
        """Returns when no accepted call is at work, cleaning up and the sending of its reply included."""
        await self._idle.wait()

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(SERVICE):
                return handler
            guarded = self._guarded[method] = self._guard(method.removeprefix(SERVICE), handler)
        return guarded

    def _guard(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        decode = handler.request_deserializer
        behaviour: Any = handler.unary_unary  # the stubs know of no asynchronous one
        assert decode is not None

        async def guarded(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = _Call(name, context, self._gate)
            if self._closed:
                await call.fail(grpc.StatusCode.UNAVAILABLE, BackendUnavailable(_STOPPING))
            admitted = self._admitted < self._limits.concurrent_calls
            self._admitted += admitted  # who is not let in waits for the audit log too, in nobody's place
            self._begin(context)
            try:
                if not admitted:
                    raise RateLimited
                call.caller.enter(context)
                current_caller.set(call.caller)
                call.request = request = _decoded(decode, data)
                left = context.time_remaining()
                if left is not None and left <= self._limits.call_seconds:
                    response = await behaviour(request, context)  # grpc cancels it at the caller's deadline
                    await call.caller.leave("OK", "")
                else:
                    async with asyncio.timeout(self._limits.call_seconds):
                        response = await behaviour(request, context)
                        await call.caller.leave("OK", "")
                self._note(call, "OK", "")
                return response
            except (Exception, asyncio.CancelledError) as error:
                if not call.caller.inside:
                    self._admitted -= admitted
                    admitted = False
                return await self._fail(call, error)
            finally:
                self._admitted -= admitted
                call.caller.give_back()

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    def _begin(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Counts a call until grpc has sent its reply: one that is returned, a stop would still cancel."""
        ended: Any = self._end  # the stubs know of no function here
        context.add_done_callback(ended)
        self._unanswered += 1
        self._idle.clear()

    def _end(self, _: object) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self._idle.set()

    async def _fail(self, call: _Call, error: BaseException) -> NoReturn:
        failure = _failure(error, call.request_id)
        if failure is None:
            call.caller.vanish()
            self._note(call, "CANCELLED", "")
            raise error
        try:
            await call.caller.leave(status_of(failure).name, failure.reason)
        except VaultError as unheard:
            failure = unheard
        except asyncio.CancelledError:
            self._note(call, "CANCELLED", failure.reason)
            raise
        code = status_of(failure)
        self._note(call, code.name, failure.reason)
        await call.fail(code, failure)

    def _note(self, call: _Call, status: str, reason: str) -> None:
        took = time.perf_counter() - call.started
        self._metrics.count(call.method, status, took)
        if self._access_log is not None:
            who, peer = call.caller.identity, call.context.peer()
            self._access_log.add(call.method, status, reason, call.name, who, peer, call.request_id, took)


class _Call:
    """One call, from its first byte to its line in the access log."""

    __slots__ = ("caller", "context", "method", "request", "request_id", "started")

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any], gate: Gatekeeper) -> None:
        self.context = context
        self.request: Message | None = None
        self.request_id = _request_id(context)
        self.method = method
        self.caller = Visitor(gate, method, self.request_id)
        self.started = time.perf_counter()

    @property
    def name(self) -> str:
        """The key_id or scope that the call is about; empty if what was sent is none, for that may be anything."""
        request = self.request
        name: str = getattr(request, "key_id", "") or getattr(request, "scope", "")
        return name if is_scope(name) else ""

    async def fail(self, code: grpc.StatusCode, error: VaultError) -> NoReturn:
        """Answers with the error's status, by raising what grpc.aio ends a call with."""
        status = _rich_status(error, code, self.request_id).SerializeToString()
        raise await self.context.abort(code, str(error)[:MAX_DETAILS], (("grpc-status-details-bin", status),))


def status_of(error: VaultError) -> grpc.StatusCode:
    """The status that tells of an error."""
    return _STATUS[error.reason]


def _failure(error: BaseException, request_id: str) -> VaultError | None:
    """What the caller is told; None if nobody is there to be told. What we did not expect goes to the log alone."""
    if isinstance(error, VaultError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded()
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():  # the caller hung up, or a deadline passed
            return None
        # else a task of our own was cancelled: unanswered, the caller would wait for ever
    _log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    return _Internal()


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except DecodeError:
        raise InvalidRequest from None


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The caller's x-request-id if it is fit for a log, else one of our own: this process's mark and a number."""
    for name, value in context.invocation_metadata() or ():
        if name == "x-request-id" and isinstance(value, str) and _CALLER_ID.fullmatch(value):
            return value
    return f"{_process}-{next(_calls):x}"


def _rich_status(error: VaultError, code: grpc.StatusCode, request_id: str) -> status_pb2.Status:
    metadata = error.metadata | {"request_id": request_id}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(math.ceil(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code.value[0], message=str(error)[:MAX_DETAILS])
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
