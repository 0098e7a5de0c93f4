"""A server on fakes of the two ports whose audit log is on a disk that hangs when the test says so."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
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
from tests.support.connections import channel
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.servers import grpc_server
from tests.support.trails import Trail


class Disk:
    """A disk that takes almost no time, unless the test lets it hang."""

    def __init__(self) -> None:
        self._healthy = threading.Event()
        self._healthy.set()
        self.reached = threading.Event()
        """Set when a sync waits for the disk."""

    def hang(self) -> None:
        """Let the next sync wait."""
        self.reached.clear()
        self._healthy.clear()

    def heal(self) -> None:
        """Let every sync go on."""
        self._healthy.set()

    def __call__(self, file: int) -> None:
        """Sync as the audit log does, or hang."""
        self.reached.set()
        assert self._healthy.wait(60)


@dataclass
class AuditServer:
    """The server, its log and the disk below it."""

    trail: Trail
    audit: Audit
    address: str
    guard: CallGuard
    channel: grpc.aio.Channel
    stub: KeyVaultStub
    disk: Disk
    gate: Gatekeeper
    records: FakeRecordStore = field(default_factory=FakeRecordStore)

    def statuses(self) -> list[str]:
        """Return the statuses of the outcomes in the log."""
        return [line["status"] for line in self.trail.lines() if line["phase"] == "outcome"]


@asynccontextmanager
async def audit_server(
    folder: Path,
    *,
    limits: Limits | None = None,
    access_log: AccessLog | None = None,
    reads_without_audit: bool = False,
    identifier: Identifier | None = None,
    **options: Any,
) -> AsyncIterator[AuditServer]:
    """Serve while the body runs; heal the disk at the end."""
    trail, disk, records = Trail(folder), Disk(), FakeRecordStore()
    async with trail.open(sync=disk, **options) as audit:
        gate = Gatekeeper(identifier, audit=audit, reads_without_audit=reads_without_audit)
        guard = CallGuard(limits or Limits(), gate, Metrics(), access_log)
        service = KeyVaultService(Vault(FakeKeyService(), records))
        try:
            async with (
                grpc_server(partial(add_KeyVaultServicer_to_server, service), interceptors=(guard,)) as port,
                channel(f"127.0.0.1:{port}", None) as connection,
                healed(disk),
            ):
                address, stub = f"127.0.0.1:{port}", KeyVaultStub(connection)
                yield AuditServer(trail, audit, address, guard, connection, stub, disk, gate, records)
        finally:
            await asyncio.wait_for(guard.wait_idle(), 10)


@asynccontextmanager
async def healed(disk: Disk) -> AsyncIterator[None]:
    """Heal the disk at the end, before the server stops: calls wait for it."""
    try:
        yield
    finally:
        disk.heal()
