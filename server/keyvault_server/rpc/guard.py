"""The guard around every call of keyvault.v1: one interceptor that admits, serves and answers.

Admit, at the headers: a request id, the caller's identity. Receive: the message, a slot among the in-flight calls, and
decoding (grpc.aio answers a malformed one with UNKNOWN and a class name of ours). Serve: the handler and the audit
log's outcome, within the deadline.
Answer an error: its status, the audit log's outcome, a line in the access log that never holds a secret.

The rule of this file: a VaultError's sentence reaches the caller, any other exception reaches only the log. Health and
reflection pass untouched, so that a busy server does not look like a dead one.
"""

from __future__ import annotations  # grpc's handler types take parameters in the stubs only

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from keyvault_api.names import BATCH_READ, LIST
from keyvault_server.access.identity import Metadata
from keyvault_server.access.quotas import InFlight
from keyvault_server.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PolicyDenied,
    RateLimited,
    ServerStopping,
    Unauthenticated,
    VaultError,
)
from keyvault_server.core.history import MOST_HELD
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.call import GuardedCall
from keyvault_server.rpc.gatekeeper import Gatekeeper, current_caller
from keyvault_server.rpc.metadata import MetadataLimit
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.receiving import Receiving
from keyvault_server.rpc.refusals import MOST, Refusals
from keyvault_server.rpc.replies import ALL_CONNECTIONS, COUNTED, Replies
from keyvault_server.rpc.slots import Slots
from keyvault_server.rpc.status import Internal, status_of
from keyvault_server.rpc.time_limit import TimeLimit

SERVICE = "/keyvault.v1.KeyVault/"
_REFUSALS = (Unauthenticated, PolicyDenied, RateLimited, InvalidRequest)
"""Failures that spend no quota of their caller's."""

current_metadata: ContextVar[Metadata] = ContextVar("current_metadata")
"""The metadata of the call that the running task serves: to ask gRPC for it again takes time."""

_log = logging.getLogger(__name__)

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one server takes on."""

    concurrent_calls: int = 256
    """Maximum calls that are worked on at a time; the next ones wait (slots.py)."""
    call_seconds: float = 30.0
    """A call's longest time, whatever deadline its caller gave it."""
    request_bytes: int = 16 * 1024 * 1024
    """Maximum bytes of the requests in flight, half of them of one caller; the next is RATE_LIMITED."""
    unanswered_calls: int = 3_000
    """Maximum calls from their headers until their reply was taken, refused ones included."""
    batch_reads: int = 8
    """Maximum BatchReads, and Lists, that are worked on at a time; the next ones wait."""
    held_records: int = MOST_HELD
    """Maximum Updates that hold the record that they replace, to make a copy of it; the next ones wait."""
    receiving_calls: int = 80
    """Calls whose message may be slow to come; the next one ends the one that has taken longest."""
    receive_seconds: float = 10.0
    """Longest time of a request message, from the call's headers on."""
    reply_bytes: int = ALL_CONNECTIONS
    """Maximum bytes of replies that were sent and not taken, a third of them on one connection."""
    waiting_refusals: int = MOST
    """Maximum refused calls that wait for their turn to be answered."""

    def divided(self, shares: int) -> Limits:
        """Return one of so many equal shares of what all calls take together; `concurrent_calls` is a share already."""
        return replace(
            self,
            request_bytes=self.request_bytes // shares,
            unanswered_calls=self.unanswered_calls // shares,
            batch_reads=max(1, self.batch_reads // shares),
            held_records=max(1, self.held_records // shares),
            receiving_calls=self.receiving_calls // shares,
            reply_bytes=self.reply_bytes // shares,
            waiting_refusals=self.waiting_refusals // shares,
        )


class CallGuard(grpc.aio.ServerInterceptor):
    """The one interceptor; it also counts the in-flight calls, for the drain."""

    def __init__(self, limits: Limits, gate: Gatekeeper, metrics: Metrics, access_log: AccessLog | None = None) -> None:
        self.limits = limits
        self._gate = gate
        self._metrics = metrics
        self._access_log = access_log
        self.receiving = Receiving(limits.receiving_calls, limits.receive_seconds)
        self._serving = TimeLimit(limits.call_seconds, DeadlineExceeded)
        self.replies = Replies(most=limits.reply_bytes)
        self._slots = Slots(limits.concurrent_calls)
        self._requests = InFlight()
        self.refusals = Refusals(self.replies.cuts, most=limits.waiting_refusals)
        self.metadata = MetadataLimit(self.replies.cuts)
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._closed = False
        self._unanswered: set[GuardedCall] = set()  # in-flight, or done but the reply is not yet sent
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """Refuse the calls that arrive from now on, before anything about them is checked or recorded."""
        self._closed = True
        self.refusals.close()

    async def wait_idle(self) -> None:
        """Return when no accepted call is in-flight, its cleanup and the sending of its reply included."""
        await self._idle.wait()

    def peers(self) -> list[str]:
        """Return the peers of the calls that were let in and whose replies were not taken, as gRPC writes them."""
        return [call.context.peer() for call in self._unanswered if call.caller.entered]

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        metadata = handler_call_details.invocation_metadata
        if refusal := self.metadata.refusal_of(metadata):
            return refusal
        current_metadata.set(metadata)
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(SERVICE):
                return handler
            guarded = self._guarded[method] = self._guard(method.removeprefix(SERVICE), handler)
        return guarded

    def _guard(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that admits, serves and answers each call of one method."""
        decode = handler.request_deserializer
        behaviour: Any = handler.unary_unary  # the stubs know of no asynchronous one
        encode = handler.response_serializer
        assert decode is not None
        assert encode is not None

        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = GuardedCall(name, context, current_metadata.get(), self._gate)
            if self._closed:
                await call.fail(ServerStopping())
            self._track(call)
            try:
                self._admit(call)
                await self._receive(call, decode)
                return await self._serve(call, behaviour, encode)
            except (Exception, asyncio.CancelledError) as error:
                return await self._answer_error(call, error)
            finally:
                self._free_slot(call)
                call.request = None  # gRPC's context refers to itself and to the call until a garbage collection

        # A unary one is started when its whole message has come; the wire does not show the difference.
        return grpc.stream_unary_rpc_method_handler(handle, request_deserializer=None, response_serializer=None)

    def _admit(self, call: GuardedCall) -> None:
        """Identify the caller, before its message is received. Raises VaultError."""
        if len(self._unanswered) > self.limits.unanswered_calls:
            raise RateLimited
        call.caller.enter()
        current_caller.set(call.caller)
        if self.replies.size and call.method in ("Read", BATCH_READ, LIST):
            self.replies.check(call.context.peer())

    async def _receive(self, call: GuardedCall, decode: Callable[[bytes], Any]) -> None:
        """Receive the call's request, wait for a slot, and decode it. Raises VaultError.

        One caller may have half of the bytes of all requests.
        """
        data = await self.receiving.message(call.context)
        size, most = len(data), self.limits.request_bytes
        if self._requests.total + size > most:
            raise RateLimited
        self._requests.enter(call.caller.identity, most // 2 if call.caller.identity else most, size)
        call.size = size
        await self._slots.take()
        call.holds_slot = True
        call.request = _decoded(decode, data)

    async def _serve(self, call: GuardedCall, behaviour: Behaviour, encode: Callable[[Any], bytes]) -> bytes:
        """Return the reply, once its outcome is recorded, within the time limit. Raises VaultError.

        At the caller's own deadline gRPC cancels the task.
        """
        with self._serving:
            reply = await self._work(call, behaviour, encode)
        self._count(call, "OK", "")
        return reply

    async def _work(self, call: GuardedCall, behaviour: Behaviour, encode: Callable[[Any], bytes]) -> bytes:
        """Run the handler and record its outcome; a large reply counts until it was taken. Raises VaultError."""
        reply = encode(await behaviour(call.request, call.context))
        if len(reply) >= COUNTED:
            taken: Any = self.replies.send(call.context.peer(), len(reply))
            call.context.add_done_callback(taken)
        await call.caller.record_outcome("OK", "")
        return reply

    async def _answer_error(self, call: GuardedCall, error: BaseException) -> NoReturn:
        """Record the outcome of a failed call, and answer it, perhaps in its turn, if its caller is still there."""
        failure = _failure(error, call.request_id)
        if failure is None:
            call.caller.hang_up()
            self._count(call, "CANCELLED", "")
            raise error
        error.__traceback__ = None  # its frames hold what the call held, as long as the answer waits for its turn
        try:
            await call.caller.record_outcome(status_of(failure).name, failure.reason)
        except VaultError as unrecorded:
            failure = unrecorded
        except asyncio.CancelledError:
            self._count(call, "CANCELLED", failure.reason)
            raise
        self._count(call, status_of(failure).name, failure.reason)
        # Where callers have no identities, there is none to protect from another.
        if isinstance(failure, _REFUSALS) and self._gate.identifier is not None:
            self._free_slot(call)
            call.request = None
            await self.refusals.wait_turn(call.caller.identity, call.caller.refusals, call.context.peer())
        await call.fail(failure)

    def _free_slot(self, call: GuardedCall) -> None:
        if call.holds_slot:
            call.holds_slot = False
            self._slots.free()
        if call.size:
            self._requests.leave(call.caller.identity, call.size)
            call.size = 0

    def _track(self, call: GuardedCall) -> None:
        """Count a call until its reply was taken: a stop would cancel a reply that was only returned."""

        def answered(_: object) -> None:
            call.caller.release()
            self._unanswered.discard(call)
            if not self._unanswered:
                self._idle.set()

        done: Any = answered  # the stubs know of no function here
        call.context.add_done_callback(done)
        self._unanswered.add(call)
        self._idle.clear()

    def _count(self, call: GuardedCall, status: str, reason: str) -> None:
        took = time.perf_counter() - call.started
        self._metrics.count(call.method, status, took)
        if self._access_log is None:
            return
        if not call.caller.is_listed():
            self._access_log.count(status, reason)
        else:
            who, peer = call.caller.identity, call.context.peer()
            self._access_log.add(call.method, status, reason, call.name, who, peer, call.request_id, took)


def _failure(error: BaseException, request_id: str) -> VaultError | None:
    """Return what the caller is answered, None if it left. An unexpected error goes to the log only."""
    if isinstance(error, VaultError):
        return error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():  # the caller hung up, or a deadline passed
            return None
        # else a task of our own was cancelled: without an answer the caller would wait for ever
    _log.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    return Internal()


def _decoded(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except DecodeError as error:
        if "alloc failed" in str(error):  # upb's words: the message may be fine, but there was no memory for it
            raise RateLimited from None
        raise InvalidRequest from None
