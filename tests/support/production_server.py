"""A server process with all that production asks for: TLS, client certificates, a policy, an audit log.

The rule of this file: all is made by the commands that a user has, and nothing of the server's limits is in the way of
a load.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from keyvault_server.access.quotas import DEFAULT_RATES
from tests.support.certificates import Issued
from tests.support.connections import channel
from tests.support.forked import run_forked
from tests.support.processes import STARTED, ServerProcess, server_process

BUCKETS = tuple(DEFAULT_RATES)
TENANTS = {"alice": "acme", "bob": "beta"}
"""The clients of `keyvault-server dev-certs`, by name, and the tenant that the policy gives each."""
UNWRAPPED = "unwrap/me"
"""The scope for which UnwrapKey is on."""


def identity(name: str) -> str:
    """Return the SPIFFE ID of a client."""
    return f"spiffe://keyvault.test/{name}"


def policy() -> str:
    """Return a policy that allows every client everything, without limits."""
    return "\n".join(_entry(name, tenant) for name, tenant in TENANTS.items())


def _entry(name: str, tenant: str) -> str:
    limits = "\n".join(f"{bucket} = {{ per_second = 1000000000, burst = 1000000000000 }}" for bucket in BUCKETS)
    return f"""
[[caller]]
identity = "{identity(name)}"
tenant = "{tenant}"
[[caller.allow]]
methods = ["*"]
names = ["*"]
[[caller.allow]]
methods = ["UnwrapKey"]
names = ["{UNWRAPPED}"]
[caller.limits]
calls_in_flight = 1_000_000
{limits}
"""


@dataclass(frozen=True)
class ProductionServer:
    """The server, and the files that its callers need."""

    server: ServerProcess
    folder: Path

    @property
    def address(self) -> str:
        return f"localhost:{self.server.address.rpartition(':')[2]}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.jsonl"

    def channel(self, name: str = "alice") -> grpc.aio.Channel:
        """Return a new connection of this client."""
        certificate, private_key = (self.folder / "certs" / f"{name}.{kind}" for kind in ("pem", "key"))
        shown = Issued(certificate.read_bytes(), private_key.read_bytes())
        return channel(self.address, (self.folder / "certs" / "ca.pem").read_bytes(), shown)


@contextmanager
def production_server(
    folder: Path, program: Sequence[str | Path] = (), **environment: str
) -> Iterator[ProductionServer]:
    """Run a server in `folder`, which may hold what an earlier one left; kill it at the end if it still runs."""
    certs = folder / "certs"
    if not certs.exists():
        run_forked([*STARTED, "dev-certs", certs], environment=os.environ, timeout=30).check_returncode()
        (folder / "policy.toml").write_text(policy())
    settings = {
        "KEYVAULT_TLS_CERTIFICATE": str(certs / "server.pem"),
        "KEYVAULT_TLS_PRIVATE_KEY": str(certs / "server.key"),
        "KEYVAULT_TLS_CLIENT_CA": str(certs / "ca.pem"),
        "KEYVAULT_POLICY": str(folder / "policy.toml"),
        "KEYVAULT_AUDIT_FILE": str(folder / "audit.jsonl"),
        "KEYVAULT_UNWRAP_SCOPES": f'["{UNWRAPPED}"]',
    }
    with server_process(folder / "data", program=program, **settings | environment) as server:
        yield ProductionServer(server, folder)
