"""How a vector of kve1.json is made: sealed, or changed by edits, with what every reader must say of it.

The expectation comes from the caller, kve1.py; the reference has to agree with it before a vector is added.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from tests.vectors import reference
from tests.vectors.layout import Edit, Vectors, edited, pattern

DATA, TOMBSTONE, REKEY = 1, 2, 3
KINDS = {DATA: "DATA", TOMBSTONE: "TOMBSTONE", REKEY: "REKEY"}
NOTES = {
    "Normal": "An envelope as a client seals it.",
    "EdgeCaseSize": "A plaintext at the limits of a chunk or of the envelope.",
    "EdgeCaseRevision": "A revision at the limits of some integer type.",
    "EdgeCaseName": "A tenant or key_id at the limits of what KeyVault accepts.",
    "EdgeCaseKey": "A data key or salt of uniform bytes.",
    "NonceArithmetic": "Chunk nonces for which XOR and addition differ.",
    "FlippedBit": "One bit is changed.",
    "Truncated": "The end is missing.",
    "Appended": "Bytes follow the envelope.",
    "MalformedHeader": "Sealed with a header that no reader may accept: only parsing can refuse it.",
    "WrongSize": "Sealed with a size that the kind or the chunking does not have: only parsing can refuse it.",
    "TooLarge": "More than 380,456 bytes.",
    "ChunkOrder": "Chunks dropped, repeated or moved.",
    "WrongKey": "Another data key.",
    "WrongTenant": "Another tenant.",
    "WrongKeyId": "Another key_id.",
    "ShiftedBoundary": "Tenant and key_id that are the same text in a row: their lengths must be bound.",
    "ChangedRevision": "The revision is rewritten and is itself a good one.",
    "ChangedKind": "The kind is rewritten and the size fits it.",
    "WrongCommitment": "The commitment is not that of the key, the chunks are untouched: GCM alone would open.",
    "Salamander": "One body that AES-GCM opens under two derived keys: only the commitment tells them apart.",
    "Spliced": "Parts of two good envelopes of the same key and names.",
    "HeadSize": "A head of other than 72 bytes: only parsing can refuse it.",
    "DamagedBody": "The head is whole and says whose the record is; the body does not open.",
}


@dataclass(frozen=True)
class Owner:
    """What an envelope opens with."""

    key: bytes
    tenant: str
    key_id: str

    def fields(self) -> dict[str, str]:
        return {"key": self.key.hex(), "tenant": self.tenant, "keyId": self.key_id}


def drawn(name: str, size: int) -> bytes:
    """Bytes in place of random ones, the same at every run."""
    return hashlib.sha512(f"KVE1 vectors: {name}".encode()).digest()[:size]


ACME = Owner(bytes(range(32)), "acme", "prod/db-password")
"""The worked example's."""


class Envelopes(Vectors):
    """Vectors of envelopes, with those that others are made from."""

    def __init__(self) -> None:
        super().__init__("EnvelopeTest")
        self.made: dict[int, bytes] = {}

    def sealed(self, owner: Owner, plaintext: bytes, kind: int, revision: int, salt: bytes | None = None) -> bytes:
        salt = drawn(f"salt of test {self.count + 1}", 24) if salt is None else salt
        fixed = reference.header(revision, kind)
        return reference.seal(owner.key, owner.tenant, owner.key_id, fixed, salt, plaintext)

    def valid(
        self,
        comment: str,
        flags: str,
        plaintext: bytes,
        owner: Owner = ACME,
        kind: int = DATA,
        revision: int = 1,
        salt: bytes | None = None,
        envelope: bytes | None = None,
    ) -> int:
        """Adds a test that opens: with this envelope, or one sealed here."""
        envelope = self.sealed(owner, plaintext, kind, revision, salt) if envelope is None else envelope
        assert reference.open_(owner.key, owner.tenant, owner.key_id, envelope) == plaintext
        content: dict[str, Any] = {"plaintext": plaintext.hex()}
        if len(plaintext) > 255:
            assert plaintext == pattern(len(plaintext))
            content = {"plaintextLength": len(plaintext), "plaintextSha256": hashlib.sha256(plaintext).hexdigest()}
        told = {"kind": KINDS[kind], "revision": str(revision), "commits": True}
        number = self.add(comment, flags, **owner.fields(), envelope=envelope.hex(), result="valid", **told, **content)
        self.made[number] = envelope
        return number

    def refused(
        self,
        comment: str,
        flags: str,
        source: int | bytes,
        *edits: Edit,
        commits: bool | None = None,
        owner: Owner = ACME,
    ) -> None:
        """Adds a test that is refused: by parsing if `commits` is None, else by opening."""
        fields: dict[str, Any] = {"base": source, "edits": edits}
        if isinstance(source, bytes):
            envelope, fields = source, {"envelope": source.hex()}
        else:
            envelope = edited(self.made[source], edits)
        told: dict[str, Any] = {"phase": "parse"}
        if commits is None:
            assert not parses(envelope), comment
        else:
            kind, revision = reference.parse(envelope)
            assert not opens(owner, envelope), comment
            assert commits == reference.commits_to(envelope[:72], owner.key, owner.tenant, owner.key_id), comment
            told = {"phase": "open", "kind": KINDS[kind], "revision": str(revision), "commits": commits}
        self.add(comment, flags, **owner.fields(), **fields, result="invalid", **told)

    def head(self, comment: str, flags: str, head: bytes, commits: bool | None, owner: Owner = ACME) -> None:
        """Adds a test of a head alone, which is refused by parsing if `commits` is None."""
        told: dict[str, Any] = {"result": "invalid", "phase": "parse"}
        try:
            assert commits == reference.commits_to(head, owner.key, owner.tenant, owner.key_id), comment
            told = {"result": "valid", "commits": commits}
        except reference.Malformed:
            assert commits is None, comment
        self.add(comment, flags, **owner.fields(), head=head.hex(), **told)


def parses(envelope: bytes) -> bool:
    """Whether the reference sees an envelope in this."""
    try:
        reference.parse(envelope)
    except reference.Malformed:
        return False
    return True


def opens(owner: Owner, envelope: bytes) -> bool:
    """Whether the reference opens this."""
    try:
        reference.open_(owner.key, owner.tenant, owner.key_id, envelope)
    except reference.DoesNotOpen:
        return False
    return True
