"""The connection to the server: one for new calls, and a new one when its TLS files change.

The rule of this file: a gRPC channel cannot take new certificates, so changed files need a new channel. In-flight calls
finish on the old one, which is closed after the last of them. If the changed files are unusable, the old one stays.
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

import grpc

from keyvault_api.address import is_loopback
from keyvault_api.names import MAX_MESSAGE
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client.errors import InvalidRequest
from keyvault_client.file_changes import FileChanges
from keyvault_client.tls import TLS

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # transport.py retries: it knows what each answer means
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_NO_PROXY = (("grpc.enable_http_proxy", 0),)  # a proxy from the environment would see local plaintext

_log = logging.getLogger(__name__)


class Connection:
    """A channel, its stub, and the number of its in-flight calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = KeyVaultStub(channel)
        self.in_flight = 0


class Connector:
    """Gives the connection for each call, and closes replaced ones. Belongs to one event loop."""

    def __init__(
        self, address: str, tls: TLS | None, *, insecure: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises InvalidRequest for unusable TLS files, and for plaintext to another machine without `insecure`."""
        if address.startswith(("http:", "https:")):
            raise InvalidRequest(
                f"invalid address {address}: write host:port or unix:/path, and give tls (--tls, --ca) for TLS"
            )
        if tls is None and not insecure and not is_loopback(address):
            raise InvalidRequest(
                f"refusing plaintext to another machine ({address}): give tls (--tls, --ca), "
                "or insecure=True (--insecure) to send keys unencrypted"
            )
        self._address = address
        self._tls = tls
        self._tls_changes = FileChanges(tls.paths() if tls else (), clock)
        self._current = self._open_connection()
        self._replaced: set[Connection] = set()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Give the connection for one call, and keep it open until the body ends."""
        if self._tls_changes.detected():
            await self._replace_current()
        connection = self._current
        connection.in_flight += 1
        try:
            yield connection
        finally:
            connection.in_flight -= 1
            await self._close_replaced()

    async def close(self) -> None:
        """Close every connection, which ends in-flight calls."""
        for connection in (self._current, *self._replaced):
            await connection.channel.close()
        self._replaced.clear()

    def _open_connection(self) -> Connection:
        if self._tls is not None:
            return Connection(grpc.aio.secure_channel(self._address, self._tls.credentials(), options=_OPTIONS))
        options = _OPTIONS + _NO_PROXY if is_loopback(self._address) else _OPTIONS
        return Connection(grpc.aio.insecure_channel(self._address, options=options))

    async def _replace_current(self) -> None:
        try:
            new = self._open_connection()
        except InvalidRequest as error:
            _log.error("reload failed: %s; keeping the current connection", error)
            return
        self._replaced.add(self._current)
        self._current = new
        await self._close_replaced()

    async def _close_replaced(self) -> None:
        for connection in [one for one in self._replaced if not one.in_flight]:
            self._replaced.discard(connection)
            await connection.channel.close()
