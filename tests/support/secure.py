"""A real gRPC server that does nothing but say whom it takes the caller for; and clocks that a test moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.access.identity import Identifier
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import CallGuard, Limits
from keyvault_server.rpc.metrics import Metrics
from tests.support.certificates import Issued

SLOW = "slow"
"""A GenerateKey for this scope is answered when the test says so."""


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Secure:
    """The server. Its GenerateKey answers the caller's identity as `tenant`."""

    identifier: Identifier
    address: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a slow call is at work."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets slow calls go on."""

    async def generate_key(self, request: pb.GenerateKeyRequest, context: Any) -> pb.GenerateKeyResponse:
        identity = self.identifier.identify(context.auth_context(), context.invocation_metadata())
        if request.scope == SLOW:
            self.reached.set()
            await self.go_on.wait()
        return pb.GenerateKeyResponse(tenant=identity, scope=request.scope, plaintext_key=bytes(32), wrapped_key=b"w")


@asynccontextmanager
async def secure(credentials: grpc.ServerCredentials | None, identifier: Identifier) -> AsyncIterator[Secure]:
    """The server while the body runs, on a free port of loopback."""
    served = Secure(identifier)
    server = grpc.aio.server(
        interceptors=(CallGuard(Limits(), Gatekeeper(), Metrics()),), options=(("grpc.so_reuseport", 0),)
    )
    handler = grpc.unary_unary_rpc_method_handler(
        served.generate_key,
        request_deserializer=pb.GenerateKeyRequest.FromString,
        response_serializer=pb.GenerateKeyResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler("keyvault.v1.KeyVault", {"GenerateKey": handler})
    server.add_generic_rpc_handlers((generic,))
    port = (
        server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    )
    await server.start()
    served.address = f"localhost:{port}"
    try:
        yield served
    finally:
        await server.stop(None)


def channel(address: str, ca: bytes | None, client: Issued | None = None, sessions: Any = None) -> grpc.aio.Channel:
    """A new connection of its own, in TLS if there is a `ca`; with `sessions` it resumes an earlier TLS session."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if sessions is not None:
        options.append(("grpc.ssl_session_cache", sessions))
    if ca is None:
        return grpc.aio.insecure_channel(address, options=options)
    shown = (client.private_key, client.certificate) if client else (None, None)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *shown), options=options)


async def identity_over(connection: grpc.aio.Channel, *tokens: str) -> str:
    """Whom the server takes us for. Raises AioRpcError."""
    metadata = tuple(("authorization", f"Bearer {token}") for token in tokens)
    answer = await KeyVaultStub(connection).GenerateKey(pb.GenerateKeyRequest(), timeout=30, metadata=metadata)
    return answer.tenant


async def identity_of(
    address: str, ca: bytes | None, client: Issued | None = None, *tokens: str, sessions: Any = None
) -> str:
    """As `identity_over` a new connection."""
    async with channel(address, ca, client, sessions) as connection:
        return await identity_over(connection, *tokens)
