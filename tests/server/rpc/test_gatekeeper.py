"""One caller at the gate: its identity, its tenant, its calls in flight, and what it may do."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from keyvault_api.names import LIST_REVISIONS
from keyvault_server.access.identity import AuthContext, Identifier
from keyvault_server.access.policy import Policy
from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.errors import AuditUnavailable, PolicyDenied, RateLimited, Unauthenticated
from keyvault_server.disk.watched import Watched
from keyvault_server.rpc.gatekeeper import UNIDENTIFIED, Gatekeeper, Visitor
from tests.support.certificates import Authority, uri
from tests.support.meters import RecordedMeter

AUTHORITY = Authority()
POLICY = """
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["Read", "Create"]
names = ["prod/*"]
[caller.limits]
calls_in_flight = 2

[[caller]]
identity = "spiffe://test.example/web"
tenant = "beta"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""


@dataclass
class Peer:
    """The other end of a connection, with or without a client certificate."""

    name: str = ""
    proved: AuthContext = field(init=False)

    def __post_init__(self) -> None:
        san = uri(f"spiffe://test.example/{self.name}")
        self.proved = {"x509_pem_cert": [AUTHORITY.issue(san).certificate]} if self.name else {}

    def auth_context(self) -> AuthContext:
        return self.proved

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


BILLING, WEB, UNKNOWN, NOBODY = Peer("billing"), Peer("web"), Peer("unknown"), Peer()


@pytest.fixture
def gate() -> Gatekeeper:
    policy = Watched("policy", [], lambda: Policy.parse(POLICY), RecordedMeter())
    return Gatekeeper(Identifier(certificates=True), policy, in_flight_per_caller=3)


def come(gate: Gatekeeper, peer: Peer, method: str = "Read") -> Visitor:
    return Visitor(gate, method, "r-1", peer)


def enter(gate: Gatekeeper, peer: Peer, method: str = "Read") -> Visitor:
    visitor = come(gate, peer, method)
    visitor.enter()
    return visitor


def refused(gate: Gatekeeper, peer: Peer, error: type[Exception]) -> Visitor:
    """Return a visitor that was refused, and released as the guard releases every one."""
    visitor = come(gate, peer)
    with pytest.raises(error):
        visitor.enter()
    assert not visitor.entered
    visitor.release()
    return visitor


def test_a_caller_has_as_many_calls_in_flight_as_its_limit_says(gate: Gatekeeper) -> None:
    first, _ = enter(gate, BILLING), enter(gate, BILLING)
    for _ in range(2):
        refused(gate, BILLING, RateLimited)
    assert gate.in_flight.total == 2, "a refused call counts for nothing, and frees no other's place"
    first.release()
    assert gate.in_flight.total == 1
    enter(gate, BILLING)
    refused(gate, BILLING, RateLimited)


def test_a_caller_without_a_limit_has_that_of_the_server(gate: Gatekeeper) -> None:
    for _ in range(3):
        enter(gate, WEB)
    refused(gate, WEB, RateLimited)
    enter(gate, BILLING)


def test_a_caller_that_left_is_not_kept(gate: Gatekeeper) -> None:
    for visitor in [enter(gate, BILLING), enter(gate, BILLING), enter(gate, WEB)]:
        visitor.release()
    assert (len(gate.in_flight), gate.in_flight.total) == (0, 0)


def test_a_caller_that_the_policy_does_not_know_has_no_tenant(gate: Gatekeeper) -> None:
    visitor = refused(gate, UNKNOWN, PolicyDenied)
    assert (visitor.identity, visitor.tenant) == ("spiffe://test.example/unknown", "")
    assert refused(gate, NOBODY, Unauthenticated).identity == ""
    assert gate.in_flight.total == 0


def test_a_caller_acts_in_its_tenant_on_its_names(gate: Gatekeeper) -> None:
    visitor = enter(gate, BILLING)
    assert (visitor.tenant, visitor.entered) == ("acme", True)
    visitor.permit("prod/a")
    with pytest.raises(PolicyDenied):
        visitor.permit("dev/a")
    with pytest.raises(PolicyDenied):
        enter(gate, BILLING, "Delete").permit("prod/a")


def test_without_a_policy_every_caller_is_of_the_default_tenant() -> None:
    gate = Gatekeeper()
    visitor = enter(gate, NOBODY)
    visitor.permit("any/name")
    visitor.release()
    assert (visitor.tenant, visitor.entered, gate.in_flight.total) == (DEFAULT_TENANT, True, 0)


def test_so_many_calls_without_an_identity_get_lines(gate: Gatekeeper) -> None:
    burst = int(UNIDENTIFIED.burst)
    assert [gate.gives_line() for _ in range(burst + 2)] == [True] * burst + [False] * 2


class FullLog:
    """An audit log that takes no line."""

    async def outcome(self, *_: object, **__: object) -> None:
        raise AuditUnavailable


@pytest.mark.parametrize(("method", "spares_reads"), [("Read", False), ("Create", False), ("Create", True)])
async def test_nothing_is_answered_without_its_audit_line(method: str, spares_reads: bool) -> None:
    log: Any = FullLog()
    caller = Visitor(Gatekeeper(audit=log, reads_without_audit=spares_reads), method, "req-1")
    with pytest.raises(AuditUnavailable):
        await caller.record_outcome("OK", "")


async def test_a_read_is_answered_without_one_if_the_operator_says_so() -> None:
    log: Any = FullLog()
    for method in ("Read", LIST_REVISIONS):
        await Visitor(Gatekeeper(audit=log, reads_without_audit=True), method, "req-1").record_outcome("OK", "")
