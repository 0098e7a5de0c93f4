"""The disk of the audit log hangs: it takes no line and reports no error. Every call ends all the same."""

import asyncio
import logging
from contextlib import suppress
from io import StringIO
from pathlib import Path

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.identity import Identifier
from keyvault_server.access.key_source import open_key_source
from keyvault_server.access.tokens import TokenRules, Tokens
from keyvault_server.core.errors import AuditUnavailable, BackendUnavailable
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import Disk, audit_server
from tests.support.connections import bearer
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.meters import RecordedMeter
from tests.support.refusals import failure_of
from tests.support.requests import create, mint
from tests.support.trails import CALL, Trail

pytestmark = pytest.mark.slow

UNAVAILABLE = ("UNAVAILABLE", BackendUnavailable.reason)


@pytest.mark.slow
async def test_calls_end_and_nothing_is_written_while_the_disk_hangs(tmp_path: Path) -> None:
    async with asyncio.timeout(30), audit_server(tmp_path, patience=1.0) as server:
        key = await mint(server.stub, "a/")
        server.disk.hang()
        for call in (
            server.stub.GenerateKey(pb.GenerateKeyRequest()),
            server.stub.Create(create(key, "a/b")),
            server.stub.Read(pb.ReadRequest(key_id="a/b")),
            server.stub.Read(pb.ReadRequest(key_id="no name")),
        ):
            failure = await failure_of(call)
            assert (failure.status, failure.reason) == UNAVAILABLE
        assert server.records.calls["put_if"] == 0
        server.disk.heal()
        await server.stub.Create(create(key, "a/b"))
    server.trail.verified()
    assert server.statuses()[-1] == "OK"


async def test_a_call_that_is_out_of_time_ends_too(tmp_path: Path) -> None:
    limits = Limits(call_seconds=0.1)
    async with asyncio.timeout(30), audit_server(tmp_path, limits=limits, patience=0.3) as server:
        server.disk.hang()
        failure = await failure_of(server.stub.GenerateKey(pb.GenerateKeyRequest()))
        assert (failure.status, failure.reason) == UNAVAILABLE


async def test_a_call_that_a_deadline_ends_is_in_the_access_log(tmp_path: Path) -> None:
    """The caller's deadline."""
    log = StringIO()
    async with asyncio.timeout(30), audit_server(tmp_path, access_log=AccessLog(log)) as server:
        await server.stub.GenerateKey(pb.GenerateKeyRequest())  # so that the deadline is not spent on connecting
        server.disk.hang()
        failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="no name"), timeout=0.5))
        assert failure.status == "DEADLINE_EXCEEDED"
        while "INVALID_KEY_ID" not in log.getvalue():
            await asyncio.sleep(0.02)
    assert '"status": "CANCELLED", "reason": "INVALID_KEY_ID"' in log.getvalue()


@pytest.mark.slow
async def test_reads_that_are_spared_are_answered_while_the_disk_hangs(tmp_path: Path) -> None:
    async with asyncio.timeout(30), audit_server(tmp_path, reads_without_audit=True, patience=1.0) as server:
        key = await mint(server.stub, "a/")
        await server.stub.Create(create(key, "a/b"))
        server.disk.hang()
        assert (await server.stub.Read(pb.ReadRequest(key_id="a/b"))).revision == 1
        assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a/c")))).status == "NOT_FOUND"


async def test_refused_calls_hold_no_place_of_those_in_flight(tmp_path: Path) -> None:
    limits = Limits(concurrent_calls=1)
    async with asyncio.timeout(60), audit_server(tmp_path, limits=limits, patience=20.0) as server:
        server.records.before("get", lambda: asyncio.sleep(60))
        in_flight = asyncio.create_task(failure_of(server.stub.Read(pb.ReadRequest(key_id="a"))))
        while not server.records.calls["get"]:
            await asyncio.sleep(0.01)
        server.disk.hang()
        refused = [asyncio.create_task(failure_of(server.stub.Read(pb.ReadRequest(key_id="b")))) for _ in range(20)]
        await asyncio.to_thread(server.disk.reached.wait, 10)
        in_flight.cancel()
        async with asyncio.timeout(10):
            while server.records.calls["get"] < 2:
                with suppress(grpc.aio.AioRpcError):
                    await server.stub.Read(pb.ReadRequest(key_id="c"), timeout=0.2)
        server.disk.heal()
        assert "RATE_LIMITED" in [(await task).reason for task in refused]


async def test_unidentified_callers_hold_no_place_in_flight(tmp_path: Path) -> None:
    issuer, path, read = Issuer(), tmp_path / "keys.json", pb.ReadRequest(key_id="a")
    path.write_bytes(issuer.key_set())
    async with asyncio.timeout(30), open_key_source(str(path), meter=RecordedMeter()) as keys:
        tokens = Tokens(TokenRules(ISSUER, AUDIENCE), keys)
        identifier, limits = Identifier(certificates=False, tokens=tokens), Limits(concurrent_calls=1)
        async with audit_server(tmp_path, identifier=identifier, limits=limits, patience=20.0) as server:
            server.disk.hang()
            unidentified = asyncio.create_task(failure_of(server.stub.Read(read)))
            await asyncio.to_thread(server.disk.reached.wait, 10)
            known = asyncio.create_task(failure_of(server.stub.Read(read, metadata=bearer(issuer.token()))))
            while not server.records.calls["get"]:
                await asyncio.sleep(0.01)
            server.disk.heal()
            assert [(await task).status for task in (unidentified, known)] == ["UNAUTHENTICATED", "NOT_FOUND"]


async def test_a_stop_says_how_much_a_hanging_disk_did_not_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And leaves it."""
    trail, disk = Trail(tmp_path), Disk()
    async with asyncio.timeout(30):
        async with trail.open(sync=disk, patience=0.2) as audit:
            disk.hang()
            answers = await asyncio.gather(*(audit.outcome(CALL, "OK") for _ in range(3)), return_exceptions=True)
            assert all(isinstance(answer, AuditUnavailable) for answer in answers)
        (record,) = caplog.records
        assert (record.levelno, record.__dict__["lines"]) == (logging.CRITICAL, 3)
        disk.heal()
        while len(trail.lines()) < 3:
            await asyncio.sleep(0.01)
    trail.verified()


@pytest.mark.slow
async def test_what_waits_for_a_hanging_disk_is_bounded(tmp_path: Path) -> None:
    async with asyncio.timeout(30), audit_server(tmp_path, patience=20.0) as server:
        server.disk.hang()
        waiting = [asyncio.create_task(server.audit.outcome(CALL, "OK")) for _ in range(10_000)]
        await asyncio.to_thread(server.disk.reached.wait, 10)
        refused, others = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        assert len(others) < 6_000
        for task in refused:
            with pytest.raises(AuditUnavailable):
                task.result()
        server.disk.heal()
        await asyncio.gather(*others)
    assert len(server.statuses()) == len(others)
