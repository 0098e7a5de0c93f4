"""Real servers in this process on free ports of loopback: the product's own, and the one way to start gRPC's."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.operations.lifecycle import Running, running, serving
from keyvault_server.operations.settings import Settings


@dataclass(frozen=True)
class Served:
    """A server and a channel to it."""

    address: str
    admin_address: str
    channel: grpc.aio.Channel
    stub: KeyVaultStub


@asynccontextmanager
async def embedded(data: Path, **settings: Any) -> AsyncIterator[Served]:
    """Serve from the embedded backend."""
    chosen = _settings(data=data, **settings)
    async with running(chosen) as server, _connected(chosen, server) as served:
        yield served


@asynccontextmanager
async def on_ports(keys: KeyService, records: RecordStore, **settings: Any) -> AsyncIterator[Served]:
    """Serve from these two ports, which may be fakes."""
    chosen = _settings(**settings)
    async with serving(chosen, keys, records) as server, _connected(chosen, server) as served:
        yield served


@asynccontextmanager
async def grpc_server(
    register: Callable[[grpc.aio.Server], object],
    *,
    interceptors: Sequence[Any] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[int]:
    """Serve what `register` adds, in TLS if there are credentials; yield the port. Stop at once at the end."""
    server = grpc.aio.server(interceptors=interceptors, options=(("grpc.so_reuseport", 0),))
    register(server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def _settings(**settings: Any) -> Settings:
    chosen: dict[str, Any] = {"listen": "127.0.0.1:0", "access_log": False} | settings
    return Settings(**chosen)


@asynccontextmanager
async def _connected(settings: Settings, server: Running) -> AsyncIterator[Served]:
    address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Served(address, f"127.0.0.1:{server.admin_port}", channel, KeyVaultStub(channel))
