"""One name for two servers: calls go to both, and to the other one when one is gone."""

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import resources

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client import KeyVault
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.name_server import name_server
from tests.support.servers import on_ports

HOSTS = ("127.0.0.1", "127.0.0.2")
CONFIG = resources.files("keyvault_api.v1").joinpath("keyvault_service_config.json").read_text()


class Replicas:
    """Two servers with one store and the same master keys, on one port of two addresses."""

    def __init__(self) -> None:
        first, records = FakeKeyService(), FakeRecordStore()
        self.services = (first, _counting_apart(first))
        self._records = records
        self._stacks = (AsyncExitStack(), AsyncExitStack())
        self.port = 0

    async def start(self) -> None:
        for host, keys, stack in zip(HOSTS, self.services, self._stacks, strict=True):
            served = await stack.enter_async_context(on_ports(keys, self._records, listen=f"{host}:{self.port}"))
            self.port = self.port or int(served.address.rpartition(":")[2])

    async def stop(self, number: int) -> None:
        await self._stacks[number].aclose()

    def generated(self) -> list[int]:
        """How many keys each has generated since the last look."""
        counts = [one.calls["generate"] for one in self.services]
        for one in self.services:
            one.calls.clear()
        return counts


def _counting_apart(service: FakeKeyService) -> FakeKeyService:
    """Another service with the same master keys."""
    other = copy.copy(service)
    other.calls = Counter()
    return other


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    both = Replicas()
    await both.start()
    yield both
    for number in range(2):
        await both.stop(number)


async def reach_both(replicas: Replicas, generate: Callable[[], Awaitable[object]]) -> None:
    """Generate keys until both servers have been reached: at first, one of them may not be connected."""
    async with asyncio.timeout(20):
        while not all(one.calls["generate"] for one in replicas.services):
            await generate()
    replicas.generated()


async def test_a_client_spreads_its_calls_over_a_dns_name(replicas: Replicas) -> None:
    async with (
        name_server(*HOSTS) as resolver,
        KeyVault(f"dns://{resolver}/vault.test:{replicas.port}", insecure=True) as vault,
    ):
        await reach_both(replicas, lambda: vault.generate_key("prod/"))
        key = await vault.generate_key("prod/")
        await vault.create("prod/db", b"x", key=key)
        for _ in range(4):
            assert (await vault.read("prod/db", key=key)).plaintext == b"x"
        replicas.generated()
        for _ in range(10):
            await vault.generate_key("prod/")
        assert replicas.generated() == [5, 5]
        await replicas.stop(0)
        for _ in range(10):
            await vault.generate_key("prod/")
        assert replicas.generated() == [0, 10]


async def test_a_bare_stub_spreads_its_calls_with_round_robin(replicas: Replicas) -> None:
    spread = json.dumps(json.loads(CONFIG) | {"loadBalancingConfig": [{"round_robin": {}}]})
    async with name_server(*HOSTS) as resolver:
        name = f"dns://{resolver}/vault.test:{replicas.port}"
        for config, expected in ((spread, [5, 5]), (CONFIG, [10, 0])):
            async with grpc.aio.insecure_channel(name, options=(("grpc.service_config", config),)) as channel:
                stub = KeyVaultStub(channel)

                async def generate(stub: KeyVaultStub = stub) -> object:
                    return await stub.GenerateKey(pb.GenerateKeyRequest(scope="prod/"), timeout=20)

                if config is spread:
                    await reach_both(replicas, generate)
                for _ in range(10):
                    await generate()
                assert replicas.generated() == expected
