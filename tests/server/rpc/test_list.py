"""List over the wire: what it answers, who may ask for it, what it costs, and its audit line."""

import asyncio
import json
from pathlib import Path

import pytest

from keyvault_api.names import MAX_MESSAGE
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import audit_server
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.listed import record_of
from tests.support.policy_server import BILLING, policy_server
from tests.support.refusals import failure_of
from tests.support.requests import create, delete, mint
from tests.support.servers import on_ports

POLICY = """
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["List"]
names = ["prod/db", "prod/billing/*"]
[[caller.allow]]
methods = ["Read"]
names = ["*"]
[caller.limits]
List = { per_second = 0.001, burst = 2 }
"""


def shown(answer: pb.ListResponse) -> list[str]:
    return [name.key_id for name in answer.names]


async def test_names_come_page_by_page_live_or_deleted(stub: KeyVaultStub) -> None:
    key = await mint(stub, "prod/")
    names = ["prod/a", "prod/b", "prod/c"]
    created = [await stub.Create(create(key, name)) for name in names]
    await stub.Delete(delete(key, "prod/b", 2))
    first = await stub.List(pb.ListRequest(prefix="prod/", page_size=1))
    assert shown(first) == ["prod/a"]
    assert first.names[0].create_time == created[0].create_time
    second = await stub.List(pb.ListRequest(prefix="prod/", page_token=first.next_page_token))
    assert (shown(second), second.next_page_token) == (["prod/c"], "")
    gone = await stub.List(pb.ListRequest(deleted=True))
    assert (shown(gone), gone.next_page_token) == (["prod/b"], "")
    assert gone.names[0].create_time == created[1].create_time


async def test_bad_arguments_are_named(stub: KeyVaultStub) -> None:
    for field, reason, request in (
        ("prefix", "INVALID_KEY_ID", pb.ListRequest(prefix="a b")),
        ("page_size", "MALFORMED_REQUEST", pb.ListRequest(page_size=-1)),
        ("page_token", "BAD_PAGE_TOKEN", pb.ListRequest(page_token="next")),
    ):
        failure = await failure_of(stub.List(request))
        assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", reason)
        assert failure.details[1].field_violations[0].field == field  # type: ignore[attr-defined]


async def test_the_largest_page_fits_into_a_message() -> None:
    records = FakeRecordStore()
    record = record_of("any", created=2**62)
    records.records = {("default", "a" * 251 + f"{number:04}"): record for number in range(1_200)}
    async with on_ports(FakeKeyService(), records) as server:
        answer = await server.stub.List(pb.ListRequest(prefix="a" * 251, page_size=2_000))
    assert len(answer.names) == 1_000
    assert len(answer.SerializeToString()) < MAX_MESSAGE


async def test_only_an_open_pattern_lists_and_nothing_is_filtered(tmp_path: Path) -> None:
    async with (
        policy_server(tmp_path, policy_text=POLICY) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        for prefix in ("prod/db", "prod/billing", "prod/", ""):
            failure = await failure_of(stub.List(pb.ListRequest(prefix=prefix)))
            assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "POLICY_DENIED")
        assert not server.records.calls["list_names"]
        server.records.records = {
            (tenant, name): record_of(name)
            for tenant, name in (("acme", "prod/billing/a"), ("acme", "prod/db-2"), ("beta", "prod/billing/b"))
        }
        assert shown(await stub.List(pb.ListRequest(prefix="prod/billing/"))) == ["prod/billing/a"]
        assert shown(await stub.List(pb.ListRequest(prefix="prod/billing/a"))) == ["prod/billing/a"]
        failure = await failure_of(stub.List(pb.ListRequest(prefix="prod/billing/")))
        assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        lines = [line for line in server.lines() if line.get("method") == "List"]
        assert [line.get("reason") or "OK" for line in lines] == ["POLICY_DENIED"] * 4 + ["OK", "OK", "RATE_LIMITED"]
        assert lines[4]["name"] == lines[6]["name"] != lines[5]["name"]
        await failure_of(stub.List(pb.ListRequest(prefix="a b")))
        assert server.lines()[-1]["name"], "as it was sent, whatever it was"


async def test_the_access_log_names_the_prefix(tmp_path: Path) -> None:
    with (tmp_path / "access").open("w+") as stream:
        log = AccessLog(stream)
        async with audit_server(tmp_path, access_log=log) as server:
            await server.stub.List(pb.ListRequest(prefix="prod/"))
            await failure_of(server.stub.List(pb.ListRequest(prefix="a b")))
        log.flush()
        stream.seek(0)
        names = [json.loads(line)["name"] for line in stream]
    assert names == ["prod/", ""]


async def test_names_count_as_bytes_that_were_read(tmp_path: Path) -> None:
    limits = POLICY.replace("burst = 2", "burst = 50") + "read_bytes = { per_second = 0.01, burst = 100 }\n"
    async with (
        policy_server(tmp_path, policy_text=limits) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        names = ["prod/billing/" + "a" * 60 + last for last in "abc"]
        server.records.records = {("acme", name): record_of(name) for name in names}
        assert shown(await stub.List(pb.ListRequest(prefix="prod/billing/"))) == names
        for call in (
            stub.List(pb.ListRequest(prefix="prod/billing/")),
            stub.Read(pb.ReadRequest(key_id=names[0])),
        ):
            assert (await failure_of(call)).reason == "RATE_LIMITED"


async def test_few_lists_are_in_flight() -> None:
    """Their pages hold more memory than other calls; the next ones wait."""
    keys, records = FakeKeyService(), FakeRecordStore()
    go_on, most = asyncio.Event(), Limits().batch_reads
    for _ in range(most):
        records.before("list_names", go_on.wait)
    async with asyncio.timeout(20), on_ports(keys, records) as server:
        calls = [asyncio.create_task(_listed(server.stub)) for _ in range(most + 4)]
        while records.calls["list_names"] < most:
            await asyncio.sleep(0.01)
        await server.stub.WhoAmI(pb.WhoAmIRequest())
        assert records.calls["list_names"] == most
        go_on.set()
        assert await asyncio.gather(*calls) == [[]] * (most + 4)


async def test_a_list_that_is_refused_waits_for_no_other() -> None:
    """Or callers who may list nothing would hold the places of all calls while the store is slow."""
    keys, records = FakeKeyService(), FakeRecordStore()
    go_on, most = asyncio.Event(), Limits().batch_reads
    for _ in range(most):
        records.before("list_names", go_on.wait)
    async with asyncio.timeout(20), on_ports(keys, records) as server:
        calls = [asyncio.create_task(_listed(server.stub)) for _ in range(most)]
        while records.calls["list_names"] < most:
            await asyncio.sleep(0.01)
        for request in (pb.ListRequest(prefix="a b"), pb.ListRequest(page_size=-1), pb.ListRequest(page_token="x")):
            assert (await failure_of(server.stub.List(request))).status == "INVALID_ARGUMENT"
        go_on.set()
        assert await asyncio.gather(*calls) == [[]] * most


async def _listed(stub: KeyVaultStub) -> list[str]:
    return shown(await stub.List(pb.ListRequest()))


@pytest.mark.medium
async def test_no_names_are_shown_without_an_audit_line(tmp_path: Path) -> None:
    async with audit_server(tmp_path, patience=0.1, reads_without_audit=True) as server:
        server.disk.hang()
        assert (await failure_of(server.stub.List(pb.ListRequest()))).reason == "BACKEND_UNAVAILABLE"
