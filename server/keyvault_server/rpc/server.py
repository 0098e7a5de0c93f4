"""The two gRPC servers of one process: the service's, and one for health alone.

The rule of this file: the options here bound what a connection may cost; the guard bounds what a call may cost.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from keyvault_api.names import MAX_MESSAGE, MAX_REPLY
from keyvault_api.v1 import keyvault_pb2, keyvault_pb2_grpc
from keyvault_server.core.vault import Vault
from keyvault_server.rpc.guard import CallGuard
from keyvault_server.rpc.health import Health
from keyvault_server.rpc.metadata import MetadataLimit
from keyvault_server.rpc.reflection import add_reflection
from keyvault_server.rpc.service import KeyVaultService

STREAMS = 100
"""Maximum calls of one connection that are in flight; a client's library lets the next ones wait on its side."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_REPLY),
    # A client that vanished without a FIN is noticed within 40 s; without ping_timeout_ms it takes a minute more.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # for connections that send nothing, which cost a descriptor each
    ("grpc.max_concurrent_streams", STREAMS),
    # Calls that wait for the event loop: gRPC cancels some beyond the first number, and all beyond the second.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # Off, because it resets calls within that limit while earlier ones are not gone yet.
    ("grpc.http.overload_protection", 0),
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a client may keep one connection, and how often it may ping. All in seconds."""

    age: float = 600.0
    """Life of a connection, give or take a tenth: new certificates and CAs count for new connections only."""
    grace: float = 60.0
    """What in-flight calls then have left."""
    ping: float = 5.0
    """Least time between two pings; ours come every 10 s, also without calls. More often closes the connection."""
    accepted: int = 0
    """Maximum connections of one address that the server listens on; gRPC closes the next at once. 0: no limit."""

    def options(self) -> tuple[tuple[str, int], ...]:
        """Return the options of gRPC's server."""
        return (
            ("grpc.max_connection_age_ms", round(self.age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(self.grace * 1000)),
            # The name of GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS; gRPC ignores a wrong one.
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.ping * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            *((("grpc.max_allowed_incoming_connections", self.accepted),) if self.accepted else ()),
        )


CONNECTION_LIMITS = ConnectionLimits()


def main_server(
    vault: Vault,
    guard: CallGuard,
    health: Health,
    *,
    reflects: bool = False,
    connections: ConnectionLimits = CONNECTION_LIMITS,
    shares_port: bool = False,
) -> grpc.aio.Server:
    """Return the server of keyvault.v1, health and, if it `reflects`, reflection. It has no port yet.

    If it `shares_port`, the system spreads the connections of its port over all processes that listen there.
    """
    server = grpc.aio.server(interceptors=(guard,), options=_options(connections, shares_port=shares_port))
    services: Any = _ByName(server)
    keyvault_pb2_grpc.add_KeyVaultServicer_to_server(
        KeyVaultService(vault, version("keyvault-grpc"), guard.limits.batch_reads), services
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, services)
    if reflects:
        served = [service.full_name for service in keyvault_pb2.DESCRIPTOR.services_by_name.values()]
        add_reflection(services, [*served, "grpc.health.v1.Health"])
    return server


def admin_server(
    health: Health, metadata: MetadataLimit, connections: ConnectionLimits = CONNECTION_LIMITS
) -> grpc.aio.Server:
    """Return a server of health alone. It has no port yet."""
    server = grpc.aio.server(interceptors=(metadata,), options=_options(connections))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return server


def _options(connections: ConnectionLimits, *, shares_port: bool = False) -> tuple[tuple[str, int], ...]:
    # gRPC's default is 1: a second server would silently take every other connection of the same port.
    return (("grpc.so_reuseport", int(shares_port)), *_OPTIONS, *connections.options())


class _ByName:
    """Registers services as a grpc.aio.Server does, but so that methods are looked up by name only.

    The server itself would register each method with gRPC's core as well. It then waits for the next call of each
    method separately, and starts and drops all of these waits at every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Ignore the handlers, which are among the generic ones too."""
