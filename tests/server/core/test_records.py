"""What a stored head may be, and what a ring of digests remembers."""

import hashlib
from dataclasses import replace

import pytest

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.records import (
    Record,
    State,
    StoredHead,
    digest,
    in_ring,
    remembered_since,
    state_of,
    successor,
    vacancy,
)


def sealed(revision: int, kind: Kind = Kind.DATA) -> bytes:
    plaintext = bytes(32) if kind is Kind.REKEY else b""
    return kve1.seal(bytes(32), "acme", "k", revision, plaintext, kind)


def stored(head: bytes, digests: int) -> StoredHead:
    revision = int.from_bytes(head[8:16], "big")
    return StoredHead(head, bytes(16 * digests), 1, 1, since=revision, revisions=bytes(12))


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.TOMBSTONE])
@pytest.mark.parametrize("digests", [1, 16])
def test_a_head_with_1_to_16_digests_is_read(kind: Kind, digests: int) -> None:
    assert state_of(stored(sealed(7, kind)[:72], digests)) == State(7, kind)


@pytest.mark.parametrize("digests", [0, 17])
def test_a_head_with_another_number_of_digests_is_corrupt(digests: int) -> None:
    with pytest.raises(RecordCorrupt) as corrupt:
        state_of(stored(sealed(7)[:72], digests))
    assert corrupt.value.metadata["current_revision"] == "7"


def test_a_ring_of_a_part_of_a_digest_is_corrupt() -> None:
    with pytest.raises(RecordCorrupt):
        state_of(replace(stored(sealed(7)[:72], 1), ring=bytes(17)))


def test_a_permit_is_never_a_record() -> None:
    """A REKEY authorizes an envelope. Stored, it would be neither live nor deleted."""
    with pytest.raises(RecordCorrupt) as corrupt:
        state_of(stored(sealed(7, Kind.REKEY)[:72], 1))
    assert corrupt.value.metadata["current_revision"] == "7"


@pytest.mark.parametrize("revision", [1, 2**63 - 1])
def test_a_vacancy_has_a_revision_and_no_ring(revision: int) -> None:
    assert vacancy(revision, 5) == Record(revision.to_bytes(8, "big"), b"", 5, 5, b"", since=revision)
    assert state_of(vacancy(revision, 5)) == State(revision, None)
    assert not state_of(vacancy(revision, 5)).live
    with pytest.raises(RecordCorrupt):
        state_of(replace(vacancy(revision, 5), ring=bytes(16)))


@pytest.mark.parametrize("revision", [0, 2**63, 2**64 - 1])
def test_a_vacancy_of_a_revision_out_of_range_is_corrupt(revision: int) -> None:
    with pytest.raises(RecordCorrupt):
        state_of(vacancy(revision, 5))


def test_a_digest_is_the_first_half_of_sha_256() -> None:
    assert digest(b"envelope") == hashlib.sha256(b"envelope").digest()[:16]


def test_the_newest_of_sixteen_digests_comes_first() -> None:
    record: Record | None = None
    envelopes = [sealed(revision) for revision in range(1, 19)]
    for now, envelope in enumerate(envelopes):
        record = successor(record, envelope, now, fresh=False)
    assert record is not None
    assert record.ring == b"".join(digest(envelope) for envelope in reversed(envelopes[2:]))
    assert (record.created, record.updated, record.envelope) == (0, 17, envelopes[-1])
    assert [in_ring(digest(envelope), record.ring) for envelope in envelopes] == [False] * 2 + [True] * 16
    assert not in_ring(record.ring[8:24], record.ring), "a digest begins at a multiple of 16"
    assert remembered_since(record) == 3


def test_nothing_stored_remembers_from_revision_1() -> None:
    assert remembered_since(None) == 1
    assert remembered_since(vacancy(7, 5)) == 8
