"""The pytest plugin of `keyvault-grpc[testing]`: a real server, and a client of it, as fixtures. See docs/testing.md.

The rule of this file: pytest imports it in every run, so it imports nothing but pytest until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from keyvault_client import KeyVault, sync
    from keyvault_client.testing import EmbeddedServer


@pytest.fixture(scope="session")
def keyvault_session_server() -> Iterator[EmbeddedServer]:
    """A KeyVault server for the whole run, with the records of all tests. For fixtures of a wide scope."""
    from keyvault_client.testing import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def keyvault_server(keyvault_session_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A KeyVault server (keyvault_client.testing.EmbeddedServer) without records, and without faults."""
    yield keyvault_session_server
    keyvault_session_server.reset()


@pytest.fixture
def keyvault(keyvault_server: EmbeddedServer) -> Iterator[KeyVault]:
    """A client (keyvault_client.KeyVault) of `keyvault_server`, for one test with one event loop."""
    import asyncio

    vault = keyvault_server.vault()
    yield vault
    loop = asyncio.new_event_loop()  # the test's own may be gone, and asyncio.run would unset it
    loop.run_until_complete(vault.close())
    loop.close()


@pytest.fixture
def keyvault_sync(keyvault_server: EmbeddedServer) -> Iterator[sync.KeyVault]:
    """A synchronous client (keyvault_client.sync.KeyVault) of `keyvault_server`."""
    with keyvault_server.sync_vault() as vault:
        yield vault
