"""The product's server with TLS, a policy and an audit log, on fakes of the two ports that count what reaches them."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.operations.environment import load_settings
from keyvault_server.operations.lifecycle import Running, serving
from tests.support.certificates import LOCALHOST, Authority, Issued, uri
from tests.support.connections import channel
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.issuer import AUDIENCE, ISSUER, Issuer

POLICY = """
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["*"]
names = ["prod/billing/*"]
[caller.limits]
GenerateKey = { per_second = 0.001, burst = 3 }
read_bytes = { per_second = 100, burst = 1000 }

[[caller]]
identity = "jwt:service-7"
tenant = "beta"
[[caller.allow]]
methods = ["*"]
names = ["*"]
"""
BILLING = uri("spiffe://test.example/billing")


def policy_of_reads(burst: int) -> str:
    """Return a policy under which BILLING may read records below prod/ so many times."""
    return f"""
[[caller]]
identity = "spiffe://test.example/billing"
tenant = "acme"
[[caller.allow]]
methods = ["GenerateKey", "Create"]
names = ["*"]
[[caller.allow]]
methods = ["Read"]
names = ["prod/*"]
[caller.limits]
Read = {{ per_second = 0.001, burst = {burst} }}
"""


@dataclass
class PolicyServer:
    """The server, and what its callers need."""

    folder: Path
    authority: Authority
    issuer: Issuer
    keys: FakeKeyService = field(default_factory=FakeKeyService)
    records: FakeRecordStore = field(default_factory=FakeRecordStore)
    running: Running | None = None

    @property
    def address(self) -> str:
        assert self.running
        return f"localhost:{self.running.port}"

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the audit log."""
        return [json.loads(line) for line in self.audit_file.read_bytes().splitlines()]

    def backend_calls(self) -> int:
        """Return the calls that reached the backends, without those of readiness."""
        return (
            sum((self.keys.calls + self.records.calls).values())
            - self.keys.calls["check"]
            - self.records.calls["check"]
        )

    @asynccontextmanager
    async def stub(self, client: Issued | None, ca: bytes | None = None) -> AsyncIterator[KeyVaultStub]:
        """Return a new connection that shows this certificate."""
        async with channel(self.address, ca or self.authority.pem, client) as connection:
            yield KeyVaultStub(connection)


@asynccontextmanager
async def policy_server(
    folder: Path,
    *,
    certificates: bool = True,
    tokens: bool = False,
    modes: Mapping[str, int] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[PolicyServer]:
    """Serve while the body runs; some of the files may have modes that they should not have."""
    made = PolicyServer(folder, Authority(), Issuer())
    certificate, private_key = made.authority.issue(*LOCALHOST).write(folder, "server")
    (folder / "ca.pem").write_bytes(made.authority.pem)
    (folder / "policy.toml").write_text(settings.pop("policy_text", POLICY))
    (folder / "keys.json").write_bytes(made.issuer.key_set())
    chosen: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "access_log": False,
        "tls_certificate": certificate,
        "tls_private_key": private_key,
        "policy": folder / "policy.toml",
        "audit_file": made.audit_file,
        "readiness_seconds": 0.05,
        "metrics_listen": "127.0.0.1:0",
    }
    if certificates:
        chosen["tls_client_ca"] = folder / "ca.pem"
    if tokens:
        chosen |= {"jwt_keys": str(folder / "keys.json"), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    async with serving(load_settings(**chosen | settings), made.keys, made.records) as made.running:
        yield made
