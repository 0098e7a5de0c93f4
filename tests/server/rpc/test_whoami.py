"""WhoAmI: a caller sees how the server sees it, and nothing of others."""

import asyncio
from pathlib import Path

import grpc
import pytest

from keyvault_api.names import POLICY_METHODS
from keyvault_api.v1 import keyvault_pb2 as pb
from tests.support.audit_server import audit_server
from tests.support.certificates import uri
from tests.support.policy_server import BILLING, policy_server
from tests.support.refusals import failure_of

POLICY = """
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["Update", "Read"]
names = ["prod/billing/*", "prod/db"]
[[caller.allow]]
methods = ["UnwrapKey"]
names = ["prod/legacy/"]

[[caller]]
identity = "jwt:service-7"
tenant = "beta"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""


async def test_a_caller_sees_its_own_entry_of_the_policy(tmp_path: Path) -> None:
    async with policy_server(tmp_path, policy_text=POLICY) as server:
        async with server.stub(server.authority.issue(BILLING)) as stub:
            answer = await stub.WhoAmI(pb.WhoAmIRequest())
        assert (answer.identity, answer.tenant) == ("spiffe://test.example/billing", "acme")
        assert [(list(rule.methods), list(rule.names)) for rule in answer.rules] == [
            (["Read", "Update"], ["prod/billing/*", "prod/db"]),
            (["UnwrapKey"], ["prod/legacy/"]),
        ]
        assert answer.server_version
        assert [line["status"] for line in server.lines() if line.get("method") == "WhoAmI"] == ["OK"]


async def test_a_caller_that_the_policy_does_not_know_has_no_tenant(tmp_path: Path) -> None:
    """Every other call of it stays denied."""
    async with (
        policy_server(tmp_path, policy_text=POLICY) as server,
        server.stub(server.authority.issue(uri("spiffe://test.example/unknown"))) as stub,
    ):
        answer = await stub.WhoAmI(pb.WhoAmIRequest())
        assert (answer.identity, answer.tenant) == ("spiffe://test.example/unknown", "")
        assert not answer.rules
        assert (await failure_of(stub.Read(pb.ReadRequest(key_id="prod/db")))).reason == "POLICY_DENIED"
        assert (await failure_of(stub.GenerateKey(pb.GenerateKeyRequest()))).reason == "POLICY_DENIED"


async def test_a_caller_without_an_identity_sees_nothing(tmp_path: Path) -> None:
    async with policy_server(tmp_path, policy_text=POLICY) as server, server.stub(server.authority.issue()) as stub:
        assert (await failure_of(stub.WhoAmI(pb.WhoAmIRequest()))).reason == "UNAUTHENTICATED"


@pytest.mark.medium
@pytest.mark.parametrize("path", ["billing", "unknown"])
async def test_who_asks_too_often_is_rate_limited(tmp_path: Path, path: str) -> None:
    async with (
        policy_server(tmp_path, policy_text=POLICY) as server,
        server.stub(server.authority.issue(uri(f"spiffe://test.example/{path}"))) as stub,
    ):
        answers = await asyncio.gather(*(_status(stub.WhoAmI(pb.WhoAmIRequest())) for _ in range(90)))
    assert set(answers) == {"OK", "RATE_LIMITED"}
    assert answers.count("OK") >= 50


async def test_without_a_policy_everything_is_allowed(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server:
        answer = await server.stub.WhoAmI(pb.WhoAmIRequest())
    assert (answer.identity, answer.tenant) == ("anonymous", "default")
    assert [(tuple(rule.methods), list(rule.names)) for rule in answer.rules] == [(POLICY_METHODS, ["*"])]


async def _status(call: grpc.aio.UnaryUnaryCall[pb.WhoAmIRequest, pb.WhoAmIResponse]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError:
        return (await failure_of(call)).reason
    return "OK"
