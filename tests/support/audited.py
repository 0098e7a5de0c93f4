"""A server whose audit log is written as the test says, on fakes of the two ports: for disks that hang."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub, add_KeyVaultServicer_to_server
from keyvault_server.access.identity import Identifier
from keyvault_server.audit.trail import Audit
from keyvault_server.core.vault import Vault
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import CallGuard, Limits
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.service import KeyVaultService
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.trails import Trail


class Disk:
    """Takes as good as no time, until it is told to hang, and then again once it is mended."""

    def __init__(self) -> None:
        self._mended = threading.Event()
        self._mended.set()
        self.reached = threading.Event()
        """Something waits for it."""

    def hang(self) -> None:
        self.reached.clear()
        self._mended.clear()

    def mend(self) -> None:
        self._mended.set()

    def __call__(self, file: int) -> None:
        self.reached.set()
        assert self._mended.wait(60)


@dataclass
class Audited:
    """The server, its log and the disk below it."""

    trail: Trail
    audit: Audit
    stub: KeyVaultStub
    disk: Disk
    records: FakeRecordStore = field(default_factory=FakeRecordStore)

    def statuses(self) -> list[str]:
        """Of the outcomes in the log."""
        return [line["status"] for line in self.trail.lines() if line["phase"] == "outcome"]


@asynccontextmanager
async def audited(
    folder: Path,
    *,
    limits: Limits | None = None,
    access_log: AccessLog | None = None,
    spares_reads: bool = False,
    identifier: Identifier | None = None,
    **options: Any,
) -> AsyncIterator[Audited]:
    """Serves while the body runs; the disk is mended then."""
    trail, disk, records = Trail(folder), Disk(), FakeRecordStore()
    async with trail.open(sync=disk, **options) as audit:
        gate = Gatekeeper(identifier, audit=audit, spares_reads=spares_reads)
        guard = CallGuard(limits or Limits(), gate, Metrics(), access_log)
        server = grpc.aio.server(interceptors=(guard,), options=(("grpc.so_reuseport", 0),))
        add_KeyVaultServicer_to_server(KeyVaultService(Vault(FakeKeyService(), records)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Audited(trail, audit, KeyVaultStub(channel), disk, records)
        finally:
            disk.mend()
            await server.stop(0)
            await asyncio.wait_for(guard.wait_idle(), 10)
