"""A real server on our stand-ins, with a fault proxy before each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.setup import create_backend
from tests.server.backends.aws.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.server.backends.aws.standins.account import Account, account
from tests.support.engines import options
from tests.support.servers import on_ports

UNWRAPPABLE = "prod/unwrappable"
"""The scope for which UnwrapKey is on."""


@dataclass(frozen=True)
class Site:
    """The server, and the way from it to each service."""

    address: str
    stub: KeyVaultStub
    kms: FaultProxy
    dynamodb: FaultProxy

    @property
    def proxies(self) -> tuple[FaultProxy, FaultProxy]:
        """The proxies of KMS and DynamoDB."""
        return self.kms, self.dynamodb

    @property
    def connections(self) -> int:
        """Connections opened so far to both services."""
        return sum(proxy.connections for proxy in self.proxies)

    @property
    def hits(self) -> int:
        """Requests that a fault hit."""
        return sum(proxy.hits for proxy in self.proxies)

    def break_with(
        self, fault: Fault, operation: str | None = None, number: int | None = None, chance: float = 1.0
    ) -> None:
        """See FaultProxy."""
        for proxy in self.proxies:
            proxy.break_with(fault, operation, number, chance)

    def heal(self) -> None:
        """See FaultProxy."""
        for proxy in self.proxies:
            proxy.heal()

    async def recovered(self, seconds: float = 60.0) -> None:
        """Ask until both services answer again. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while await status_of(self.stub.GenerateKey(pb.GenerateKeyRequest())) != "OK":
                await asyncio.sleep(0.02)
            while await status_of(self.stub.Read(pb.ReadRequest(key_id=UNWRAPPABLE))) != "NOT_FOUND":
                await asyncio.sleep(0.02)


async def status_of(call: Awaitable[object]) -> str:
    """Return OK, or the status with which an RPC failed."""
    try:
        await call
    except grpc.aio.AioRpcError as failed:
        return failed.code().name
    return "OK"


@asynccontextmanager
async def site(call_seconds: float, connections: int = 64, **settings: Any) -> AsyncIterator[Site]:
    """Run an account and one server on it while the body runs."""
    async with account() as made:
        arn = await master_key(made)
        async with server_on(made, arn, call_seconds, connections, **settings) as opened:
            yield opened


async def master_key(made: Account) -> str:
    """Make the table and the key of an account; return the key's ARN."""
    return await create_backend(options(made.kms_address, made.dynamodb_address), "alias/keyvault")


@asynccontextmanager
async def server_on(
    made: Account,
    arn: str,
    call_seconds: float,
    connections: int = 64,
    seed: int = 0,
    store: type[DynamoRecordStore] = DynamoRecordStore,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Run a server on an account. Readiness is checked at the start alone: no probe meets a fault.

    `store` may have a bug of its own.
    """
    async with fault_proxy(made.kms_address, seed) as kms, fault_proxy(made.dynamodb_address, seed + 1) as dynamodb:
        given = options(
            kms.address,
            dynamodb.address,
            master_keys={"1": arn},
            call_timeout=call_seconds,
            max_connections=connections,
        )
        async with (
            open_clients(given) as (kms_client, dynamodb_client),
            on_ports(
                KmsKeyService(kms_client, given.master_keys),
                store(dynamodb_client, given.table),
                unwrap_scopes=(UNWRAPPABLE,),
                readiness_seconds=3600,
                **settings,
            ) as served,
        ):
            yield Site(served.address, served.stub, kms, dynamodb)
