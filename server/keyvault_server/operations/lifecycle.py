"""Lifecycle: opens the backend, serves, and stops in order without losing a call.

Stopping: NOT_SERVING -> (drain delay) -> calls that come are refused -> the calls at work finish, their cleaning up and
their replies included -> connections closed -> health -> backends closed. The guard counts, since `Server.stop` waits
for no cleaning up; and connections are closed last, since `stop` closes each right behind its last reply, which a TCP
reset then may overtake (RFC 1122, 4.2.2.13). A call that comes too late is UNAVAILABLE, or CANCELLED if grpc's core
never handed it over: untouched, so callers send it again. A second signal cuts the wait short.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from keyvault_api.address import is_loopback
from keyvault_api.names import MAX_MESSAGE
from keyvault_api.v1 import keyvault_pb2, keyvault_pb2_grpc
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.core.vault import Vault
from keyvault_server.operations.composition import open_backend, open_gate, server_tls
from keyvault_server.operations.listening import CannotListen, refuse_taken
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import CallGuard, Limits
from keyvault_server.rpc.health import Backend, Readiness
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.service import KeyVaultService

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second server takes every other connection of the same port, silently
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),  # what a connection that says nothing costs a descriptor for
    ("grpc.max_connection_age_ms", 600_000),  # new certificates and CAs count for new connections only
    ("grpc.max_connection_age_grace_ms", 60_000),
)
_GOODBYE_SECONDS = 1.0  # for GOAWAY and a ping back; an open health Watch takes all of it
_WATCHERS = 100
"""Of health, on one connection to the admin port."""
_CLEANUP_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A server at work."""

    port: int
    """Where the service listens; 0 for a unix socket."""
    admin_port: int | None
    """Where health alone listens."""
    metrics_port: int | None
    """Where Prometheus asks."""


@contextlib.asynccontextmanager
async def running(settings: Settings, hurry: asyncio.Event | None = None) -> AsyncIterator[Running]:
    """A ready server on the configured backend while the body runs; as `serving`."""
    for address in filter(None, (settings.listen, settings.admin_listen)):
        refuse_taken(address)
    async with open_backend(settings) as (keys, records), serving(settings, keys, records, hurry) as server:
        yield server


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, keys: KeyService, records: RecordStore, hurry: asyncio.Event | None = None
) -> AsyncIterator[Running]:
    """A ready server on these two ports while the body runs, stopped in order after it.

    `hurry`, once set, cuts the wait for the calls at work short. Raises OperatorError.
    """
    metrics = Metrics()
    async with open_gate(settings, metrics) as gate:
        access_log = AccessLog(sys.stderr) if settings.access_log else None
        guard = CallGuard(Limits(settings.concurrent_calls, settings.call_seconds), gate, metrics, access_log)
        readiness = Readiness(*_backends(keys, records, gate), interval=settings.readiness_seconds)
        metrics.gauge("ready", "1: the backends answered lately.", lambda: readiness.ready)
        server = _main_server(settings, Vault(keys, records, unwrap_scopes=settings.unwrap_scopes), guard, readiness)
        admin = _admin_server(readiness)
        async with readiness.watching(), _credentials(settings, metrics) as credentials:
            with metrics.served(settings.metrics_listen) as metrics_port:
                try:
                    port = _bind(server, settings.listen, credentials)
                    admin_port = _bind(admin, settings.admin_listen) if settings.admin_listen else None
                    await server.start()
                    await admin.start()
                    yield Running(port, admin_port, metrics_port)
                finally:
                    await _drain(settings, server, guard, readiness, hurry or asyncio.Event())
                    await admin.stop(None)
                    if access_log:
                        access_log.close()


async def serve(settings: Settings, announce: Callable[[Running], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second one cuts the drain short. Raises as `running`."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(settings, hurry) as server:
        announce(server)
        await stop.wait()
        _log.info("stopping")
    _log.info("stopped")


def _main_server(settings: Settings, vault: Vault, guard: CallGuard, readiness: Readiness) -> grpc.aio.Server:
    streams = (
        # A call that never sends its message is none at work, has no deadline of ours, and costs 10 kB.
        ("grpc.max_concurrent_streams", 2 * settings.concurrent_calls),
        ("grpc.http.overload_protection", 0),  # it resets calls of those who keep to the limit: others are not gone yet
    )
    server = grpc.aio.server(interceptors=(guard,), options=_OPTIONS + streams)
    services: Any = _ByName(server)
    keyvault_pb2_grpc.add_KeyVaultServicer_to_server(KeyVaultService(vault), services)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, services)
    if settings.reflection or (settings.reflection is None and is_loopback(settings.listen)):
        served = [service.full_name for service in keyvault_pb2.DESCRIPTOR.services_by_name.values()]
        names = [*served, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        # the one for grpc.aio by its name: the other one keeps a thread for each open stream
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), services)
    return server


class _ByName:
    """Takes a service as a grpc.aio.Server does, and has its methods looked up by name only.

    The server itself would register each with gRPC's core as well: it then waits for the next call of each apart, and
    takes up and drops all of these waits at every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """They are among the generic handlers too."""


def _admin_server(readiness: Readiness) -> grpc.aio.Server:
    """Health alone; it has no port unless the settings give it one."""
    admin = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_concurrent_streams", _WATCHERS)))
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, admin)
    return admin


def _backends(keys: KeyService, records: RecordStore, gate: Gatekeeper) -> list[Backend]:
    """What has to answer for the server to be ready."""
    return [keys, records, *([gate.audit] if gate.audit else [])]


@contextlib.asynccontextmanager
async def _credentials(settings: Settings, metrics: Metrics) -> AsyncIterator[grpc.ServerCredentials | None]:
    """What the service listens with, following its files while the body runs; None: plaintext. Raises OperatorError."""
    tls = server_tls(settings, metrics)
    if tls is None:
        yield None
        return
    metrics.gauge("tls_certificate_expiry_seconds", "When the certificate expires, since 1970.", lambda: tls.expires)
    async with tls.files.watching():
        yield tls.credentials()


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    refuse_taken(address)
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise CannotListen(f"cannot listen on {address}: it is in use, or not an address of this machine") from None


async def _drain(
    settings: Settings, server: grpc.aio.Server, guard: CallGuard, readiness: Readiness, hurry: asyncio.Event
) -> None:
    readiness.leave()
    await _first_of(hurry.wait(), seconds=settings.drain_delay_seconds)
    guard.close()
    await _first_of(guard.wait_idle(), hurry.wait(), seconds=settings.drain_seconds)
    await server.stop(0 if hurry.is_set() else _GOODBYE_SECONDS)
    await _first_of(guard.wait_idle(), seconds=_CLEANUP_SECONDS)


async def _first_of(*waits: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Returns when one of them is done, or after so many seconds."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
