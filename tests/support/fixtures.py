"""A server with its client, for every test that asks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client import KeyVault
from tests.support.servers import Served, embedded


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """The embedded server in this process, on a free port."""
    async with embedded(tmp_path / "data") as served:
        yield served


@pytest.fixture
def stub(server: Served) -> KeyVaultStub:
    """Raw calls to it, as generated stubs make them."""
    return server.stub


@pytest.fixture
async def vault(server: Served) -> AsyncIterator[KeyVault]:
    """Our client library, connected to it."""
    async with KeyVault(server.address) as client:
        yield client
