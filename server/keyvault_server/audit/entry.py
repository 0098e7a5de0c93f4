"""What the audit log records of a call: who asks for what, from where, and what a mutation stores.

The rule of this file: these are values, as they were sent or stored; `trail.py` makes lines of them, with HMACs.
"""

from typing import NamedTuple

from keyvault_api import envelope as kve1
from keyvault_api.envelope import HEAD_SIZE, Kind
from keyvault_server.core.records import DIGEST_SIZE, StoredHead, digest, state_of


class Origin(NamedTuple):
    """Where a call comes from."""

    peer: str = ""
    """Address of the caller, with its port, as gRPC writes it; "" for an operator's command."""
    uid: int | None = None
    """User who ran an operator's command."""
    sudo_uid: int | None = None
    """User who ran it by sudo, as the environment says."""


class Call(NamedTuple):
    """Who asks for what: the same in every line of a call."""

    request: str
    """Request id."""
    caller: str
    """Identity; "" if there is none."""
    method: str
    tenant: str
    """Tenant of the caller; "" if there is none."""
    key_id: str = ""
    """The key_id or scope, as it was sent; "" if the method has none."""
    origin: Origin = Origin()


class Change(NamedTuple):
    """The record that a mutation stores."""

    revision: int
    kind: Kind | None
    """None for a vacancy."""
    digest: bytes
    """SHA-256(envelope)[0:16], as in the ring; b"" for a vacancy."""
    head: bytes

    @classmethod
    def of(cls, record: StoredHead) -> "Change":
        """Return the change to this record."""
        state = state_of(record)
        return cls(state.revision, state.kind, record.ring[:DIGEST_SIZE], record.head)

    @classmethod
    def of_envelope(cls, envelope: bytes) -> "Change":
        """Return the change that a request's envelope asks for. Raises MalformedEnvelope."""
        header = kve1.parse(envelope)
        return cls(header.revision, header.kind, digest(envelope), envelope[:HEAD_SIZE])
