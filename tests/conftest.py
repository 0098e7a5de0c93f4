"""What every test shares: an environment without the user's settings, and a server with its client."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client import KeyVault
from tests.support.servers import Served, embedded

pytest_plugins = ("tests.support.engines",)


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("KEYVAULT_")]:
            patch.delenv(name)
        yield


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
