"""The connection to the server: one for new calls, and a new one when its TLS files change.

The rules of this file:

* A gRPC channel cannot take new certificates, so changed files need a new channel. In-flight calls finish on the old
  one, which is closed after the last of them. If the changed files are unusable, the old one stays.
* A gRPC channel belongs to the process and the event loop that made it. It is made at the first call, and a call from
  elsewhere is refused: it would hang, or fail in the middle of gRPC.
* A connection that does not answer within FORGOTTEN_SECONDS is left: a middlebox may have forgotten it.
"""

import asyncio
import contextlib
import datetime
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc

from keyvault_api.address import is_loopback
from keyvault_api.names import MAX_MESSAGE, MAX_REPLY
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client.addresses import check_address
from keyvault_client.errors import InvalidRequest, Unavailable, WrongEventLoop
from keyvault_client.file_changes import FileChanges
from keyvault_client.forks import note_connection, refuse_inherited_connections
from keyvault_client.tls import TLS

FORGOTTEN_SECONDS = 5
"""Seconds after which a connection is left that acknowledges no data or answers no ping."""

_Options: TypeAlias = tuple[tuple[str, int | str], ...]

_OPTIONS: _Options = (
    ("grpc.max_receive_message_length", MAX_REPLY),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # transport.py retries: it knows what each answer means
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # After 10 s without data, the least that the server accepts, comes a ping, in idle connections too: it keeps a flow
    # in a middlebox's memory. The timeout also bounds unacknowledged data (TCP_USER_TIMEOUT).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_timeout_ms", FORGOTTEN_SECONDS * 1000),
    ("grpc.http2.ping_timeout_ms", FORGOTTEN_SECONDS * 1000),  # without it a ping may take a minute
    ("grpc.use_local_subchannel_pool", 1),  # else a new client gets the connection of another one, dead or not
)
_ROUND_ROBIN = (("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),)
"""Spreads calls over all addresses of a name. gRPC's default is one connection, to the first address that answers."""
_NO_PROXY = (("grpc.enable_http_proxy", 0),)  # a proxy from the environment would see local plaintext

_log = logging.getLogger(__name__)


class Connection:
    """A channel, its stub, whether it is closed, and the number of its in-flight calls."""

    def __init__(self, channel: grpc.aio.Channel, expiry: datetime.datetime | None = None) -> None:
        """`expiry` is that of the certificate which the channel shows."""
        self.channel = channel
        self._expiry = expiry
        self.stub = KeyVaultStub(channel)
        self.in_flight = 0
        self.closed = False
        note_connection(self)

    async def close(self) -> None:
        """End its calls."""
        self.closed = True
        await self.channel.close()

    def refuse_expired(self) -> None:
        """Raise InvalidRequest if the certificate has expired and the channel would have to show it once more."""
        if self._expiry is None or self._expiry > datetime.datetime.now(datetime.UTC):
            return
        if self.channel.get_state() is not grpc.ChannelConnectivity.READY:
            raise InvalidRequest(f"the client certificate expired at {self._expiry}: get a new one")


class Connector:
    """Gives the connection for each call, and closes replaced ones. Belongs to the event loop of the first call."""

    def __init__(
        self,
        address: str,
        tls: TLS | None,
        *,
        insecure: bool,
        clock: Callable[[], float] = time.monotonic,
        file_clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises InvalidRequest for an invalid address, unusable TLS files, and plaintext to another machine.

        See FileChanges for the clocks.
        """
        check_address(address, tls=tls is not None, insecure=insecure)
        if tls is not None:
            tls.check()
        self._address = address
        self._tls = tls
        self._tls_changes = FileChanges(tls.paths() if tls else (), clock, file_clock)
        self._current: Connection | None = None
        self._replaced: set[Connection] = set()
        self._logged = ""
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Give the connection for one call, and keep it open until the body ends.

        Raises WrongEventLoop, WrongProcess, Unavailable if this is closed, and InvalidRequest for files that became
        unusable before the first call, or a certificate that has expired since.
        """
        connection = await self._usable()
        connection.in_flight += 1
        try:
            yield connection
        finally:
            connection.in_flight -= 1
            await self._close_replaced()

    async def close(self) -> None:
        """Close every connection, which ends in-flight calls. Elsewhere than in its loop it only forgets them."""
        self._closed = True
        connections = [*self._replaced, *([self._current] if self._current else [])]
        self._replaced.clear()
        self._current = None  # gRPC stops when its last channel is freed: then this process may be forked
        if self._owner in (None, _here()):
            for connection in connections:
                await connection.close()

    async def _usable(self) -> Connection:
        """Return the connection for the next call: the first one, the current one, or one with changed files."""
        if self._closed:
            raise Unavailable("this client is closed; the request was not sent")
        refuse_inherited_connections()
        if self._current is None:
            self._current = self._open_connection()
            self._owner = _here()
        elif self._owner != _here():
            raise WrongEventLoop(
                "this client was used in another event loop or process: make one for each, or share one event loop"
            )
        elif self._tls_changes.detected():
            await self._replace(self._current)
        self._current.refuse_expired()
        return self._current

    def _open_connection(self) -> Connection:
        options: _Options = (*_OPTIONS, *(_ROUND_ROBIN if self._address.startswith("dns:") else ()))
        if self._tls is not None:
            options = (*options, *self._tls.options())
            channel = grpc.aio.secure_channel(self._address, self._tls.credentials(), options=options)
            return Connection(channel, self._tls.expiry())
        if is_loopback(self._address):
            options = (*options, *_NO_PROXY)
        return Connection(grpc.aio.insecure_channel(self._address, options=options))

    async def _replace(self, current: Connection) -> None:
        """Open a connection with the changed files. What changed while it was read is read later."""
        try:
            new = self._open_connection()
        except InvalidRequest as error:
            if not self._tls_changes.unchanged():
                return
            if str(error) != self._logged:
                _log.error("reload failed: %s; keeping the current connection", error)
            self._logged = str(error)
            self._tls_changes.forget()  # time may make them valid, such as a certificate that begins in a second
            return
        if not self._tls_changes.unchanged():
            await new.close()
            return
        self._logged = ""
        self._replaced.add(current)
        self._current = new
        await self._close_replaced()

    async def _close_replaced(self) -> None:
        for connection in [one for one in self._replaced if not one.in_flight]:
            self._replaced.discard(connection)
            await connection.close()


def _here() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()
