"""Lifecycle: open the backend, serve, and stop in order (drain.py)."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import grpc

from keyvault_api.address import is_loopback
from keyvault_server.access.tls import ServerTls
from keyvault_server.core.background import in_background
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.core.vault import Vault
from keyvault_server.disk.stepping_back import Workers
from keyvault_server.disk.watched import Reloadable
from keyvault_server.operations.composition import open_backend, open_gate, server_tls
from keyvault_server.operations.drain import Drain, drain
from keyvault_server.operations.listening import bind, refuse_taken
from keyvault_server.operations.memory import give_back
from keyvault_server.operations.open_files import Room, room_for_connections
from keyvault_server.operations.settings import Settings
from keyvault_server.operations.threads import keep_lowered
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.connections import MaxConnections, OpenConnections
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import CallGuard, Limits
from keyvault_server.rpc.handshakes import RefusedHandshakes
from keyvault_server.rpc.health import Backend, Readiness
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.metrics_port import serve_metrics
from keyvault_server.rpc.server import CONNECTION_LIMITS, admin_server, main_server
from keyvault_server.rpc.slots import Slots

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """The ports of a server that is running."""

    port: int
    """Port of the service; 0 for a unix socket."""
    admin_port: int | None
    """Port of health alone."""
    metrics_port: int | None
    """Port that Prometheus scrapes."""
    followed: tuple[Reloadable, ...] = ()
    """The files, and the key set at a URL, that the server follows."""
    is_ready: Callable[[], bool] = lambda: True
    """Returns whether the backends answered lately."""


Turn = Callable[[], Awaitable[str]]
"""Returns the address that a worker listens on, next to others, once all of them may."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a running server is asked to do."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Wait no longer for the in-flight calls."""
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def follow_signals(self, on_stop: Callable[[], None]) -> None:
        """Call `on_stop` at SIGTERM and SIGINT from now on, and reload at SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    async def reload_when_asked(self, reload: Callable[[], Awaitable[object]]) -> None:
        """Call `reload` each time that it is asked for."""
        while True:
            await self.reload.wait()
            self.reload.clear()
            await reload()

    def stop_or_hurry(self) -> None:
        """Stop; hurry if it stops already."""
        (self.hurry if self.stop.is_set() else self.stop).set()


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    hurry: asyncio.Event | None = None,
    metrics: Metrics | None = None,
    turn: Turn | None = None,
) -> AsyncIterator[Running]:
    """Run a ready server on the configured backend while the body runs; see `serving`."""
    for address in () if turn else filter(None, (settings.listen, settings.admin_listen)):
        refuse_taken(address)
    metrics = metrics or Metrics()
    async with (
        open_backend(settings, metrics) as (keys, records),
        serving(settings, keys, records, hurry, metrics, turn) as server,
    ):
        yield server


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    keys: KeyService,
    records: RecordStore,
    hurry: asyncio.Event | None = None,
    metrics: Metrics | None = None,
    turn: Turn | None = None,
) -> AsyncIterator[Running]:
    """Run a ready server on these two ports while the body runs, and stop it in order afterwards.

    `hurry`, once set, cuts the wait for the in-flight calls short. `metrics` may count other things already. `turn` is
    that of a worker; without one, the server listens alone.

    Raises OperatorError.
    """
    metrics = metrics or Metrics()
    limits = Limits(settings.concurrent_calls, settings.call_seconds).divided(settings.workers)
    waits = Drain(0.0, 0.0)  # until it serves: a start that fails has nobody to wait for
    async with open_gate(settings, metrics) as gate:
        access_log = AccessLog(sys.stderr) if settings.access_log else None
        guard = CallGuard(limits, gate, metrics, access_log)
        readiness = Readiness(*_backends(keys, records, gate), interval=settings.readiness_seconds)
        metrics.gauge("ready", "1: the backends answered lately.", lambda: readiness.ready, "min")
        vault = Vault(
            keys,
            records,
            unwrap_scopes=settings.unwrap_scopes,
            history=settings.history,
            holding=Slots(limits.held_records),
        )
        room = room_for_connections(settings)
        server, admin = _servers(settings, vault, guard, readiness, room, shares_port=turn is not None)
        connections = _counted(guard, metrics)
        # The files of TLS come first: a start that they refuse must not say that it is ready.
        async with _followed_tls(settings, metrics) as tls, readiness.watching():
            with serve_metrics(metrics, settings.metrics_listen) as metrics_port:
                try:
                    port, admin_port = await _listen(settings, server, admin, tls, turn)
                    waits = Drain(settings.drain_delay_seconds, settings.drain_seconds)
                    async with connections.watching(_most(settings, room, port, admin_port)):
                        followed = _followed(gate, tls)
                        yield Running(port, admin_port, metrics_port, followed, lambda: readiness.ready)
                finally:
                    await drain(waits, server, guard, readiness, hurry or asyncio.Event())
                    await admin.stop(None)
                    if access_log:
                        access_log.close()


def _servers(
    settings: Settings, vault: Vault, guard: CallGuard, readiness: Readiness, room: Room, *, shares_port: bool
) -> tuple[grpc.aio.Server, grpc.aio.Server]:
    """Return the servers of the service and of health alone, which do not listen yet."""
    service, admin = (replace(CONNECTION_LIMITS, accepted=accepted) for accepted in (room.service, room.admin))
    server = main_server(
        vault,
        guard,
        readiness.servicer,
        reflects=_reflects(settings),
        connections=service,
        shares_port=shares_port,
    )
    return server, admin_server(readiness.servicer, guard.metadata, admin)


async def _listen(
    settings: Settings, server: grpc.aio.Server, admin: grpc.aio.Server, tls: ServerTls | None, turn: Turn | None
) -> tuple[int, int | None]:
    """Start both servers on their addresses; return their ports. Raises CannotListen."""
    address = await turn() if turn else settings.listen
    credentials = tls.credentials() if tls else None
    port = bind(server, address, settings.socket_mode, credentials, shares_port=turn is not None)
    admin_port = bind(admin, settings.admin_listen, settings.socket_mode) if settings.admin_listen else None
    await server.start()
    await admin.start()
    return port, admin_port


async def serve(settings: Settings, announce: Callable[[Running], None], handshakes: RefusedHandshakes) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts the drain short. SIGHUP reloads. Raises as `running`."""
    orders = Orders()
    orders.follow_signals(orders.stop_or_hurry)
    await serve_until_stopped(settings, orders, Metrics(), handshakes, announce)


async def serve_until_stopped(
    settings: Settings,
    orders: Orders,
    metrics: Metrics,
    handshakes: RefusedHandshakes,
    announce: Callable[[Running], None],
    turn: Turn | None = None,
) -> None:
    """Serve until the orders say stop; `announce` is called once the server is ready. Raises as `running`."""
    metrics.counters("tls_handshakes_refused", "TLS handshakes that failed.", "reason", handshakes.by_reason)
    asyncio.get_running_loop().set_default_executor(Workers(name="keyvault-worker"))
    async with (
        running(settings, orders.hurry, metrics, turn) as server,
        in_background(orders.reload_when_asked(partial(_reload, server.followed))),
        in_background(give_back()),
        in_background(keep_lowered()),
    ):
        announce(server)
        await orders.stop.wait()
        _log.info("stopping")
    _log.info("stopped")


def _reflects(settings: Settings) -> bool:
    return is_loopback(settings.listen) if settings.reflection is None else settings.reflection


def _counted(guard: CallGuard, metrics: Metrics) -> OpenConnections:
    """Return the connections of this guard's callers; show what was cut and what came half."""
    connections = OpenConnections(guard.peers, guard.replies.cuts)
    metrics.gauge("connections", "Open connections, at the last look.", lambda: connections.number, "sum")
    metrics.counters("connections_cut", "Connections that the server cut.", "reason", guard.replies.cuts)
    half_sent = guard.receiving.half_sent
    metrics.counters("half_sent_calls", "Calls that ended without their message.", "reason", half_sent)
    return connections


def _most(settings: Settings, room: Room, port: int, admin_port: int | None) -> MaxConnections:
    """Return the limits of the connections. They are below gRPC's, so that newcomers get in between two looks."""
    fits = {port: room.service - room.service // 8}
    if admin_port is not None:
        fits[admin_port] = room.admin - room.admin // 8
    wanted = settings.connections
    if wanted > fits[port]:
        _log.warning("KEYVAULT_CONNECTIONS is lowered: raise the limit of open files", extra={"to": fits[port]})
    of_port = {port: min(wanted, fit) if wanted else fit for port, fit in fits.items() if port}
    return MaxConnections(of_port, settings.connections_per_address)


def _backends(keys: KeyService, records: RecordStore, gate: Gatekeeper) -> list[Backend]:
    """Return what has to answer for the server to be ready."""
    return [keys, records, *([gate.audit] if gate.audit else [])]


@contextlib.asynccontextmanager
async def _followed_tls(settings: Settings, metrics: Metrics) -> AsyncIterator[ServerTls | None]:
    """Follow the service's TLS files while the body runs; None: plaintext."""
    tls = server_tls(settings, metrics)
    if tls is None:
        yield None
        return
    expiry = "When the certificate expires, since 1970."
    metrics.gauge("tls_certificate_expiry_seconds", expiry, lambda: tls.expires, "min")
    async with tls.files.watching():
        yield tls


def _followed(gate: Gatekeeper, tls: ServerTls | None) -> tuple[Reloadable, ...]:
    tokens = gate.identifier.tokens if gate.identifier else None
    return tuple(one for one in (gate.policy, tokens, tls.files if tls else None) if one is not None)


async def _reload(followed: Sequence[Reloadable]) -> None:
    _log.info("SIGHUP: reloading" if followed else "SIGHUP: this server follows no files")
    await asyncio.gather(*(one.reload() for one in followed))
