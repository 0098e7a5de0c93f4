"""Start, readiness, limits and the end of a server: nothing accepted is lost, nothing else is let in."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.errors import BackendUnavailable, OperatorError
from keyvault_server.operations.lifecycle import running
from keyvault_server.operations.listening import CannotListen
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.server import STREAMS
from tests.support.certificates import LOCALHOST, Authority
from tests.support.fakes import FakeKeyService, FakeRecordStore, Gate
from tests.support.forked import operate
from tests.support.frames import rude
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.processes import server_process
from tests.support.refusals import Failure, failure_of
from tests.support.repository import DOCS
from tests.support.requests import create, mint, update
from tests.support.servers import Served, embedded, on_ports


async def status(address: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_health_is_served_on_the_main_port_and_on_the_admin_port(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data", admin_listen="127.0.0.1:0") as server:
        assert await status(server.address) == "SERVING"
        assert await status(server.admin_address) == "SERVING"


async def test_the_admin_port_serves_nothing_but_health(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data", admin_listen="127.0.0.1:0") as server:
        async with grpc.aio.insecure_channel(server.admin_address) as channel:
            failure = await failure_of(KeyVaultStub(channel).GenerateKey(pb.GenerateKeyRequest()))
        assert failure.status == "UNIMPLEMENTED"


@pytest.mark.slow
async def test_a_server_is_not_ready_until_its_backend_answers() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    for _ in range(20):
        records.fail_before("check", BackendUnavailable())
    async with on_ports(keys, records, readiness_seconds=0.05) as server:
        assert await status(server.address) == "NOT_SERVING"
        async with asyncio.timeout(30):
            while await status(server.address) != "SERVING":
                await asyncio.sleep(0.02)
        for _ in range(1_000):
            keys.fail_before("check", BackendUnavailable())
        async with asyncio.timeout(30):
            while await status(server.address) != "NOT_SERVING":
                await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_slow_watcher_delays_neither_readiness_nor_the_stop() -> None:
    """A watcher who does not read."""
    keys, records = FakeKeyService(), FakeRecordStore()
    async with (
        asyncio.timeout(20),
        AsyncExitStack() as callers,
        on_ports(keys, records, readiness_seconds=0.05) as server,
    ):
        stranger = await callers.enter_async_context(rude(server.address))
        stranger.begin(window=0)
        stranger.call(1, "/grpc.health.v1.Health/Watch", b"")
        async for kind, stream, _ in stranger.frames():
            if (kind, stream) == (1, 1):  # headers: what comes next does not fit the window
                break
        for _ in range(1_000):
            keys.fail_before("check", BackendUnavailable())
        while await status(server.address) != "NOT_SERVING":
            await asyncio.sleep(0.02)


async def test_a_watcher_who_leaves_takes_no_news_from_the_others() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    request = health_pb2.HealthCheckRequest()
    async with asyncio.timeout(20), on_ports(keys, records, readiness_seconds=0.05) as server:
        stub = health_pb2_grpc.HealthStub(server.channel)
        stays, leaves = stub.Watch(request), stub.Watch(request)
        for watcher in (stays, leaves):
            assert (await watcher.read()).status == health_pb2.HealthCheckResponse.SERVING
        leaves.cancel()
        assert await leaves.code() is grpc.StatusCode.CANCELLED
        await status(server.address)
        for _ in range(1_000):
            keys.fail_before("check", BackendUnavailable())
        assert (await stays.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stays.cancel()


async def test_a_service_that_is_none_is_unknown_to_health(server: Served) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watcher = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert (await watcher.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watcher.cancel()


async def test_reflection_lists_the_service_on_loopback(server: Served) -> None:
    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    async for answer in stub.ServerReflectionInfo(ask()):
        names = {service.name for service in answer.list_services_response.service}
    assert {"keyvault.v1.KeyVault", "grpc.health.v1.Health"} <= names


async def test_open_reflection_streams_take_nothing_that_others_need(server: Served) -> None:
    go_on = asyncio.Event()

    async def ask_and_stay() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await go_on.wait()

    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    streams = [stub.ServerReflectionInfo(ask_and_stay(), timeout=30) for _ in range(40)]
    answers = await asyncio.gather(*(stream.read() for stream in streams))
    assert all(answer.list_services_response.service for answer in answers)
    go_on.set()


async def test_reflection_can_be_turned_off(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data", reflection=False) as server:
        call: Any = server.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")

        async def ask() -> AsyncIterator[bytes]:
            yield b""

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in call(ask()):
                pass
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
async def test_calls_over_the_limit_are_refused_and_health_is_not() -> None:
    """With a time to come back."""
    keys, records = FakeKeyService(), FakeRecordStore()
    gate = Gate(records.before, "get", calls=2)
    async with on_ports(keys, records, concurrent_calls=2) as server:
        waiting = [asyncio.create_task(failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))) for _ in range(2)]
        await gate.reached()
        refused = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))
        assert (refused.status, refused.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert "RetryInfo" in refused.kinds
        assert await status(server.address) == "SERVING"
        gate.open()
        assert [(await task).reason for task in waiting] == ["RECORD_NOT_FOUND"] * 2


async def test_a_connection_has_few_calls_that_send_nothing() -> None:
    """They leave room for others."""
    keys, records = FakeKeyService(), FakeRecordStore()
    async with (
        asyncio.timeout(20),
        on_ports(keys, records, concurrent_calls=10) as server,
        rude(server.address) as stranger,
    ):
        stranger.begin()
        for stream in range(1, 401, 2):
            stranger.call(stream, "/keyvault.v1.KeyVault/Read")
        refused = 0
        async for kind, _, _ in stranger.frames():
            refused += kind == 3  # RST_STREAM
            if refused == 200 - STREAMS:
                break
        assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))).status == "NOT_FOUND"


@pytest.mark.slow
async def test_a_connection_that_says_nothing_is_closed(server: Served) -> None:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(60):  # gRPC's own limit is 120 s
        while await reader.read(1_000):
            pass
    writer.close()


@pytest.mark.slow
async def test_calls_beyond_a_connections_own_wait_with_the_caller() -> None:
    async with on_ports(FakeKeyService(), FakeRecordStore(), concurrent_calls=10) as server:
        read = pb.ReadRequest(key_id="a")
        failures = await asyncio.gather(*(failure_of(server.stub.Read(read, timeout=20)) for _ in range(500)))
    assert {failure.reason for failure in failures} <= {"RECORD_NOT_FOUND", "RATE_LIMITED"}


@pytest.mark.medium
async def test_a_call_without_a_deadline_ends_at_the_servers_own() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    gate = Gate(records.before, "get")
    async with on_ports(keys, records, call_seconds=0.2) as server:
        began = time.monotonic()
        failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))
        assert (failure.status, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert time.monotonic() - began < 5
        await gate.reached()


async def test_a_fault_of_ours_is_internal_and_its_text_stays_with_us(caplog: pytest.LogCaptureFixture) -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    records.fail_before("get", RuntimeError("arn:aws:kms:secret-place"))
    async with on_ports(keys, records) as server:
        failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))
    assert (failure.status, failure.reason, failure.message) == ("INTERNAL", "INTERNAL", "internal error")
    assert any(getattr(record, "request_id", "") == failure.metadata["request_id"] for record in caplog.records)


async def test_a_task_cancelled_inside_the_server_is_answered() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    records.before("get", cancelled)
    async with on_ports(keys, records) as server:
        failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a"), timeout=30))
    assert failure.status == "INTERNAL"


@pytest.mark.medium
async def test_a_message_over_the_limit_is_refused_by_grpc_itself(server: Served) -> None:
    failure = await failure_of(server.stub.Create(pb.CreateRequest(key_id="a", envelope=bytes(600_000))))
    assert failure.status == "RESOURCE_EXHAUSTED"


@pytest.mark.medium
async def test_a_stopping_server_finishes_the_calls_in_flight() -> None:
    """It takes no new ones."""
    keys, records = FakeKeyService(), FakeRecordStore()
    async with AsyncExitStack() as callers:
        async with on_ports(keys, records) as server:
            stub = KeyVaultStub(await callers.enter_async_context(grpc.aio.insecure_channel(server.address)))
            key = await mint(stub, "a/")
            gate = Gate(records.before, "put_if", calls=20)
            at_work = [asyncio.create_task(_created(stub, create(key, f"a/{n}"))) for n in range(20)]
            await gate.reached()
            asyncio.get_running_loop().call_later(0.3, gate.open)
        assert await asyncio.gather(*at_work) == [1] * 20
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])), timeout=1)


async def test_a_call_to_a_stopping_server_does_nothing_and_says_so() -> None:
    keys, records = FakeKeyService(), FakeRecordStore()
    async with AsyncExitStack() as callers:
        async with on_ports(keys, records) as server:
            stub = KeyVaultStub(await callers.enter_async_context(grpc.aio.insecure_channel(server.address)))
            key = await mint(stub, "a/")
            gate = Gate(records.before, "put_if")
            at_work = asyncio.create_task(_created(stub, create(key, "a/early")))
            await gate.reached()
            late = asyncio.create_task(_late(server.address, stub, create(key, "a/late"), gate))
        failure = await late
        assert await at_work == 1
    assert (failure.status, failure.reason) == ("UNAVAILABLE", "SERVER_STOPPING")
    assert "stopping" in failure.message
    assert list(records.records) == [("default", "a/early")]


async def _late(address: str, stub: KeyVaultStub, request: pb.CreateRequest, gate: Gate) -> Failure:
    async with asyncio.timeout(30):
        while await status(address) == "SERVING":
            await asyncio.sleep(0.01)
    failure = await failure_of(stub.Create(request, timeout=30))
    gate.open()
    return failure


async def _created(stub: KeyVaultStub, request: pb.CreateRequest) -> int:
    return (await stub.Create(request)).revision


@pytest.mark.process
@pytest.mark.slow
def test_sigterm_under_load_fails_no_call_and_exits_with_0(tmp_path: Path) -> None:
    """No call that was accepted."""
    with server_process(tmp_path / "data") as server:

        async def load() -> tuple[int, list[str]]:
            async with grpc.aio.insecure_channel(server.address) as channel:
                stub = KeyVaultStub(channel)
                key = await mint(stub, "l/")
                done, failed = 0, []

                async def worker(number: int) -> None:
                    nonlocal done
                    for count in range(100_000):
                        try:
                            await stub.Create(create(key, f"l/{number}/{count}"), timeout=20)
                            done += 1
                            if done == 500:
                                server.process.terminate()
                        except grpc.aio.AioRpcError as error:
                            failed.append(error.code().name)
                            return

                await asyncio.gather(*(worker(number) for number in range(16)))
                return done, failed

        done, failed = asyncio.run(load())
        assert server.process.wait(30) == 0
        assert done >= 500
        assert set(failed) <= {"UNAVAILABLE", "CANCELLED"}  # grpc's core cancels what it has not handed over yet
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        creates = [line for line in lines if line.get("call") == "Create"]
        assert sum(line["status"] == "OK" for line in creates) == done, "a write was done and not answered"
        assert all(line["status"] == "OK" for line in creates)


@pytest.mark.process
@pytest.mark.slow
def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", KEYVAULT_DRAIN_DELAY_SECONDS="60") as server:
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.7)
        assert server.stop(signal.SIGINT) == 0


async def test_a_taken_port_is_refused(server: Served, tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="in use"):
        async with embedded(tmp_path / "other", listen=server.address):
            pass


@pytest.mark.process
@pytest.mark.slow
def test_a_data_directory_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with server_process(tmp_path / "data"):
        second = operate(["serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0"], {})
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.count("\n") == 1
    assert "in use by another keyvault-server" in second.stderr


async def test_a_unix_socket_is_refused_only_if_it_is_served(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    async with embedded(tmp_path / "data", listen=path), grpc.aio.insecure_channel(path) as channel:
        with pytest.raises(CannotListen, match="in use"):
            async with embedded(tmp_path / "other", listen=path):
                pass
        assert await status(path) == "SERVING"
        await mint(KeyVaultStub(channel), "u/")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/s")
    async with embedded(tmp_path / "data", listen=path):
        assert await status(path) == "SERVING"


async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    async with embedded(tmp_path / "data", listen=path), grpc.aio.insecure_channel(path) as channel:
        stub = KeyVaultStub(channel)
        key = await mint(stub, "u/")
        assert (await stub.Create(create(key, "u/a"))).revision == 1
        assert (await stub.Update(update(key, "u/a", 2))).revision == 2


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize(("settings", "mode"), [({}, 0o600), ({"socket_mode": 0o660}, 0o660)])
async def test_a_unix_socket_has_the_mode_of_the_setting(
    tmp_path: Path, umask: int, settings: dict[str, Any], mode: int
) -> None:
    """Whatever the umask is: it was the mode once, and 0777 under a umask of 0."""
    (tmp_path / "data").mkdir(mode=0o700)
    sockets: dict[str, Any] = {"listen": f"unix:{tmp_path}/s", "admin_listen": f"unix://{tmp_path}/a"}
    before = os.umask(umask)
    try:
        async with running(Settings(data=tmp_path / "data", access_log=False, **sockets, **settings)):
            assert [(tmp_path / name).stat().st_mode & 0o777 for name in "sa"] == [mode, mode]
            assert os.umask(umask) == umask
            async with grpc.aio.insecure_channel(sockets["listen"]) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        os.umask(before)


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    """Those of a server with TLS, tokens and a policy, after a call."""
    issuer, page = Issuer(), (DOCS / "settings.md").read_text()
    certificate, key = Authority().issue(*LOCALHOST).write(tmp_path, "server")
    (tmp_path / "keys.json").write_bytes(issuer.key_set())
    (tmp_path / "policy.toml").write_text('[[caller]]\nidentity = "jwt:a"\ntenant = "a"\n')
    metrics = Metrics()
    metrics.count("Read", "OK", 1.0)
    settings = Settings(
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        tls_certificate=certificate,
        tls_private_key=key,
        policy=tmp_path / "policy.toml",
        jwt_keys=str(tmp_path / "keys.json"),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    )
    async with running(settings, metrics=metrics):
        names = {sample.name for metric in metrics.collect() for sample in metric.samples}
    shown = {re.sub("_(bucket|sum|count|created)$", "", name) for name in names}
    assert len(shown) >= 8
    assert not [name for name in shown if f"`{name}" not in page]


async def test_a_refused_certificate_is_not_preceded_by_ready(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate, key = Authority().issue(*LOCALHOST, until=-60).write(tmp_path, "server")
    with caplog.at_level(logging.INFO, "keyvault_server"), pytest.raises(OperatorError, match="expired on"):
        async with embedded(tmp_path / "data", tls_certificate=certificate, tls_private_key=key):
            pass
    assert [record.message for record in caplog.records] == []


@pytest.mark.process
@pytest.mark.slow
def test_a_hangup_reloads_and_does_not_stop_the_server(tmp_path: Path) -> None:
    """It ended a server without a drain."""
    policy, log = tmp_path / "policy.toml", tmp_path / "data.log"
    policy.write_text('[[caller]]\nidentity = "anonymous"\ntenant = "a"\n')

    def lines() -> list[dict[str, Any]]:
        read = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [line for line in read if line.get("message") in ("reloaded", "SIGHUP: reloading")]

    with server_process(tmp_path / "data", KEYVAULT_POLICY=str(policy)) as server:
        server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while len(lines()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert [line["message"] for line in lines()] == ["SIGHUP: reloading", "reloaded"]
        assert lines()[1]["sources"] == [str(policy)]
        assert server.stop() == 0
