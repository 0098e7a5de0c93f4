"""Records as the stores keep them, and what a mutation has to know of one.

A stored `head` is one of two things: the first 72 bytes of the stored envelope, or, after a purge, the 8 bytes of the
last revision (a vacancy: it has no owner). Revision and kind are read from the head, never stored next to it.
The ring is SHA-256(envelope)[0:16] of the last 16 envelopes, newest first: an envelope is its own idempotency token.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from keyvault_api.envelope import HEAD_SIZE, MAX_REVISION, Kind, MalformedEnvelope, parse_head
from keyvault_api.names import REMEMBERED_ENVELOPES
from keyvault_server.core.errors import RecordCorrupt

FORMAT = 1
"""Stored with every record; a store refuses a number that it does not know."""
DIGEST_SIZE = 16
"""Bytes of a digest in the ring."""
VACANCY_SIZE = 8
"""Bytes of a vacancy's head."""


@dataclass(frozen=True, slots=True)
class StoredHead:
    """What a store keeps next to the body, uninterpreted."""

    head: bytes
    """72 bytes of an envelope, or the 8 bytes of a vacancy."""
    ring: bytes
    """0 to 16 digests of 16 bytes, newest first."""
    created: int
    """Microseconds since 1970 by the server's clock; informational."""
    updated: int
    """Microseconds since 1970 by the server's clock; informational."""


@dataclass(frozen=True, slots=True)
class Record(StoredHead):
    """Everything that is stored under one name."""

    body: bytes
    """The envelope from offset 72 on; empty for a vacancy."""

    @property
    def envelope(self) -> bytes:
        """The stored envelope."""
        return self.head + self.body


class State(NamedTuple):
    """A stored head, parsed."""

    revision: int
    kind: Kind | None
    """DATA, TOMBSTONE, or None for a vacancy."""

    @property
    def live(self) -> bool:
        """True if Read finds the record."""
        return self.kind is Kind.DATA


def state_of(stored: StoredHead) -> State:
    """Parse a stored head. Raises RecordCorrupt for one that no accepted mutation can have left."""
    if len(stored.head) == VACANCY_SIZE:
        state = State(int.from_bytes(stored.head, "big"), None)
        if stored.ring or not 1 <= state.revision <= MAX_REVISION:
            raise RecordCorrupt
        return state
    try:
        header = parse_head(stored.head)
    except MalformedEnvelope:
        raise RecordCorrupt from None
    length, rest = divmod(len(stored.ring), DIGEST_SIZE)
    if header.kind is Kind.REKEY or rest or not 1 <= length <= REMEMBERED_ENVELOPES:
        raise RecordCorrupt(header.revision)
    return State(header.revision, header.kind)


def listed_as(stored: StoredHead) -> Kind | None:
    """Return among which names List shows a record: live ones (DATA), deleted ones (TOMBSTONE), or neither."""
    try:
        return state_of(stored).kind
    except RecordCorrupt:
        return None


def remembered_since(stored: StoredHead | None) -> int:
    """Return the oldest revision whose envelope is still recognized, `current + 1` if none is.

    Raises RecordCorrupt.
    """
    if stored is None:
        return 1
    return state_of(stored).revision + 1 - len(stored.ring) // DIGEST_SIZE


def digest(envelope: bytes) -> bytes:
    """Return an envelope's digest in the ring: SHA-256(envelope)[0:16]."""
    return hashlib.sha256(envelope).digest()[:DIGEST_SIZE]


def in_ring(wanted: bytes, ring: bytes) -> bool:
    """Return whether one of the remembered envelopes has this digest."""
    return any(wanted == ring[at : at + DIGEST_SIZE] for at in range(0, len(ring), DIGEST_SIZE))


def successor(stored: StoredHead | None, envelope: bytes, now: int, *, fresh: bool) -> Record:
    """Return the record that an accepted envelope makes of what is stored; `fresh` (Create) resets the create time."""
    ring = digest(envelope) + (stored.ring if stored else b"")
    created = now if fresh or stored is None else stored.created
    return Record(envelope[:HEAD_SIZE], ring[: REMEMBERED_ENVELOPES * DIGEST_SIZE], created, now, envelope[HEAD_SIZE:])


def vacancy(last_revision: int, now: int) -> Record:
    """Return what a purge leaves of a name: no owner, no ring, only the last revision."""
    return Record(last_revision.to_bytes(VACANCY_SIZE, "big"), b"", now, now, b"")
