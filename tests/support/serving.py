"""Real servers for tests: in this process on chosen ports, or as a process of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.operations.lifecycle import Running, running, serving
from keyvault_server.operations.settings import Settings

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Served:
    """A server and a channel to it."""

    address: str
    admin_address: str
    channel: grpc.aio.Channel
    stub: KeyVaultStub


@asynccontextmanager
async def embedded(data: Path, **settings: Any) -> AsyncIterator[Served]:
    """On the embedded backend."""
    chosen = _settings(data=data, **settings)
    async with running(chosen) as server, _connected(chosen, server) as served:
        yield served


@asynccontextmanager
async def on_ports(keys: KeyService, records: RecordStore, **settings: Any) -> AsyncIterator[Served]:
    """On two ports, fakes among them."""
    chosen = _settings(**settings)
    async with serving(chosen, keys, records) as server, _connected(chosen, server) as served:
        yield served


def _settings(**settings: Any) -> Settings:
    chosen: dict[str, Any] = {"listen": "127.0.0.1:0", "access_log": False} | settings
    return Settings(**chosen)


@asynccontextmanager
async def _connected(settings: Settings, server: Running) -> AsyncIterator[Served]:
    address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Served(address, f"127.0.0.1:{server.admin_port}", channel, KeyVaultStub(channel))


@dataclass(frozen=True)
class ServerProcess:
    """A `keyvault-server` of its own."""

    process: "subprocess.Popen[str]"
    address: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def server_process(
    data: Path,
    listen: str = "127.0.0.1:0",
    program: Sequence[str | Path] = (BIN / "keyvault-server",),
    **environment: str,
) -> Iterator[ServerProcess]:
    """Started as a user does; killed at the end if it still runs."""
    log = data.parent / f"{data.name}.log"
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [*program, "serve", "--data", data, "--listen", listen],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            ready = re.search(r"is ready on (\S+)", process.stdout.readline())
            assert ready, log.read_text()
            yield ServerProcess(process, ready[1], log)
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class Failure:
    """What a failed call told."""

    status: str
    reason: str
    metadata: dict[str, str]
    message: str
    kinds: list[str]
    """The types of all details."""
    details: list[Message]


async def failure_of(call: Any) -> Failure:
    """Awaits a call that has to fail."""
    try:
        await call
    except grpc.aio.AioRpcError as failed:
        return read_failure(failed)
    raise AssertionError("the call succeeded")


def read_failure(failed: grpc.aio.AioRpcError) -> Failure:
    """Decodes a failure with googleapis' own messages, independent of our client."""
    status = status_pb2.Status()
    for name, value in failed.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status.ParseFromString(value)
    known = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    details: list[Message] = []
    info = error_details_pb2.ErrorInfo()
    for packed in status.details:
        for kind in known:
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                details.append(message)
                if isinstance(message, error_details_pb2.ErrorInfo):
                    info = message
    kinds = [detail.DESCRIPTOR.name for detail in details]
    code = failed.code().name
    assert status.code == failed.code().value[0] or not details
    return Failure(code, info.reason, dict(info.metadata), failed.details() or "", kinds, details)
