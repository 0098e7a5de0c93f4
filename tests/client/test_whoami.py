"""Who the server says that the caller is, for people and for programs."""

import json

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import CallerIdentity, KeyVault, PolicyRule
from keyvault_client.caller_identity import caller_identity
from tests.support.servers import Served
from tests.support.shell import Shell

FORGED = "\x1b[2Jbilling\nidentity forged"


async def test_a_client_sees_its_identity_and_rules(server: Served) -> None:
    async with KeyVault(server.address) as vault:
        you = await vault.whoami()
    assert (you.identity, you.tenant) == ("anonymous", "default")
    assert [rule.names for rule in you.rules] == [("*",)]
    assert you.server_version


def test_what_a_server_says_controls_no_terminal() -> None:
    rules = [pb.WhoAmIResponse.Rule(methods=[FORGED], names=[FORGED])]
    you = caller_identity(pb.WhoAmIResponse(identity=FORGED, tenant=FORGED, rules=rules, server_version=FORGED))
    assert "\x1b" not in str(you)
    assert len(str(you).splitlines()) == 4


def test_an_identity_without_a_tenant_is_explained() -> None:
    you = CallerIdentity("jwt:alice", "", (PolicyRule(("Read",), ("a", "b/*")),), "1.0")
    assert str(you).splitlines() == [
        "identity        jwt:alice",
        "tenant          none: the policy does not know the identity",
        "may             Read on a, b/*",
        "server version  1.0",
    ]


@pytest.mark.process
def test_the_command_writes_lines_or_json(shell: Shell) -> None:
    lines = shell.ok("whoami").decode().splitlines()
    assert lines[:2] == ["identity        anonymous", "tenant          default"]
    answer = json.loads(shell.ok("whoami --json"))
    assert set(answer) == {"identity", "tenant", "rules", "server_version"}
    assert answer["rules"][0]["names"] == ["*"]
