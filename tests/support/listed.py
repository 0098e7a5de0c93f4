"""Records whose names List shows, made without a vault."""

import os

from keyvault_api import envelope
from keyvault_api.envelope import Kind
from keyvault_server.core.records import Record, successor


def record_of(key_id: str, kind: Kind = Kind.DATA, created: int = 1, *, revision: int = 1) -> Record:
    """Return a record as a mutation of this kind leaves it; `created` is in microseconds."""
    sealed = envelope.seal(os.urandom(32), "acme", key_id, revision, b"", kind)
    return successor(None, sealed, created, fresh=True)
