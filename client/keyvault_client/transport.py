"""One call to the server: connected, bounded in time, and retried with the same bytes where that is safe.

The rule of this file: once a mutation was sent and not answered, only success or a proof that it was refused may answer
it; anything else is OutcomeUnknown. A record remembers the digests of its last 16 envelopes. So a retry with the same
bytes never acts twice, and a current revision less than 16 above ours proves that ours was refused.
"""

import asyncio
import random
from typing import Any, Literal, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from keyvault_api.address import is_loopback
from keyvault_api.names import REMEMBERED_ENVELOPES
from keyvault_client.channel import Connector
from keyvault_client.connect_failures import ConnectFailures
from keyvault_client.errors import Busy, InvalidRequest, KeyVaultError, OutcomeUnknown, Unavailable, WrongRevision
from keyvault_client.status import error_of
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenSource, get_authorization

ATTEMPTS = 6
"""Most attempts of one call. With the waits between them they bridge about 3 s without a server."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Bounds, in seconds, of the random wait between two attempts."""

_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
_PROBE = "/grpc.health.v1.Health/Check"

Method: TypeAlias = Literal["GenerateKey", "Create", "Read", "Update", "Delete", "RotateKey", "RewrapKey", "UnwrapKey"]
_Response = TypeVar("_Response", bound=Message)


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

    async def close(self) -> None:
        """Close the connection, which ends in-flight calls."""
        await self._connector.close()

    async def call(
        self, method: Method, request: Message, deadline: float, response: type[_Response], revision: int = 0
    ) -> _Response:
        """Attempt the call until it is answered or the loop's clock reaches `deadline`. Raises KeyVaultError.

        `revision` is that of the envelope in the request, 0 if the call changes nothing.
        """
        sent_unanswered = False
        failures = ConnectFailures(self._address, tls=self._tls)
        for attempt in range(1, ATTEMPTS + 1):
            connected = False
            try:
                metadata = await self._authorization(deadline)
                async with self._connector.connection() as connection:
                    await self._connect(connection.channel, deadline, failures)
                    connected = True
                    call = getattr(connection.stub, method)
                    answer = await call(request, timeout=_remaining(deadline), metadata=metadata)
                assert isinstance(answer, response)
                return answer
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
            except KeyVaultError as unsent:
                error = unsent
            sent_unanswered |= connected and isinstance(error, Unavailable)
            wait = _wait_before_retry(error, attempt)
            if wait is None or wait >= _remaining(deadline):
                break
            await asyncio.sleep(wait)
            if not _remaining(deadline):
                break  # the last error says more than a timeout would
        raise _final_error(error, revision, sent_unanswered=sent_unanswered)

    async def _authorization(self, deadline: float) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        try:
            async with asyncio.timeout(_remaining(deadline)):
                return await get_authorization(self._token)
        except TimeoutError:
            raise Unavailable("timed out while getting a token; the request was not sent") from None

    async def _connect(self, channel: grpc.aio.Channel, deadline: float, failures: ConnectFailures) -> None:
        """Wait until the channel is connected. Raises Unavailable, which proves that the request was not sent."""
        if not _remaining(deadline):
            raise Unavailable("timed out before the request was sent")
        if channel.get_state() is _READY:
            return
        try:
            async with asyncio.timeout(_remaining(deadline)):
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
            raise Unavailable(f"timed out while connecting to {self._address}") from None


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


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _wait_before_retry(error: KeyVaultError, attempt: int) -> float | None:
    """Return the seconds to wait, with full jitter; None if the error is final or the attempts are used up."""
    if attempt == ATTEMPTS or not isinstance(error, (Unavailable, Busy)) or error.reason == "STORE_FULL":
        return None
    jitter = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt))  # noqa: S311 - spreads load, hides nothing
    return jitter + (error.retry_after if isinstance(error, Busy) else 0.0)


def _final_error(error: KeyVaultError, revision: int, *, sent_unanswered: bool) -> KeyVaultError:
    """Return the error to raise: OutcomeUnknown if an earlier attempt may have changed the record."""
    if not (revision and sent_unanswered):
        return error
    if isinstance(error, WrongRevision) and error.current_revision - revision < REMEMBERED_ENVELOPES:
        return error
    unknown = OutcomeUnknown(
        f"the outcome of the change is unknown ({error}): read the record to see",
        reason=error.reason,
        request_id=error.request_id,
    )
    unknown.__cause__ = error
    return unknown
