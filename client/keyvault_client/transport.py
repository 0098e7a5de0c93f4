"""One call to the server: connected, bounded in time, sent again with the same bytes where that is right.

The rule of this file: once a mutation was sent and not answered, only success or a look at the record may answer it;
anything else is OutcomeUnknown. The server knows an envelope by its digest among the last 16 of a record, so sending
the same bytes again never does a thing twice, and a revision less than 16 above ours proves that ours was refused.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from keyvault.address import is_loopback
from keyvault.names import MAX_MESSAGE
from keyvault.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client.errors import Busy, InvalidRequest, KeyVaultError, OutcomeUnknown, Unavailable, WrongRevision
from keyvault_client.status import error_of

ATTEMPTS = 6
"""Times that one call is tried; with the waits between, about 3 s of a server's absence are bridged."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
RING = 16
"""Envelopes by which a record knows a replay."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # ours know which answer means what
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_READY = grpc.ChannelConnectivity.READY
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files of a TLS connection. The server is always verified, against the system's roots if `ca` is None."""

    ca: str | Path | None = None
    certificate: str | Path | None = None
    """The client's chain, where the server asks for one; together with `private_key`."""
    private_key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel. Raises OSError for a file that cannot be read."""
        read = [Path(path).read_bytes() if path else None for path in (self.ca, self.private_key, self.certificate)]
        return grpc.ssl_channel_credentials(*read)


class Transport:
    """A channel, and the policy of its calls. Belongs to one event loop."""

    def __init__(self, address: str, tls: TLS | None, *, insecure: bool) -> None:
        if tls is None and not insecure and not is_loopback(address):
            raise InvalidRequest(f"{address} is not this machine: give tls, or insecure=True to send secrets in clear")
        self._address = address
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, tls.credentials(), options=_OPTIONS)
        self.stub = KeyVaultStub(self._channel)

    async def close(self) -> None:
        """Ends the calls at work and the connection."""
        await self._channel.close()

    async def call(
        self, method: Callable[..., Any], request: Message, deadline: float, response: type[_Response], sealed: int = 0
    ) -> _Response:
        """Calls until it is answered or the loop's clock reaches `deadline`. Raises KeyVaultError.

        `sealed` is the revision of the envelope in the request, 0 if the call changes nothing.
        """
        sent_unanswered = False
        for attempt in range(1, ATTEMPTS + 1):
            connected = False
            try:
                await self._connect(deadline)
                connected = True
                answer = await method(request, timeout=_left(deadline))
                assert isinstance(answer, response)
                return answer
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
            except Unavailable as unreached:
                error = unreached
            sent_unanswered |= connected and isinstance(error, Unavailable)
            wait = _wait_before_retry(error, attempt)
            if wait is None or wait >= _left(deadline):
                break
            await asyncio.sleep(wait)
        raise _verdict(error, sealed, sent_unanswered=sent_unanswered)

    async def _connect(self, deadline: float) -> None:
        """Returns with a connection. Raises Unavailable: nothing was sent then, which a failed call cannot tell."""
        if not _left(deadline):
            raise Unavailable("no time is left to try again")
        if self._channel.get_state() is _READY:
            return
        try:
            async with asyncio.timeout(_left(deadline)):
                while (state := self._channel.get_state(try_to_connect=True)) is not _READY:
                    if state in _FAILED:
                        raise Unavailable(f"no connection to {self._address}: is a server there, and does TLS fit it?")
                    await self._channel.wait_for_state_change(state)
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
