"""A gRPC server behind our guard that only says whom it takes the caller for: for tests of TLS and tokens."""

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
from tests.support.connections import channel
from tests.support.servers import grpc_server

SLOW = "slow"
"""Scope of a GenerateKey that waits until the test sets `go_on`."""
_WRAPPED = b"for "


@dataclass
class IdentityServer:
    """The server. Its GenerateKey answers the caller's identity as the `wrapped_key`, see `caller_of`."""

    identifier: Identifier
    address: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a slow call is in flight."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test to let slow calls go on."""
    peers: list[str] = field(default_factory=list)
    """Connection of each call, in the order of the calls."""

    async def generate_key(self, request: pb.GenerateKeyRequest, context: Any) -> pb.GenerateKeyResponse:
        """Answer with the caller's identity."""
        self.peers.append(context.peer())
        identity = self.identifier.identify(context.auth_context(), context.invocation_metadata())
        if request.scope == SLOW:
            self.reached.set()
            await self.go_on.wait()
        wrapped = _WRAPPED + identity.encode()
        return pb.GenerateKeyResponse(tenant="acme", scope=request.scope, plaintext_key=bytes(32), wrapped_key=wrapped)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the one method to a gRPC server."""
        handler = grpc.unary_unary_rpc_method_handler(
            self.generate_key,
            request_deserializer=pb.GenerateKeyRequest.FromString,
            response_serializer=pb.GenerateKeyResponse.SerializeToString,
        )
        generic = grpc.method_handlers_generic_handler("keyvault.v1.KeyVault", {"GenerateKey": handler})
        server.add_generic_rpc_handlers((generic,))


@asynccontextmanager
async def identity_server(
    credentials: grpc.ServerCredentials | None, identifier: Identifier
) -> AsyncIterator[IdentityServer]:
    """Serve while the body runs."""
    served = IdentityServer(identifier)
    guard = CallGuard(Limits(), Gatekeeper(), Metrics())
    async with grpc_server(served.register, interceptors=(guard,), credentials=credentials) as port:
        served.address = f"localhost:{port}"
        yield served


def caller_of(wrapped_key: bytes) -> str:
    """Return the identity of the caller who got this wrapped key."""
    return wrapped_key.removeprefix(_WRAPPED).decode()


async def identity_over(connection: grpc.aio.Channel, *tokens: str) -> str:
    """Return whom the server takes us for. Raises AioRpcError."""
    metadata = tuple(("authorization", f"Bearer {token}") for token in tokens)
    answer = await KeyVaultStub(connection).GenerateKey(pb.GenerateKeyRequest(), timeout=30, metadata=metadata)
    return caller_of(answer.wrapped_key)


async def identity_of(
    address: str, ca: bytes | None, client: Issued | None = None, *tokens: str, sessions: Any = None
) -> str:
    """Return whom the server takes us for over a new connection. Raises AioRpcError."""
    async with channel(address, ca, client, sessions) as connection:
        return await identity_over(connection, *tokens)
