"""Several workers on one port: they start, are replaced and stop as one server."""

import asyncio
import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_client import TLS, KeyVault
from keyvault_server.audit.key import load_key
from keyvault_server.audit.verify import verify
from keyvault_server.audit.worker_logs import log_of
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.operations.listening import CannotListen, refuse_taken, reserved
from keyvault_server.rpc.health import LIVENESS, is_serving
from tests.server.backends.aws.standins.account import Account
from tests.support.certificates import LOCALHOST, Authority
from tests.support.engines import variables_of
from tests.support.processes import BIN, STARTED, ServerProcess, server_process

pytestmark = [pytest.mark.process, pytest.mark.slow]

CONNECTIONS = 24
"""Each of two workers gets none of them once in eight million times."""


def of_aws(options: AwsOptions) -> dict[str, str]:
    """Variables of two workers on these stand-ins."""
    more = {"KEYVAULT_WORKERS": "2", "KEYVAULT_AWS_CALL_SECONDS": str(options.call_timeout)}
    return variables_of(options) | more


@asynccontextmanager
async def two_workers(folder: Path, options: AwsOptions, **settings: str) -> AsyncIterator[ServerProcess]:
    """Start a server; the stand-ins run on this loop, so another thread waits for it."""
    starting = server_process(folder / "data", "localhost:0", STARTED, **of_aws(options), **settings)
    server = await asyncio.to_thread(starting.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


@asynccontextmanager
async def stub(address: str, ca: bytes) -> AsyncIterator[KeyVaultStub]:
    """A stub on a connection of its own: channels of one process share connections otherwise."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca), options) as channel:
        yield KeyVaultStub(channel)


class Log:
    """The server's log, as far as it is written."""

    def __init__(self, server: ServerProcess) -> None:
        self._path = server.log

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Return the lines with this message."""
        found = [json.loads(line) for line in self._path.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("message") == message]

    def pids(self) -> dict[int, int]:
        """Return the process of each worker that serves, the last one of each."""
        return {line["worker"]: line["pid"] for line in self.lines("worker serves")}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def scraped(address: str) -> dict[str, float]:
    """Return the values of a scrape, those of all labels added up."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        found = re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", answer.read().decode(), re.MULTILINE)
    return {name: sum(float(value) for one, value in found if one == name) for name, _ in found}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


async def test_two_workers_are_one_server(tmp_path: Path, standins: Account, standin_options: AwsOptions) -> None:
    """One start, since it takes long: both serve, one is replaced, and the stop loses no call."""
    authority, metrics, admin = Authority(), f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    certificate, key = authority.issue(*LOCALHOST).write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    settings = {
        "KEYVAULT_TLS_CERTIFICATE": str(certificate),
        "KEYVAULT_TLS_PRIVATE_KEY": str(key),
        "KEYVAULT_AUDIT_FILE": str(tmp_path / "audit.jsonl"),
        "KEYVAULT_METRICS_LISTEN": metrics,
        "KEYVAULT_ADMIN_LISTEN": admin,
        "TMPDIR": str(tmp_path / "temporary"),
    }
    (tmp_path / "temporary").mkdir()
    async with two_workers(tmp_path, standin_options, **settings) as server:
        log = Log(server)
        await both_serve(server, authority.pem, tmp_path, metrics)
        assert await is_serving(admin)
        assert await is_serving(admin, LIVENESS)
        with pytest.raises(CannotListen, match="in use"):
            refuse_taken(server.address)
        with pytest.raises(CannotListen, match="in use"), reserved(server.address):
            pass
        groups = {os.getpgid(pid) for pid in log.pids().values()}
        assert os.getpgid(server.process.pid) not in groups, "Ctrl-C on a terminal is for the parent alone"
        assert {os.getsid(pid) for pid in log.pids().values()} == {os.getsid(server.process.pid)}
        await one_is_replaced(server, log, tmp_path / "ca.pem")
        await until(lambda: scraped(metrics)["keyvault_workers"] == 2)
        after = scraped(metrics)
        assert after["keyvault_calls_total"] > CONNECTIONS, "a worker that replaces another one continues its counters"
        assert after["keyvault_workers_ended_total"] == 1
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: {line["worker"] for line in log.lines("reloaded")} == {1, 2})
        await a_stop_loses_no_call(server, log, authority.pem, standins)
    assert not list((tmp_path / "temporary").iterdir())
    logs = [log_of(tmp_path / "audit.jsonl", number) for number in (1, 2)]
    report = verify(logs, load_key(tmp_path / "audit.jsonl.key"))
    assert (report.bad, report.starts, report.crashes) == (None, 3, 1)


async def both_serve(server: ServerProcess, ca: bytes, folder: Path, metrics: str) -> None:
    async with AsyncExitStack() as opened:
        stubs = [await opened.enter_async_context(stub(server.address, ca)) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(one.GenerateKey(pb.GenerateKeyRequest(scope="x/"), timeout=60) for one in stubs))
        logs = [log_of(folder / "audit.jsonl", number).read_text() for number in (1, 2)]
        outcomes = [text.count('"phase":"outcome"') for text in logs]
        assert sum(outcomes) == CONNECTIONS
        assert all(outcomes)
        await until(lambda: scraped(metrics)["keyvault_connections"] == CONNECTIONS)
        found = scraped(metrics)
    assert found["keyvault_calls_total"] == found["keyvault_call_seconds_count"] == CONNECTIONS
    assert (found["keyvault_workers"], found["keyvault_ready"]) == (2, 1)
    assert found["keyvault_tls_certificate_expiry_seconds"] > 0


async def one_is_replaced(server: ServerProcess, log: Log, ca: Path) -> None:
    """Kill the first worker while a client calls: it retries, and no call fails."""
    before = log.pids()
    async with KeyVault(server.address, tls=TLS(ca=ca)) as vault:
        os.kill(before[1], signal.SIGKILL)
        async with asyncio.timeout(60):
            while log.pids() == before:
                await vault.generate_key("x/")
        await vault.generate_key("x/")
    assert log.pids()[2] == before[2]
    ended = log.lines("a worker ended: it is replaced")
    assert [(line["worker"], line["pid"], line["status"]) for line in ended] == [(1, before[1], -signal.SIGKILL)]


async def a_stop_loses_no_call(server: ServerProcess, log: Log, ca: bytes, standins: Account) -> None:
    """Stop all processes at once, as systemd does: no worker takes it for a second signal."""
    async with AsyncExitStack() as opened:
        stubs = [await opened.enter_async_context(stub(server.address, ca)) for _ in range(8)]
        standins.kms.knobs.latency = 1.0
        try:
            seen = standins.kms.calls["GenerateDataKey"]
            calls = [one.GenerateKey(pb.GenerateKeyRequest(scope="x/"), timeout=60) for one in stubs]
            gathered = asyncio.gather(*calls)
            await until(lambda: standins.kms.calls["GenerateDataKey"] == seen + len(stubs))
            for pid in (server.process.pid, *log.pids().values()):
                os.kill(pid, signal.SIGTERM)
            stopping = asyncio.create_task(asyncio.to_thread(server.process.wait, 30))
            await gathered
        finally:
            standins.kms.knobs.latency = 0.0
        assert await stopping == 0


async def test_workers_end_with_their_parent(tmp_path: Path, standin_options: AwsOptions) -> None:
    """However it ends: they would hold the port and the audit logs."""
    async with two_workers(tmp_path, standin_options) as server:
        pids = Log(server).pids().values()
        server.process.kill()
        await until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
        refuse_taken(server.address)


async def test_a_start_that_workers_refuse_is_one_line(tmp_path: Path, standin_options: AwsOptions) -> None:
    environment = os.environ | of_aws(standin_options) | {"KEYVAULT_AWS_TABLE": "absent"}
    process = await asyncio.create_subprocess_exec(
        BIN / "keyvault-server",
        "serve",
        "--listen=127.0.0.1:0",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        printed, said = await process.communicate()
    refusals = [line for line in said.decode().splitlines() if not line.startswith("{")]
    assert (process.returncode, printed, len(refusals)) == (1, b"", 1), said
    assert "table absent does not exist" in refusals[0]
