"""BatchRead: each item is a Read of its own, in what it answers, in what it costs and in the audit log."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.batch import MOST_ASKING
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import audit_server
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.policy_server import BILLING, policy_of_reads, policy_server
from tests.support.refusals import failure_of
from tests.support.requests import Key, create, delete, mint
from tests.support.servers import on_ports

MOST = Limits().batch_reads


def batch(*names: str, **more: Any) -> pb.BatchReadRequest:
    return pb.BatchReadRequest(items=[pb.BatchReadRequest.Item(key_id=name, **more) for name in names])


def reasons(answer: pb.BatchReadResponse) -> list[str]:
    return [result.error.reason or "OK" for result in answer.results]


async def fill(stub: KeyVaultStub, key: Key, *names: str, size: int = 10) -> None:
    await asyncio.gather(*(stub.Create(create(key, name, bytes(size))) for name in names))


async def test_each_item_is_answered_as_a_read_would_be(stub: KeyVaultStub) -> None:
    key = await mint(stub, "prod/")
    await fill(stub, key, "prod/a", "prod/b", "prod/gone")
    await stub.Delete(delete(key, "prod/gone", 2))
    answer = await stub.BatchRead(batch("prod/b", "prod/none", "prod/gone", "prod/", "prod/a"))
    assert reasons(answer) == ["OK", "RECORD_NOT_FOUND", "RECORD_NOT_FOUND", "INVALID_KEY_ID", "OK"]
    for result, name in ((answer.results[0], "prod/b"), (answer.results[-1], "prod/a")):
        assert result.record == await stub.Read(pb.ReadRequest(key_id=name))
    error = answer.results[1].error
    assert (error.code, error.message) == (grpc.StatusCode.NOT_FOUND.value[0], "no such record")


async def test_items_have_revisions_and_tombstones_of_their_own(stub: KeyVaultStub) -> None:
    key = await mint(stub, "prod/")
    await fill(stub, key, "prod/a", "prod/gone")
    await stub.Delete(delete(key, "prod/gone", 2))
    known = pb.BatchReadRequest.Item(key_id="prod/a", known_revision=1)
    tombstone = pb.BatchReadRequest.Item(key_id="prod/gone", include_deleted=True)
    negative = pb.BatchReadRequest.Item(key_id="prod/c", known_revision=-1)
    answer = await stub.BatchRead(pb.BatchReadRequest(items=[known, tombstone, negative]))
    assert answer.results[0].record.not_modified
    assert answer.results[1].record.deleted
    assert answer.results[2].error.reason == "MALFORMED_REQUEST"


async def test_a_hundred_items_are_read_and_no_more(stub: KeyVaultStub) -> None:
    names = [f"prod/{number}" for number in range(101)]
    assert len((await stub.BatchRead(batch(*names[:100]))).results) == 100
    assert not (await stub.BatchRead(batch())).results
    for request in (batch(*names), batch("prod/a", "prod/a")):
        failure = await failure_of(stub.BatchRead(request))
        assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


async def test_what_does_not_fit_is_asked_for_again(stub: KeyVaultStub) -> None:
    key = await mint(stub, "prod/")
    names = [f"prod/{number}" for number in range(12)]
    await fill(stub, key, *names, size=300_000)
    answer = await stub.BatchRead(batch(*names))
    assert reasons(answer) == ["OK"] * 3 + ["BATCH_FULL"] * 9
    assert answer.results[-1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert len(answer.SerializeToString()) < 2 * 1024 * 1024
    assert reasons(await stub.BatchRead(batch(*names[3:])))[:3] == ["OK"] * 3


async def test_policy_and_quota_judge_each_item(tmp_path: Path) -> None:
    async with (
        policy_server(tmp_path, policy_text=policy_of_reads(12)) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        await fill(stub, await mint(stub, "prod/"), "prod/a")
        names = ["prod/a", "dev/a", *(f"prod/none{number}" for number in range(13))]
        answer = await stub.BatchRead(batch(*names))
        assert reasons(answer) == ["OK", "POLICY_DENIED", *["RECORD_NOT_FOUND"] * 11, "RATE_LIMITED", "RATE_LIMITED"]
        assert answer.results[-1].error.retry_delay.seconds
        lines = [line for line in server.lines() if line.get("phase") == "outcome" and "Read" in line.get("method", "")]
        assert {line["method"] for line in lines} == {"Read"}
        assert sorted(line.get("reason") or "OK" for line in lines) == sorted(reasons(answer))
        assert len({line["request"] for line in lines}) == len(names)


@pytest.mark.medium
async def test_what_did_not_fit_costs_nothing(tmp_path: Path) -> None:
    async with (
        policy_server(tmp_path, policy_text=policy_of_reads(12)) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        names = [f"prod/{number}" for number in range(8)]
        await fill(stub, await mint(stub, "prod/"), *names, size=300_000)
        answers = [reasons(await stub.BatchRead(batch(*names))) for _ in range(5)]
    assert answers[0] == ["OK"] * 3 + ["BATCH_FULL"] * 5
    assert sum(answer.count("OK") for answer in answers) == 12, "of 12 Reads that are paid for, 3 fit into each answer"


@pytest.mark.medium
async def test_an_item_is_not_answered_without_its_audit_line(tmp_path: Path) -> None:
    async with audit_server(tmp_path, patience=0.1) as server:
        server.disk.hang()
        answer = await asyncio.wait_for(server.stub.BatchRead(batch("a", "b")), 20)
    assert reasons(answer) == ["BACKEND_UNAVAILABLE"] * 2


@pytest.mark.slow
async def test_few_batches_are_in_flight() -> None:
    """They hold more memory than other calls; the next one waits for two seconds."""
    keys, records = FakeKeyService(), FakeRecordStore()
    go_on = asyncio.Event()
    for _ in range(MOST):
        records.before("get", go_on.wait)
    async with asyncio.timeout(20), on_ports(keys, records) as server:
        calls = [asyncio.create_task(_sent(server.stub, "a")) for _ in range(MOST)]
        while records.calls["get"] < MOST:
            await asyncio.sleep(0.01)
        assert (await failure_of(server.stub.BatchRead(batch("a")))).reason == "RATE_LIMITED"
        go_on.set()
        assert [reasons(answer) for answer in await asyncio.gather(*calls)] == [["RECORD_NOT_FOUND"]] * MOST


@pytest.mark.medium
async def test_two_batches_at_a_time_ask_a_store_that_shares_requests() -> None:
    """It answers a chunk at once, and what it answered is held until the last item is there."""
    keys, records = FakeKeyService(), FakeRecordStore()
    records.reads_together = 3
    go_on = asyncio.Event()
    for _ in range(3 * MOST_ASKING):
        records.before("get", go_on.wait)
    async with asyncio.timeout(20), on_ports(keys, records) as server:
        calls = [asyncio.create_task(_sent(server.stub, "a", "b", "c", "d")) for _ in range(MOST_ASKING + 1)]
        while records.calls["get"] < 3 * MOST_ASKING:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert records.calls["get"] == 3 * MOST_ASKING
        go_on.set()
        answers = [reasons(answer) for answer in await asyncio.gather(*calls)]
    assert answers == [["RECORD_NOT_FOUND"] * 4] * (MOST_ASKING + 1)


async def test_a_batch_that_is_denied_waits_for_no_slot(tmp_path: Path) -> None:
    """Nor does one without a valid name: it asks nothing of the store, and holds nothing."""
    async with (
        policy_server(tmp_path, policy_text=policy_of_reads(100)) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        go_on = asyncio.Event()
        for _ in range(MOST):
            server.records.before("get", go_on.wait)
        reading = [asyncio.create_task(_sent(stub, "prod/a")) for _ in range(MOST)]
        async with asyncio.timeout(20):
            while server.records.calls["get"] < MOST:
                await asyncio.sleep(0.01)
            refused = [await stub.BatchRead(batch("dev/a", "dev/b")), await stub.BatchRead(batch("a b", "prod/"))]
            assert [reasons(one) for one in refused] == [["POLICY_DENIED"] * 2, ["INVALID_KEY_ID"] * 2]
            assert not any(read.done() for read in reading)
            go_on.set()
            assert [reasons(answer) for answer in await asyncio.gather(*reading)] == [["RECORD_NOT_FOUND"]] * MOST


async def _sent(stub: KeyVaultStub, *names: str) -> pb.BatchReadResponse:
    return await stub.BatchRead(batch(*names))
