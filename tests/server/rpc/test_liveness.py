"""Liveness is about the process, readiness about its backends; a health check uses no proxy."""

import asyncio
import socket
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.rpc.health import LIVENESS, Readiness, is_serving
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.servers import Served, grpc_server, on_ports


@pytest.mark.medium
async def test_a_server_is_alive_while_its_backends_fail() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    async with on_ports(keys, records, admin_listen="127.0.0.1:0", readiness_seconds=0.01) as server:
        assert await is_serving(server.address)
        for _ in range(10_000):
            keys.fail_before("check", BackendUnavailable())
        async with asyncio.timeout(30):
            while await is_serving(server.address):
                await asyncio.sleep(0.01)
        assert await is_serving(server.address, LIVENESS)
        assert await is_serving(server.admin_address, LIVENESS)


async def test_watching_liveness_begins_with_serving(server: Served) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=LIVENESS), timeout=30):
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        break


async def test_a_parent_is_not_alive_while_a_worker_hangs() -> None:
    """Its readiness is another matter: other workers serve."""
    hangs = [True]
    readiness = Readiness(interval=0.01, alive=lambda: not hangs)
    async with readiness.watching(), grpc_server(partial(add_HealthServicer_to_server, readiness.servicer)) as port:
        assert not await is_serving(f"127.0.0.1:{port}", LIVENESS)
        assert await is_serving(f"127.0.0.1:{port}")
        hangs.clear()
        assert await is_serving(f"127.0.0.1:{port}", LIVENESS)


async def test_an_unknown_service_is_not_found(server: Served) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Check(health_pb2.HealthCheckRequest(service="alive"), timeout=30)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_health_check_uses_no_proxy(server: Served, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """By a name that is not loopback to gRPC's eyes, so that only our option keeps it from the proxy."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv(variable, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert await is_serving(server.address)
        assert await is_serving(server.address, LIVENESS)
