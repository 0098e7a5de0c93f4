"""One call to the server: connected, bounded in time, and retried with the same bytes where that is safe.

The rules of this file, which docs/clients.md has for every client:

* An attempt is one request; a call makes as many as its deadline allows, and nothing else bounds them.
* The deadline is gRPC's, which reports it to the server, and the loop's: a call that gRPC does not end is ended here.
* Once an attempt of a mutation is unknown, only success or a proof settles the mutation: the record is at another
  revision, and the server would have recognized ours. Anything else is OutcomeUnknown.
"""

import asyncio
import random
from typing import Any, Literal, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from keyvault_api.address import is_loopback
from keyvault_client.channel import Connector
from keyvault_client.connect_failures import ConnectFailures
from keyvault_client.errors import (
    Busy,
    InvalidRequest,
    KeyVaultError,
    OutcomeUnknown,
    ServerFailure,
    Unavailable,
    WrongRevision,
)
from keyvault_client.status import Failure, failure_of
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenSource, get_authorization

FIRST_WAIT, LONGEST_WAIT = 0.2, 2.0
"""Bounds, in seconds, of the random wait between two attempts. The bound doubles from the first to the longest."""
LEAST_ATTEMPT = 0.1
"""Seconds that the last attempt has at least: with less it would be sent and not answered."""
GRACE_SECONDS = 0.2
"""Seconds after the deadline that gRPC has to end a call. It has had faults by which some calls never returned."""

_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
_PROBE = "/grpc.health.v1.Health/Check"

Method: TypeAlias = Literal[
    "GenerateKey",
    "Create",
    "Read",
    "Update",
    "Delete",
    "RotateKey",
    "RewrapKey",
    "UnwrapKey",
    "BatchRead",
    "List",
    "ListRevisions",
    "WhoAmI",
]
_Response = TypeVar("_Response", bound=Message)


class _OutOfTime(Exception):
    """The deadline came before the request was sent."""


class _NoAnswer(Exception):
    """The request was sent, or may have been, and gRPC did not end the call at its deadline."""


class Backoff:
    """Random waits between attempts, with full jitter."""

    def __init__(self) -> None:
        self._bound = FIRST_WAIT

    def wait(self, remaining: float, retry_after: float = 0.0) -> float | None:
        """Return the next wait in seconds, at least `retry_after`; None if no time for an attempt is left after it."""
        left = remaining - retry_after - LEAST_ATTEMPT
        if left <= 0:
            return None
        bound, self._bound = min(self._bound, left), min(2 * self._bound, LONGEST_WAIT)
        return retry_after + random.uniform(0, bound)  # noqa: S311 - spreads load, hides nothing


class Transport:
    """The retry policy of calls. Belongs to one event loop."""

    def __init__(self, address: str, tls: TLS | None, *, insecure: bool, token: TokenSource | None = None) -> None:
        """Raises InvalidRequest for unusable TLS files, and for secrets that would leave this machine in plaintext."""
        if token is not None and tls is None and not is_loopback(address):
            raise InvalidRequest(f"refusing to send a token to {address} without TLS: give tls (--tls, --ca)")
        self._address = address
        self._tls = tls is not None
        self._connector = Connector(address, tls, insecure=insecure)
        self._token = token
        self._closed = False

    async def close(self) -> None:
        """Close the connection, which ends in-flight calls."""
        self._closed = True
        await self._connector.close()

    async def call(
        self, method: Method, request: Message, deadline: float, response: type[_Response], revision: int = 0
    ) -> _Response:
        """Attempt the call until it is answered or the loop's clock reaches `deadline`. Raises KeyVaultError.

        `revision` is that of the envelope in the request, 0 if the call changes nothing.
        """
        failures = ConnectFailures(self._address, tls=self._tls)
        backoff = Backoff()
        failure: Failure | None = None
        unknown = False
        cancellations = _cancellations()
        while True:
            try:
                answer = await self._attempt(method, request, deadline, failures)
                if isinstance(answer, response):
                    return answer
                failure = Failure(ServerFailure("the server's answer does not decode"), settled=False, retry=False)
            except grpc.aio.AioRpcError as failed:
                if _cancellations() > cancellations:  # gRPC raises a status that comes in the same moment
                    raise asyncio.CancelledError from None
                failure = failure_of(failed, method)
            except _NoAnswer:
                failure = Failure(Unavailable("the server did not answer in time"), settled=False, retry=False)
            except asyncio.CancelledError:
                if not self._closed or _cancellations() > cancellations:
                    raise
                failure = Failure(Unavailable("this client was closed"), settled=False, retry=False)
            except _OutOfTime as late:  # the cause of an earlier failure says more
                error = failure.error if failure else Unavailable(str(late))
                failure = Failure(error, settled=True, retry=False)
            except KeyVaultError as unsent:
                passing = isinstance(unsent, Unavailable) and not failures.lasting
                failure = Failure(unsent, settled=True, retry=passing and not self._closed)
            unknown |= not failure.settled
            wait = backoff.wait(remaining(deadline), retry_after(failure.error)) if failure.retry else None
            if wait is None:
                raise _final_error(failure.error, revision, unknown=unknown)
            await asyncio.sleep(wait)

    async def _attempt(self, method: Method, request: Message, deadline: float, failures: ConnectFailures) -> Message:
        """Send the request once.

        Raises AioRpcError and _NoAnswer only if it was sent; _OutOfTime and KeyVaultError if it was not.
        """
        async with self._connector.connection() as connection:  # first: elsewhere it refuses at once
            metadata = await self._authorization(deadline)
            await self._connect(connection.channel, deadline, failures)
            call = getattr(connection.stub, method)
            try:
                async with asyncio.timeout_at(deadline + GRACE_SECONDS):
                    answer: Message = await call(request, timeout=remaining(deadline), metadata=metadata)
            except TimeoutError:
                raise _NoAnswer from None
        return answer

    async def _authorization(self, deadline: float) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        try:
            async with asyncio.timeout(remaining(deadline)):
                return await get_authorization(self._token)
        except TimeoutError:
            raise _OutOfTime("timed out while getting a token; the request was not sent") from None

    async def _connect(self, channel: grpc.aio.Channel, deadline: float, failures: ConnectFailures) -> None:
        """Wait until the channel is connected. Raises Unavailable and _OutOfTime: the request was not sent."""
        if not remaining(deadline):
            raise _OutOfTime("timed out before the request was sent")
        if channel.get_state() is _READY:
            return
        try:
            async with asyncio.timeout(remaining(deadline)):
                while (state := channel.get_state(try_to_connect=True)) is not _READY:
                    if state is _SHUTDOWN:
                        raise Unavailable("this client is closed; the request was not sent")
                    if state is _FAILED:
                        details = await _failure_of(channel)
                        if channel.get_state() is _READY:
                            return
                        raise Unavailable(failures.explain(details))
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise _OutOfTime(f"timed out while connecting to {self._address}") from None


async def _failure_of(channel: grpc.aio.Channel) -> str:
    """Return gRPC's message about a failed connection. Only a call that fails for want of a connection has it.

    If the connection comes up at this moment, the call is sent. Hence it is one that changes nothing.
    """
    probe: Any = channel.unary_unary(_PROBE)
    try:
        await probe(b"", timeout=1)
    except grpc.aio.AioRpcError as failed:
        return failed.details() or ""
    except grpc.aio.UsageError:  # the client was closed in the meantime
        return ""
    return ""


def deadline_in(seconds: float) -> float:
    """Return a time of the running loop's clock."""
    return asyncio.get_running_loop().time() + seconds


def remaining(deadline: float) -> float:
    """Return the seconds until a time of the running loop's clock, 0 if it has passed."""
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _cancellations() -> int:
    """Return how often this task was cancelled. gRPC raises CancelledError, too, for a channel that is closed."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def retry_after(error: KeyVaultError) -> float:
    """Return the seconds that the server wants to be left alone."""
    return error.retry_after if isinstance(error, Busy) else 0.0


def _final_error(error: KeyVaultError, revision: int, *, unknown: bool) -> KeyVaultError:
    """Return the error to raise for a call: OutcomeUnknown if one of its attempts may have changed the record."""
    if not (revision and unknown) or _proves_absence(error, revision):
        return error
    outcome = OutcomeUnknown(
        f"the outcome of the change to revision {revision} is unknown ({error}): read the record to see",
        reason=error.reason,
        request_id=error.request_id,
    )
    outcome.__cause__ = error
    return outcome


def _proves_absence(error: KeyVaultError, revision: int) -> bool:
    """Report whether the server would have recognized the envelope of this revision, had it accepted it before."""
    if not isinstance(error, WrongRevision) or error.remembered_since is None:
        return False
    return error.remembered_since <= revision <= error.current_revision
