"""Who gets in: each unidentified caller gets the documented status, and none of them reaches a backend."""

import asyncio
import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.core.errors import BackendUnavailable, OperatorError
from keyvault_server.rpc.guard import Limits
from keyvault_server.rpc.metrics_port import SCRAPE_SECONDS
from tests.server.backends.aws.stub import Reply, stub
from tests.support import requests
from tests.support.certificates import Authority, replace, uri
from tests.support.connections import bearer
from tests.support.issuer import Issuer
from tests.support.policy_server import BILLING, POLICY, PolicyServer, policy_server
from tests.support.refusals import failure_of

pytestmark = pytest.mark.slow


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[PolicyServer]:
    async with policy_server(tmp_path) as served:
        yield served


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[PolicyServer]:
    async with policy_server(tmp_path, certificates=False, tokens=True) as served:
        yield served


async def test_a_known_caller_does_what_the_policy_grants(gate: PolicyServer) -> None:
    """As its tenant."""
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        key = await requests.mint(stub, "prod/billing/")
        assert key.tenant == "acme"
        await stub.Create(requests.create(key, "prod/billing/db"))
        await stub.Update(requests.update(key, "prod/billing/db", 2))
        read = await stub.Read(pb.ReadRequest(key_id="prod/billing/db"))
        assert (read.tenant, key.open("prod/billing/db", read.envelope)) == ("acme", b"data")


async def test_a_client_without_a_good_certificate_is_rejected(
    gate: PolicyServer,
) -> None:
    """In the handshake: one without a certificate, or with one of a foreign CA."""
    for client in (None, Authority("other").issue(BILLING)):
        async with gate.stub(client) as stub:
            failure = await failure_of(stub.Read(pb.ReadRequest(key_id="a"), timeout=30))
            assert failure.status == "UNAVAILABLE"
    assert gate.backend_calls() == 0


async def test_an_unmapped_identity_is_denied_and_has_no_tenant(gate: PolicyServer) -> None:
    """The tenant "default" neither."""
    async with gate.stub(gate.authority.issue(uri("spiffe://test.example/other"))) as stub:
        for call in (
            stub.GenerateKey(pb.GenerateKeyRequest()),
            stub.Read(pb.ReadRequest(key_id="prod/billing/db")),
            stub.Read(pb.ReadRequest(key_id="no name at all")),
        ):
            failure = await failure_of(call)
            assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "POLICY_DENIED")
    assert gate.backend_calls() == 0


async def test_a_certificate_that_names_nobody_is_unauthenticated(gate: PolicyServer) -> None:
    async with gate.stub(gate.authority.issue()) as stub:
        failure = await failure_of(stub.Read(pb.ReadRequest(key_id="prod/billing/db")))
    assert (failure.status, failure.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert gate.backend_calls() == 0


async def test_every_method_is_denied_outside_the_policy(
    gate: PolicyServer,
) -> None:
    """The answer never says what is there."""
    name = "prod/other/db"
    wrapped = b"\x01\x011" + len(name).to_bytes(2, "big") + name.encode() + b"blob"
    key = requests.Key(bytes(32), wrapped, "acme")
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        told = {
            (failure.status, failure.reason, failure.message)
            for failure in [
                await failure_of(call)
                for call in (
                    stub.GenerateKey(pb.GenerateKeyRequest(scope="prod/other/")),
                    stub.GenerateKey(pb.GenerateKeyRequest(scope="prod/")),
                    stub.GenerateKey(pb.GenerateKeyRequest()),
                    stub.Create(requests.create(key, name)),
                    stub.Read(pb.ReadRequest(key_id=name)),
                    stub.Update(requests.update(key, name, 2)),
                    stub.Delete(requests.delete(key, name, 2)),
                    stub.RotateKey(requests.rotate(key, key, name, 2)),
                    stub.RewrapKey(pb.RewrapKeyRequest(wrapped_key=wrapped)),
                    stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=wrapped)),
                )
            ]
        }
    assert {(status, reason) for status, reason, _ in told} == {("PERMISSION_DENIED", "POLICY_DENIED")}
    assert len(told) == 1
    assert gate.backend_calls() == 0


async def test_a_good_token_is_its_subject_and_a_bad_one_nobody(
    tokens: PolicyServer,
) -> None:
    """An expired or foreign one is UNAUTHENTICATED."""
    now = int(time.time())
    read = pb.ReadRequest(key_id="a")
    async with tokens.stub(None) as stub:
        for bad in (
            tokens.issuer.token(exp=now - 60),
            tokens.issuer.token(aud="another"),
            tokens.issuer.token(iss="https://other.test"),
            "no.token.atall",
        ):
            failure = await failure_of(stub.Read(read, metadata=bearer(bad)))
            assert (failure.status, failure.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
            assert bad not in failure.message
        failure = await failure_of(stub.Read(read))
        assert failure.status == "UNAUTHENTICATED"
        failure = await failure_of(stub.Read(read, metadata=bearer(tokens.issuer.token(sub="service-8"))))
        assert failure.reason == "POLICY_DENIED"
        assert tokens.backend_calls() == 0
        made = await stub.GenerateKey(pb.GenerateKeyRequest(), metadata=bearer(tokens.issuer.token()))
        assert made.tenant == "beta"


async def test_tokens_are_the_servers_fault_without_an_issuer(tmp_path: Path) -> None:
    """While the issuer has not responded for too long."""
    request = pb.GenerateKeyRequest()
    async with stub(Reply(body=Issuer().key_set()), Reply(500)) as issuer:
        keys: dict[str, Any] = {"jwt_keys": issuer.address, "jwt_keys_seconds": 0.5}
        async with policy_server(tmp_path, certificates=False, tokens=True, **keys) as gate, gate.stub(None) as calls:
            issued = bearer(gate.issuer.token())
            reason = ""
            async with asyncio.timeout(10):
                while reason != BackendUnavailable.reason:
                    reason = (await failure_of(calls.GenerateKey(request, metadata=issued))).reason
            age = re.search(r"\nkeyvault_token_keys_age_seconds ([0-9.]+)", await metrics(gate))
            assert age
            assert float(age[1]) > 0.5
            assert gate.backend_calls() == 0
            issuer.answers[:] = [Reply(body=gate.issuer.key_set())]
            async with asyncio.timeout(10):
                while gate.backend_calls() == 0:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await calls.GenerateKey(request, metadata=issued)


async def test_a_caller_over_its_quota_learns_how_long_to_wait(gate: PolicyServer) -> None:
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        for _ in range(3):
            await stub.GenerateKey(pb.GenerateKeyRequest(scope="prod/billing/a"))
        calls = gate.backend_calls()
        failure = await failure_of(stub.GenerateKey(pb.GenerateKeyRequest(scope="prod/billing/a")))
        assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert "RetryInfo" in failure.kinds
        assert gate.backend_calls() == calls


def held(gate: PolicyServer, calls: int) -> asyncio.Event:
    """Holds so many calls of GenerateKey at the key service until the event is set."""
    go_on = asyncio.Event()
    for _ in range(calls):
        gate.keys.before("generate", go_on.wait)
    return go_on


async def reached(gate: PolicyServer, calls: int) -> None:
    async with asyncio.timeout(10):
        while gate.keys.calls["generate"] < calls:
            await asyncio.sleep(0.01)


MINT = pb.GenerateKeyRequest(scope="prod/billing/a")
SLOW = """
[[caller]]
identity = "spiffe://test.example/*"
tenant = "acme"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""


async def test_a_caller_has_half_of_the_calls_in_flight(tmp_path: Path) -> None:
    """No slow one locks out the others."""
    async with (
        policy_server(tmp_path, policy_text=SLOW, concurrent_calls=5) as gate,
        gate.stub(gate.authority.issue(BILLING)) as billing,
        gate.stub(gate.authority.issue(uri("spiffe://test.example/web"))) as web,
    ):
        go_on = held(gate, 2)
        slow = [asyncio.create_task(requests.mint(billing, "prod/billing/a")) for _ in range(2)]
        await reached(gate, 2)
        calls = gate.backend_calls()
        for refused in (billing.GenerateKey(MINT), billing.Read(pb.ReadRequest(key_id="prod/billing/a"))):
            failure = await failure_of(refused)
            assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
            assert "RetryInfo" in failure.kinds
        assert gate.backend_calls() == calls
        await requests.mint(web, "prod/billing/a")
        go_on.set()
        await asyncio.gather(*slow)
        await requests.mint(billing, "prod/billing/a")
        outcomes = [line for line in gate.lines() if line["phase"] == "outcome" and line.get("reason")]
        assert {(line["caller"], line["tenant"]) for line in outcomes} == {("spiffe://test.example/billing", "acme")}


async def test_a_caller_has_half_of_the_bytes_of_requests(tmp_path: Path) -> None:
    """No large ones lock out the others."""
    text = SLOW + "[caller.limits]\nCreate = { per_second = 1000, burst = 1000 }\n"
    async with (
        policy_server(tmp_path, policy_text=text) as gate,
        gate.stub(gate.authority.issue(BILLING)) as billing,
        gate.stub(gate.authority.issue(uri("spiffe://test.example/web"))) as web,
    ):
        large = requests.create(await requests.mint(billing, "prod/"), "prod/large", bytes(MAX_PLAINTEXT))
        fitting, go_on = Limits().request_bytes // 2 // large.ByteSize(), asyncio.Event()
        for _ in range(fitting):
            gate.keys.before("unwrap", go_on.wait)
        calls = [asyncio.ensure_future(billing.Create(large)) for _ in range(fitting)]
        async with asyncio.timeout(20):
            while gate.keys.calls["unwrap"] < fitting:
                await asyncio.sleep(0.01)
            assert (await failure_of(billing.Create(large))).reason == "RATE_LIMITED"
            await web.Create(large)
            go_on.set()
            await asyncio.gather(*calls)


async def test_the_policy_says_how_many_calls_may_be_in_flight(tmp_path: Path) -> None:
    text = SLOW + "[caller.limits]\ncalls_in_flight = 3\n"
    async with (
        policy_server(tmp_path, policy_text=text, concurrent_calls=4) as gate,
        gate.stub(gate.authority.issue(BILLING)) as billing,
    ):
        go_on = held(gate, 3)
        slow = [asyncio.create_task(requests.mint(billing, "prod/billing/a")) for _ in range(3)]
        await reached(gate, 3)
        assert (await failure_of(billing.GenerateKey(MINT))).reason == "RATE_LIMITED"
        slow.pop().cancel()
        async with asyncio.timeout(10):
            while gate.keys.calls["generate"] < 4:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await billing.GenerateKey(MINT)
        go_on.set()
        await asyncio.gather(*slow)


async def test_without_authentication_callers_share_all_places(tmp_path: Path) -> None:
    text = SLOW.replace("spiffe://test.example/*", "anonymous")
    async with (
        policy_server(tmp_path, certificates=False, policy_text=text, concurrent_calls=2) as gate,
        gate.stub(None) as stub,
    ):
        go_on = held(gate, 2)
        slow = [asyncio.create_task(requests.mint(stub, "prod/billing/a")) for _ in range(2)]
        await reached(gate, 2)
        go_on.set()
        await asyncio.gather(*slow)


async def test_reads_are_paid_for_in_bytes(gate: PolicyServer) -> None:
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        key = await requests.mint(stub, "prod/billing/")
        await stub.Create(requests.create(key, "prod/billing/big", bytes(5_000)))
        await stub.Read(pb.ReadRequest(key_id="prod/billing/big"))
        failure = await failure_of(stub.Read(pb.ReadRequest(key_id="prod/billing/big")))
        assert (failure.status, failure.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        not_modified = stub.Read(pb.ReadRequest(key_id="prod/billing/big", known_revision=1))
        assert (await failure_of(not_modified)).reason == "RATE_LIMITED", "until the debt is paid"


async def test_a_changed_policy_counts_without_a_restart(gate: PolicyServer) -> None:
    """A bad one does not."""
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        await requests.mint(stub, "prod/billing/")
        replace(gate.folder / "policy.toml", b"[[caller]]\nnonsense")
        while 'keyvault_reload_failing{what="policy"} 1.0' not in await metrics(gate):
            await asyncio.sleep(0.05)
        await requests.mint(stub, "prod/billing/")
        replace(gate.folder / "policy.toml", POLICY.replace("prod/billing/*", "prod/other/*").encode())
        reason = "RECORD_NOT_FOUND"
        async with asyncio.timeout(10):
            while reason == "RECORD_NOT_FOUND":
                reason = (await failure_of(stub.Read(pb.ReadRequest(key_id="prod/billing/db")))).reason
                await asyncio.sleep(0.05)
        assert reason == "POLICY_DENIED"


@pytest.mark.parametrize("name", ["policy.toml", "keys.json", "ca.pem", "server.pem", "server.key"])
async def test_a_policy_that_others_may_write_stops_the_start(tmp_path: Path, name: str) -> None:
    """And any other file that says who may do what."""
    with pytest.raises(OperatorError, match=f"{tmp_path / name} has mode 0646.*chmod"):
        async with policy_server(tmp_path, tokens=True, modes={name: 0o646}):
            pass


async def test_metrics_are_served_to_prometheus_and_hold_no_name(gate: PolicyServer) -> None:
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        await requests.mint(stub, "prod/billing/")
        await failure_of(stub.Read(pb.ReadRequest(key_id="prod/other")))
    text = await metrics(gate)
    assert 'keyvault_calls_total{method="GenerateKey",status="OK"} 1.0' in text
    assert 'keyvault_calls_total{method="Read",status="PERMISSION_DENIED"} 1.0' in text
    assert 'keyvault_call_seconds_count{method="Read"} 1.0' in text
    assert "keyvault_ready 1.0" in text
    assert "keyvault_tls_certificate_expiry_seconds 1." in text
    assert not any(name in text for name in ("prod/", "billing", "acme"))


async def test_idle_connections_to_the_metrics_are_few_and_end(gate: PolicyServer) -> None:
    assert gate.running
    before = threading.active_count()
    strangers = [await asyncio.open_connection("127.0.0.1", gate.running.metrics_port) for _ in range(100)]
    async with asyncio.timeout(SCRAPE_SECONDS + 15):
        ended = [asyncio.create_task(reader.read()) for reader, _ in strangers]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        assert threading.active_count() < before + 50
        await asyncio.gather(*ended)
        assert "keyvault_ready" in await metrics(gate)
    for _, writer in strangers:
        writer.close()


async def metrics(gate: PolicyServer) -> str:
    """As Prometheus asks for them."""
    assert gate.running
    url = f"http://127.0.0.1:{gate.running.metrics_port}/metrics"

    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(fetch)


async def test_all_that_happens_is_in_the_audit_log(gate: PolicyServer) -> None:
    async with gate.stub(gate.authority.issue(BILLING)) as stub:
        key = await requests.mint(stub, "prod/billing/")
        request = requests.create(key, "prod/billing/db")
        await stub.Create(request)
        await stub.Create(request)
        await failure_of(stub.Update(requests.update(key, "prod/billing/db", 5)))
        await failure_of(stub.Read(pb.ReadRequest(key_id="prod/other")))
    async with gate.stub(gate.authority.issue()) as stub:
        await failure_of(stub.Read(pb.ReadRequest(key_id="prod/billing/db")))
    told = [
        (line["phase"], line["method"], line.get("caller", ""), line.get("status", ""), line.get("replayed", False))
        for line in gate.lines()
        if line["phase"] in ("intent", "outcome")
    ]
    me = "spiffe://test.example/billing"
    assert told == [
        ("outcome", "GenerateKey", me, "OK", False),
        ("intent", "Create", me, "", False),
        ("outcome", "Create", me, "OK", False),
        ("outcome", "Create", me, "OK", True),
        ("outcome", "Update", me, "ABORTED", False),
        ("outcome", "Read", me, "PERMISSION_DENIED", False),
        ("outcome", "Read", "", "UNAUTHENTICATED", False),
    ]
    of_nobody = [line for line in gate.lines() if line["phase"] == "outcome" and "caller" not in line]
    assert [line.get("tenant") for line in of_nobody] == [None], "not tenant default, nor any other"
    text = gate.audit_file.read_text()
    assert "prod/billing/db" not in text
    assert request.envelope.hex() not in text


async def test_nothing_is_done_that_the_audit_log_does_not_take(tmp_path: Path) -> None:
    """Nothing is written or answered."""
    async with policy_server(tmp_path) as gate, gate.stub(gate.authority.issue(BILLING)) as stub:
        key = await requests.mint(stub, "prod/billing/")
        await stub.Create(requests.create(key, "prod/billing/db"))
        gate.audit_file.rename(tmp_path / "moved")
        puts = gate.records.calls["put_if"]
        for call in (
            stub.Update(requests.update(key, "prod/billing/db", 2)),
            stub.Read(pb.ReadRequest(key_id="prod/billing/db")),
            stub.Read(pb.ReadRequest(key_id="prod/other")),
        ):
            failure = await failure_of(call)
            assert (failure.status, failure.reason) == ("UNAVAILABLE", BackendUnavailable.reason)
        assert gate.records.calls["put_if"] == puts
        while "keyvault_ready 0.0" not in await metrics(gate):
            await asyncio.sleep(0.05)


async def test_reads_may_be_spared_and_changes_may_not(tmp_path: Path) -> None:
    async with (
        policy_server(tmp_path, audit_spares_reads=True) as gate,
        gate.stub(gate.authority.issue(BILLING)) as stub,
    ):
        key = await requests.mint(stub, "prod/billing/")
        await stub.Create(requests.create(key, "prod/billing/db"))
        gate.audit_file.rename(tmp_path / "moved")
        assert (await stub.Read(pb.ReadRequest(key_id="prod/billing/db"))).revision == 1
        failure = await failure_of(stub.Update(requests.update(key, "prod/billing/db", 2)))
        assert failure.status == "UNAVAILABLE"
