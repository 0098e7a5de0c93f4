"""The connection to the server: one at a time, and another one when its TLS files change.

The rule of this file: gRPC cannot take other certificates over on a channel, so a channel is made anew. Calls at work
on the old one finish there, and it is closed after the last of them. Files that cannot be used leave the old one.
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

import grpc

from keyvault_api.address import is_loopback
from keyvault_api.names import MAX_MESSAGE
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client.changes import Changes
from keyvault_client.errors import InvalidRequest
from keyvault_client.tls import TLS

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # ours know which answer means what
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_NO_PROXY = (("grpc.enable_http_proxy", 0),)  # a proxy of the environment would see what stays on this machine

_log = logging.getLogger(__name__)


class Connection:
    """A channel, its stub, and how many calls are at work on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = KeyVaultStub(channel)
        self.calls = 0


class Connections:
    """The connection for the next call, and those that older calls are still on. Belongs to one event loop."""

    def __init__(
        self, address: str, tls: TLS | None, *, insecure: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises InvalidRequest for plaintext to another machine that was not asked for, and for bad TLS files."""
        if address.startswith(("http:", "https:")):
            raise InvalidRequest("an address has no scheme: host:port or unix:/path, and TLS by tls (--tls, --ca)")
        if tls is None and not insecure and not is_loopback(address):
            raise InvalidRequest(
                f"{address} is not this machine: give tls (--tls, --ca), "
                "or insecure=True (--insecure) to send secrets in clear"
            )
        self._address = address
        self._tls = tls
        self._changes = Changes(tls.paths() if tls else (), clock)
        self._current = self._made()
        self._old: set[Connection] = set()

    @contextlib.asynccontextmanager
    async def at_hand(self) -> AsyncIterator[Connection]:
        """The connection for one call, kept open until the body ends."""
        if self._changes.seen():
            await self._renew()
        connection = self._current
        connection.calls += 1
        try:
            yield connection
        finally:
            connection.calls -= 1
            await self._close_idle()

    async def close(self) -> None:
        """Ends the calls at work and every connection."""
        for connection in (self._current, *self._old):
            await connection.channel.close()
        self._old.clear()

    def _made(self) -> Connection:
        if self._tls is not None:
            return Connection(grpc.aio.secure_channel(self._address, self._tls.credentials(), options=_OPTIONS))
        options = _OPTIONS + _NO_PROXY if is_loopback(self._address) else _OPTIONS
        return Connection(grpc.aio.insecure_channel(self._address, options=options))

    async def _renew(self) -> None:
        try:
            new = self._made()
        except InvalidRequest as error:
            _log.error("%s: the connection that there is stays in use", error)
            return
        self._old.add(self._current)
        self._current = new
        await self._close_idle()

    async def _close_idle(self) -> None:
        for connection in [one for one in self._old if not one.calls]:
            self._old.discard(connection)
            await connection.channel.close()
