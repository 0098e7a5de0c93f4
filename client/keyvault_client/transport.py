"""One call to the server: connected, bounded in time, sent again with the same bytes where that is right.

The rule of this file: once a mutation was sent and not answered, only success or a look at the record may answer it;
anything else is OutcomeUnknown. The server knows an envelope by its digest among the last 16 of a record, so sending
the same bytes again never does a thing twice, and a revision less than 16 above ours proves that ours was refused.
"""

import asyncio
import random
from typing import Literal, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from keyvault_api.address import is_loopback
from keyvault_client.channel import Connections
from keyvault_client.errors import Busy, InvalidRequest, KeyVaultError, OutcomeUnknown, Unavailable, WrongRevision
from keyvault_client.status import error_of
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenSource, authorization

ATTEMPTS = 6
"""Times that one call is tried; with the waits between, about 3 s of a server's absence are bridged."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
RING = 16
"""Envelopes by which a record knows a replay."""

_READY = grpc.ChannelConnectivity.READY
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)

Method: TypeAlias = Literal["GenerateKey", "Create", "Read", "Update", "Delete", "RotateKey", "RewrapKey", "UnwrapKey"]
_Response = TypeVar("_Response", bound=Message)


class Transport:
    """The policy of calls. Belongs to one event loop."""

    def __init__(self, address: str, tls: TLS | None, *, insecure: bool, token: TokenSource | None = None) -> None:
        """Raises InvalidRequest for what would go in clear to another machine, and for bad TLS files."""
        if token is not None and tls is None and not is_loopback(address):
            raise InvalidRequest(f"{address} is not this machine: a token is sent in TLS only, give tls")
        self._address = address
        self._connections = Connections(address, tls, insecure=insecure)
        self._token = token

    async def close(self) -> None:
        """Ends the calls at work and the connection."""
        await self._connections.close()

    async def call(
        self, method: Method, request: Message, deadline: float, response: type[_Response], sealed: int = 0
    ) -> _Response:
        """Calls until it is answered or the loop's clock reaches `deadline`. Raises KeyVaultError.

        `sealed` is the revision of the envelope in the request, 0 if the call changes nothing.
        """
        sent_unanswered = False
        for attempt in range(1, ATTEMPTS + 1):
            connected = False
            try:
                metadata = await self._authorization(deadline)
                async with self._connections.at_hand() as connection:
                    await self._connect(connection.channel, deadline)
                    connected = True
                    call = getattr(connection.stub, method)
                    answer = await call(request, timeout=_left(deadline), metadata=metadata)
                assert isinstance(answer, response)
                return answer
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
            except KeyVaultError as unsent:
                error = unsent
            sent_unanswered |= connected and isinstance(error, Unavailable)
            wait = _wait_before_retry(error, attempt)
            if wait is None or wait >= _left(deadline):
                break
            await asyncio.sleep(wait)
            if not _left(deadline):
                break  # and tell what went wrong, which says more than that time is up
        raise _verdict(error, sealed, sent_unanswered=sent_unanswered)

    async def _authorization(self, deadline: float) -> tuple[tuple[str, str], ...]:
        if self._token is None:
            return ()
        try:
            async with asyncio.timeout(_left(deadline)):
                return await authorization(self._token)
        except TimeoutError:
            raise Unavailable("no token was to be had in time: nothing was sent") from None

    async def _connect(self, channel: grpc.aio.Channel, deadline: float) -> None:
        """Returns with a connection. Raises Unavailable: nothing was sent then, which a failed call cannot tell."""
        if not _left(deadline):
            raise Unavailable("no time is left to try again")
        if channel.get_state() is _READY:
            return
        try:
            async with asyncio.timeout(_left(deadline)):
                while (state := channel.get_state(try_to_connect=True)) is not _READY:
                    if state in _FAILED:
                        raise Unavailable(
                            f"no connection to {self._address}: is a server there, does TLS fit it, "
                            "and does it know your certificate?"
                        )
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise Unavailable(f"no connection to {self._address} in time") from None


def deadline_in(seconds: float) -> float:
    """A time of the running loop's clock."""
    return asyncio.get_running_loop().time() + seconds


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _wait_before_retry(error: KeyVaultError, attempt: int) -> float | None:
    """Seconds, by full jitter; None if the error is an answer or enough was tried."""
    if attempt == ATTEMPTS or not isinstance(error, (Unavailable, Busy)) or error.reason == "STORE_FULL":
        return None
    jitter = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt))  # noqa: S311 - spreads load, hides nothing
    return jitter + (error.retry_after if isinstance(error, Busy) else 0.0)


def _verdict(error: KeyVaultError, sealed: int, *, sent_unanswered: bool) -> KeyVaultError:
    if not (sealed and sent_unanswered):
        return error
    if isinstance(error, WrongRevision) and error.current_revision - sealed < RING:
        return error
    unknown = OutcomeUnknown(
        f"the mutation was sent and its outcome is not known ({error}): read the record to see",
        reason=error.reason,
        request_id=error.request_id,
    )
    unknown.__cause__ = error
    return unknown
