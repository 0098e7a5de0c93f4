"""What one connection may cost: its life, its pings, and that a client's own pings are within that."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from keyvault_server.core.vault import Vault
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import CallGuard, Limits
from keyvault_server.rpc.health import Health
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.server import ConnectionLimits, main_server
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.frames import ENHANCE_YOUR_CALM, Rude, rude
from tests.support.repository import DOCS, ROOT


@asynccontextmanager
async def connected(connections: ConnectionLimits) -> AsyncIterator[Rude]:
    """A connection by hand to a main server with these limits."""
    limits = Limits()
    vault = Vault(FakeKeyService(), FakeRecordStore())
    guard = CallGuard(limits, Gatekeeper(), Metrics())
    server = main_server(vault, guard, Health(), connections=connections)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with rude(f"127.0.0.1:{port}") as connection:
            connection.begin()
            yield connection
    finally:
        await server.stop(None)


@pytest.mark.medium
async def test_a_connection_is_closed_when_it_is_old() -> None:
    async with connected(ConnectionLimits(age=0.2)) as connection, asyncio.timeout(10):
        assert await connection.goaway() == 0


async def test_a_client_that_pings_too_often_is_sent_away() -> None:
    async with connected(ConnectionLimits(ping=30)) as connection, asyncio.timeout(10):
        for _ in range(5):
            connection.ping()
        assert await connection.goaway() == ENHANCE_YOUR_CALM


@pytest.mark.medium
async def test_a_client_that_pings_within_the_limit_stays() -> None:
    """Without calls, too: gRPC's own limit is five minutes, and two hours without calls."""
    async with connected(ConnectionLimits(ping=0.02)) as connection:
        leaving = asyncio.create_task(connection.goaway())
        for _ in range(5):
            connection.ping()
            await asyncio.sleep(0.1)
        assert not leaving.done()
        leaving.cancel()


def test_the_limits_are_the_documented_ones() -> None:
    step = " ".join((DOCS / "clients.md").read_text().split())
    found = re.search(r"closes a connection that pings more often than every (\d+) s, and any after about (\d+)", step)
    assert found, "docs/clients.md names the limits of a connection"
    assert ConnectionLimits() == ConnectionLimits(age=60.0 * int(found[2]), grace=60.0, ping=float(found[1]))
    assert "about ten minutes" in (ROOT / "SECURITY.md").read_text()


@pytest.mark.medium
def test_every_option_is_one_that_grpc_knows() -> None:
    """It ignores a wrong name, and says nothing."""
    core = next((Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")).read_bytes()
    sources = "".join(path.read_text() for side in ("client", "server") for path in (ROOT / side).rglob("*.py"))
    names = set(re.findall(r'\("(grpc\.[a-z0-9_.]+)",', sources))
    assert len(names) > 10
    assert {name for name in names if f"{name}\0".encode() not in core} == set()
