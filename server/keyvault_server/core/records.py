"""Records as the stores keep them, and what a mutation has to know of one.

A stored `head` is one of two things: the first 72 bytes of the stored envelope, or, after a purge, the 8 bytes of the
last revision (a vacancy: it has no owner). Revision and kind are read from the head alone.
The ring is SHA-256(envelope)[0:16] of the last 16 envelopes, newest first: an envelope is its own idempotency token.
`since` alone decides which revisions can be read: those from it to the current one. Every put moves it (`successor`).
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvault_api.envelope import HEAD_SIZE, MAX_REVISION, Kind, MalformedEnvelope, parse_head
from keyvault_api.names import REMEMBERED_ENVELOPES
from keyvault_server.core.errors import RecordCorrupt

FORMAT = 2
"""Stored with every record; a store refuses a number that it does not know."""
DIGEST_SIZE = 16
"""Bytes of a digest in the ring."""
VACANCY_SIZE = 8
"""Bytes of a vacancy's head."""
_REVISION = struct.Struct(">QI")
"""Of one revision that can be read: its update time in microseconds, and the size of its envelope in bytes."""


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
    since: int = field(default=0, kw_only=True)
    """The oldest revision that can be read, or the current one where none can be; no record has 0."""
    revisions: bytes = field(default=b"", kw_only=True)
    """Update time and size of each revision from `since` on, newest first, in 12 bytes each; none for a vacancy."""

    @property
    def superseded(self) -> int:
        """The revision before the current one if it can still be read, from its copy; 0 if it cannot."""
        earlier = len(self.revisions) // _REVISION.size - 1
        return self.since + earlier - 1 if earlier > 0 else 0


@dataclass(frozen=True, slots=True)
class Record(StoredHead):
    """Everything that is stored under one name."""

    body: bytes
    """The envelope from offset 72 on; empty for a vacancy."""

    @property
    def envelope(self) -> bytes:
        """The stored envelope."""
        return self.head + self.body

    @property
    def stored_head(self) -> StoredHead:
        """The record without its body."""
        return StoredHead(self.head, self.ring, self.created, self.updated, since=self.since, revisions=self.revisions)


class Readable(NamedTuple):
    """A revision that can be read."""

    revision: int
    updated: int
    """Microseconds since 1970."""
    size: int
    """Bytes of its envelope."""


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
        if stored.ring or stored.revisions or stored.since != state.revision:
            raise RecordCorrupt
        if not 1 <= state.revision <= MAX_REVISION:
            raise RecordCorrupt
        return state
    try:
        header = parse_head(stored.head)
    except MalformedEnvelope:
        raise RecordCorrupt from None
    length, rest = divmod(len(stored.ring), DIGEST_SIZE)
    if header.kind is Kind.REKEY or rest or not 1 <= length <= REMEMBERED_ENVELOPES:
        raise RecordCorrupt(header.revision)
    readable, rest = divmod(len(stored.revisions), _REVISION.size)
    if rest or not 1 <= readable <= length or stored.since != header.revision + 1 - readable:
        raise RecordCorrupt(header.revision)
    return State(header.revision, header.kind)


def listed_as(stored: StoredHead) -> Kind | None:
    """Return among which names List shows a record: live ones (DATA), deleted ones (TOMBSTONE), or neither."""
    try:
        return state_of(stored).kind
    except RecordCorrupt:
        return None


def readable_revisions(stored: StoredHead) -> Iterator[Readable]:
    """Return the revisions from `since` on, newest first; `state_of` has accepted the head."""
    entries = list(_REVISION.iter_unpack(stored.revisions))
    newest = stored.since + len(entries) - 1
    return (Readable(newest - age, updated, size) for age, (updated, size) in enumerate(entries))


def oldest_needed(stored: StoredHead) -> int:
    """Return the oldest revision of which a copy may be needed. Raises RecordCorrupt.

    That is `since`; but a vacancy needs none, also not of its own revision, which an Update that failed may have left.
    """
    state = state_of(stored)
    return state.revision + 1 if state.kind is None else stored.since


def digest_of(stored: StoredHead, revision: int, current: int) -> bytes:
    """Return the digest that the ring of a record at revision `current` has of one that can be read."""
    at = (current - revision) * DIGEST_SIZE
    return stored.ring[at : at + DIGEST_SIZE]


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


def digests(ring: bytes) -> Iterator[bytes]:
    """Return the digests of a ring, newest first."""
    return (ring[at : at + DIGEST_SIZE] for at in range(0, len(ring), DIGEST_SIZE))


def in_ring(wanted: bytes, ring: bytes) -> bool:
    """Return whether one of the remembered envelopes has this digest."""
    return wanted in digests(ring)


def successor(stored: StoredHead | None, envelope: bytes, now: int, *, fresh: bool, history: int = 0) -> Record:
    """Return the record that an accepted envelope makes of what is stored; `fresh` (Create) resets the create time.

    An Update keeps up to `history` of the revisions before it readable, so that `since` becomes
    max(since, revision - history); anything else keeps none of them.
    """
    ring = digest(envelope) + (stored.ring if stored else b"")
    earlier = stored.revisions[: history * _REVISION.size] if stored else b""
    revisions = _REVISION.pack(now, len(envelope)) + earlier
    return Record(
        envelope[:HEAD_SIZE],
        ring[: REMEMBERED_ENVELOPES * DIGEST_SIZE],
        now if fresh or stored is None else stored.created,
        now,
        envelope[HEAD_SIZE:],
        since=parse_head(envelope[:HEAD_SIZE]).revision - len(earlier) // _REVISION.size,
        revisions=revisions,
    )


def vacancy(last_revision: int, now: int) -> Record:
    """Return what a purge leaves of a name: no owner, no ring, only the last revision."""
    head = last_revision.to_bytes(VACANCY_SIZE, "big")
    return Record(head, b"", now, now, b"", since=last_revision)
