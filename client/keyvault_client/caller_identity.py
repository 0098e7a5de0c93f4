"""Who the server says that the caller is: for people who debug access.

The rule of this file: what a server says is made printable before it is kept, and proves nothing.
"""

from dataclasses import dataclass
from typing import Any

from keyvault_api.printable import printable
from keyvault_api.v1 import keyvault_pb2 as pb


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of the caller's policy entry: these methods are allowed on these names."""

    methods: tuple[str, ...]
    names: tuple[str, ...]
    """key_ids and scopes; a final "*" stands for any continuation."""


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """How the server sees the caller."""

    identity: str
    """Such as "spiffe://example.org/billing"; "anonymous" where the server does not authenticate its callers."""
    tenant: str
    """Empty if the server's policy does not know the identity."""
    rules: tuple[PolicyRule, ...]
    """What the policy allows, in its order."""
    server_version: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        rules = [{"methods": list(rule.methods), "names": list(rule.names)} for rule in self.rules]
        return {
            "identity": self.identity,
            "tenant": self.tenant,
            "rules": rules,
            "server_version": self.server_version,
        }

    def __str__(self) -> str:
        """Return lines for a person."""
        lines = [("identity", self.identity), ("tenant", self.tenant or "none: the policy does not know the identity")]
        lines += [("may", f"{', '.join(rule.methods)} on {', '.join(rule.names)}") for rule in self.rules]
        return "\n".join(f"{name:15} {value}" for name, value in (*lines, ("server version", self.server_version)))


def caller_identity(answer: pb.WhoAmIResponse) -> CallerIdentity:
    """Return what the server answered."""
    rules = (
        PolicyRule(tuple(map(printable, rule.methods)), tuple(map(printable, rule.names))) for rule in answer.rules
    )
    return CallerIdentity(
        printable(answer.identity), printable(answer.tenant), tuple(rules), printable(answer.server_version)
    )
