"""The vectors of kve1.json: what is sealed, what is then done to it, and what every reader must say.

Each expectation is written down here, not computed; only of a flipped header it is asked which phase refuses it.
"""

import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors import reference
from tests.vectors.envelopes import ACME, DATA, KINDS, NOTES, REKEY, TOMBSTONE, Envelopes, Owner, drawn, parses
from tests.vectors.layout import CHUNK, CHUNKS_AT, append, chunks, cut, edited, flip, pad, pattern, put
from tests.vectors.salamander import both_open

OTHER_KEY = drawn("another data key", 32)
MALFORMED = (
    (0, "magic", (b"KVF", b"kve", b"\x00\x00\x00", b"EVK")),
    (3, "version", (b"\x00", b"\x02", b"\xff")),
    (4, "alg", (b"\x00", b"\x02", b"\xff")),
    (5, "kind", (b"\x00", b"\x04", b"\x80", b"\x81", b"\xff")),
    (6, "reserved", (b"\x00\x01", b"\x01\x00", b"\x80\x00", b"\xff\xff")),
    (8, "revision", tuple(number.to_bytes(8, "big") for number in (0, 2**63, 2**63 + 1, 2**64 - 1))),
)
"""Values that no header may have: offset, field, values."""


def make() -> str:
    """The file kve1.json."""
    out = Envelopes()
    good = _good(out)
    _edges(out)
    _damaged(out, good)
    _malformed(out)
    _reordered(out, good)
    _other_keys_and_names(out, good)
    _rewritten(out, good)
    _uncommitted(out, good)
    _heads(out, good)
    return out.text("KVE1", "kve1.schema.json", NOTES)


def _good(out: Envelopes) -> dict[str, int]:
    out.group("valid: kinds and sizes")
    salt = bytes(range(0x40, 0x58))
    example = out.valid("the worked example of docs/envelope.md, section 10", "Normal", b"hunter2", salt=salt)
    digest = hashlib.sha256(out.made[example]).digest()
    good = {
        "example": example,
        "tombstone": out.valid("a deletion", "Normal", b"", kind=TOMBSTONE, revision=2),
        "rekey": out.valid("a permit for the worked example's envelope", "Normal", digest, kind=REKEY, revision=2),
        "text": out.valid("UTF-8 text", "Normal", "schlüssel: 鍵\n".encode()),
    }
    for size in (0, 1, 15, 16, 17, 32, 255, 16_383, 16_384, 16_385, 32_768, 380_000):
        good[str(size)] = out.valid(f"{size} bytes", "EdgeCaseSize", pattern(size))
    return good


def _edges(out: Envelopes) -> None:
    out.group("valid: revisions, names, keys, nonces")
    for power in (8, 16, 31, 32, 53, 63):
        for revision in (2**power - 1, 2**power, 2**power + 1):
            if revision < 2**63:
                out.valid(f"revision {revision}", "EdgeCaseRevision", b"7", revision=revision)
    out.valid("deleted at the last revision", "EdgeCaseRevision", b"", kind=TOMBSTONE, revision=2**63 - 1)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:@/+=-"
    for tenant, key_id in (
        ("a", "k"),
        ("0", "/k"),
        ("a" * 63, "k" * 255),
        ("a-0-", alphabet),
        ("default", "prod//x"),
        ("default", "prod/../x"),
    ):
        comment = f"{len(tenant)} bytes of tenant, {len(key_id)} of key_id"
        out.valid(comment, "EdgeCaseName", b"named", replace(ACME, tenant=tenant, key_id=key_id))
    for byte in (b"\x00", b"\xff"):
        out.valid(f"a data key of {byte.hex()}", "EdgeCaseKey", byte * 20, replace(ACME, key=byte * 32))
        out.valid(f"a salt of {byte.hex()}", "EdgeCaseKey", byte * 20, salt=byte * 24)
    context = reference.context(reference.header(1, DATA), ACME.tenant, ACME.key_id)
    salts = (drawn(f"nonce {i}", 24) for i in range(100_000))
    ends_in_ff = next(salt for salt in salts if reference.derive(ACME.key, salt, context).base_nonce.endswith(b"\xff"))
    out.valid("a base nonce that ends in ff", "NonceArithmetic", pattern(16_385), salt=ends_in_ff)


def _damaged(out: Envelopes, good: dict[str, int]) -> None:
    example = good["example"]
    whole = out.made[example]
    out.group("every bit of a header, two bits of every other byte")
    for offset in range(len(whole)):
        for bit in range(8) if offset < 16 else (0, 7):
            edit = flip(offset, 1 << bit)
            commits = offset >= CHUNKS_AT if parses(edited(whole, [edit])) else None
            out.refused(f"byte {offset}, bit {bit}", "FlippedBit", example, edit, commits=commits)
    out.group("truncated")
    for length in range(len(whole)):
        commits = True if length >= 88 else None
        out.refused(f"the first {length} bytes", "Truncated", example, cut(length), commits=commits)
    for length in range(CHUNKS_AT + CHUNK, 16_488):
        out.refused(f"{length - CHUNKS_AT - CHUNK} bytes of the last tag", "Truncated", good["16384"], cut(length))
    out.refused("one byte short of the largest", "Truncated", good["380000"], cut(380_455), commits=True)
    out.group("appended")
    for more in (b"\x00", bytes(16), b"\xff" * 16, whole, whole[CHUNKS_AT:]):
        out.refused(f"{len(more)} more bytes", "Appended", example, append(more), commits=True)
    out.refused("a tombstone and a byte", "Appended", good["tombstone"], append(b"\x00"))
    out.refused("a permit and a byte", "Appended", good["rekey"], append(b"\x00"))
    out.refused("a byte that fills the last chunk", "Appended", good["16383"], append(b"\x00"))
    out.refused("a byte after an empty last chunk", "Appended", good["16384"], append(b"\x00"), commits=True)
    out.refused("a second empty chunk", "Appended", good["16384"], append(bytes(16)), commits=True)
    out.group("at the limit of an envelope, and over")
    out.refused("the largest and a byte", "TooLarge", good["380000"], append(b"\x00"))
    for length in (380_457, 380_457 + CHUNK, 1_048_576):
        out.refused(f"{length} bytes", "TooLarge", example, pad(length))
    out.refused("as large as may be, and no envelope", "DamagedBody", example, pad(380_456), commits=True)


def _malformed(out: Envelopes) -> None:
    def sealed(fixed: bytes, plaintext: bytes) -> bytes:
        salt = drawn(f"salt of test {out.count + 1}", 24)
        return reference.seal(ACME.key, ACME.tenant, ACME.key_id, fixed, salt, plaintext)

    normal = reference.header(1, DATA)
    out.group("sealed with a malformed header")
    for offset, field, values in MALFORMED:
        for value in values:
            fixed = edited(normal, [put(offset, value)])
            for plaintext in (b"", b"hunter2", bytes(32)):
                comment = f"{field} {value.hex()}, {len(plaintext)} bytes"
                out.refused(comment, "MalformedHeader", sealed(fixed, plaintext))
    out.group("sealed with a wrong size")
    for kind, sizes in ((TOMBSTONE, (1, 7, 32, 16_384)), (REKEY, (0, 31, 33, 64))):
        for size in sizes:
            comment = f"{KINDS[kind]} of {size} bytes"
            out.refused(comment, "WrongSize", sealed(reference.header(2, kind), pattern(size)))
    uncut = sealed(normal, pattern(16_384))[: CHUNKS_AT + CHUNK]
    out.refused("a full chunk, without the empty one that ends it", "WrongSize", uncut)


def _reordered(out: Envelopes, good: dict[str, int]) -> None:
    out.group("chunks dropped, repeated, moved")
    for size, orders in {
        "16385": ((1,), (1, 0), (0, 0, 1), (0, 1, 1)),
        "32768": ((2,), (0, 2), (1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1), (0, 0, 2), (0, 0, 1, 2), (0, 1, 2, 2)),
        "380000": (tuple(range(1, 24)), (*range(22), 23), (*range(21), 22, 21, 23), (23,), (23, *range(23))),
    }.items():
        for order in orders:
            comment = f"of {size} bytes, chunks {' '.join(map(str, order))}"
            out.refused(comment, "ChunkOrder", good[size], chunks(*order), commits=True)
    for size, order in (("7", ()), ("16385", (0,)), ("32768", (0,)), ("32768", (0, 1)), ("380000", tuple(range(23)))):
        source = good.get(size, good["example"])
        out.refused(f"of {size} bytes, no last chunk", "ChunkOrder", source, chunks(*order))
    out.refused("one chunk too many to fit", "ChunkOrder", good["380000"], chunks(0, *range(24)))


def _other_keys_and_names(out: Envelopes, good: dict[str, int]) -> None:
    out.group("other keys and names")

    def refused(comment: str, flags: str, owner: Owner, source: int = good["example"]) -> None:
        out.refused(comment, flags, source, commits=False, owner=owner)

    for offset in (0, 31):
        refused(f"byte {offset} of the key", "WrongKey", replace(ACME, key=edited(ACME.key, [flip(offset)])))
    for key in (bytes(32), ACME.key[::-1], OTHER_KEY):
        refused("another key", "WrongKey", replace(ACME, key=key))
        for name in ("tombstone", "rekey", "0", "380000"):
            refused(f"another key: {name}", "WrongKey", replace(ACME, key=key), good[name])
    for tenant in ("acm", "acmee", "acne", "acme-", "0acme", "default", "a" * 63):
        refused(f"tenant {tenant}", "WrongTenant", replace(ACME, tenant=tenant))
    for key_id in (
        "prod/db-passwor",
        "prod/db-password2",
        "Prod/db-password",
        "prod//db-password",
        "/prod/db-password",
    ):
        refused(f"key_id {key_id}", "WrongKeyId", replace(ACME, key_id=key_id))
    refused("names exchanged", "WrongTenant WrongKeyId", replace(ACME, tenant="prod", key_id="acme"))
    row = ACME.tenant + ACME.key_id
    for at in (1, 3, 5, 8):
        refused(f"cut after {row[:at]}", "ShiftedBoundary", replace(ACME, tenant=row[:at], key_id=row[at:]))
    near = replace(ACME, key_id="prod/x")
    source = out.valid("to be opened as others", "Normal", b"near", near)
    for tenant, key_id in (("acmep", "rod/x"), ("acm", "eprod/x")):
        refused(f"as {tenant}|{key_id}", "ShiftedBoundary", replace(near, tenant=tenant, key_id=key_id), source)


def _rewritten(out: Envelopes, good: dict[str, int]) -> None:
    out.group("revision or kind rewritten")
    for revision in (2, 256, 2**56, 2**63 - 1):
        edit = put(8, revision.to_bytes(8, "big"))
        out.refused(f"revision 1 made {revision}", "ChangedRevision", good["example"], edit, commits=False)
    out.refused("a deletion put back", "ChangedRevision", good["tombstone"], flip(15, 3), commits=False)
    for source, kind in (("0", TOMBSTONE), ("32", REKEY), ("tombstone", DATA), ("rekey", DATA)):
        out.refused(f"{source} made {KINDS[kind]}", "ChangedKind", good[source], put(5, bytes([kind])), commits=False)


def _uncommitted(out: Envelopes, good: dict[str, int]) -> None:
    out.group("commitments")
    for new in (bytes(32), b"\xff" * 32, out.made[good["text"]][40:72], out.made[good["example"]][40:72][::-1]):
        out.refused(f"commitment {new[:2].hex()}...", "WrongCommitment", good["example"], put(40, new), commits=False)
    for offset in range(40, 72, 4):
        edits = flip(offset, 0xFF), flip(offset + 3, 0xFF)
        out.refused(f"from byte {offset}", "WrongCommitment", good["0"], *edits, commits=False)
    _salamanders(out)
    out.group("spliced")
    texts = b"one text", b"two text"
    one, two = (out.valid(f"to be spliced: {text.decode()}", "Spliced", text) for text in texts)
    for comment, (start, end), commits in (
        ("body", (72, None), True),
        ("tag", (-16, None), True),
        ("salt", (16, 40), False),
        ("commitment", (40, 72), False),
        ("salt and commitment", (16, 72), True),
    ):
        offset = start % len(out.made[one])
        edit = put(offset, out.made[two][start:end])
        out.refused(f"{comment} of the other", "Spliced", one, edit, commits=commits)
    out.group("a damaged body under a whole head")
    out.refused("nothing but zero bytes", "DamagedBody", good["example"], put(72, bytes(23)), commits=True)
    for offset in (72, 72 + CHUNK - 1, 72 + CHUNK, 72 + 11 * CHUNK, 380_439, 380_455):
        out.refused(f"byte {offset} of the largest", "DamagedBody", good["380000"], flip(offset), commits=True)
    stranger = replace(ACME, key=OTHER_KEY)
    out.refused("and another key", "DamagedBody WrongKey", good["example"], flip(94), commits=False, owner=stranger)


def _salamanders(out: Envelopes) -> None:
    out.group("bodies that AES-GCM opens twice")
    for comment, other in (
        ("keys", replace(ACME, key=OTHER_KEY)),
        ("tenants", replace(ACME, tenant="evil")),
        ("key_ids", replace(ACME, key_id="prod/mine")),
    ):
        fixed, salt = reference.header(1, DATA), drawn(f"salamander of {comment}", 24)
        owners = ACME, other
        one, two = (reference.derive(o.key, salt, reference.context(fixed, o.tenant, o.key_id)) for o in owners)
        body = both_open(one, two, [drawn(f"salamander {i}", 16) for i in range(2)])
        for owner, derived, stranger in ((ACME, one, other), (other, two, ACME)):
            aead = AESGCM(derived.aes_key)
            plaintext = aead.decrypt(derived.base_nonce, body, None)
            envelope = fixed + salt + derived.commitment + body
            source = out.valid(f"two {comment}: committed to", "Salamander", plaintext, owner, envelope=envelope)
            out.refused(f"two {comment}: the other", "Salamander", source, commits=False, owner=stranger)


def _heads(out: Envelopes, good: dict[str, int]) -> None:
    out.group("heads alone", "HeadTest")
    for name in ("example", "tombstone", "rekey", "380000"):
        out.head(f"of the {name}", "Normal", out.made[good[name]][:72], True)
    whole = out.made[good["example"]]
    head = whole[:72]
    for comment, flag, owner in (
        ("another key", "WrongKey", replace(ACME, key=OTHER_KEY)),
        ("another tenant", "WrongTenant", replace(ACME, tenant="acmf")),
        ("another key_id", "WrongKeyId", replace(ACME, key_id="prod/db-passwore")),
        ("names cut elsewhere", "ShiftedBoundary", replace(ACME, tenant="acmep", key_id="rod/db-password")),
    ):
        out.head(comment, flag, head, False, owner)
    out.head("another revision", "ChangedRevision", edited(head, [flip(15, 3)]), False)
    out.head("another kind", "ChangedKind", edited(head, [flip(5, 3)]), False)
    for offset in (16, 39, 40, 71):
        out.head(f"byte {offset}", "FlippedBit", edited(head, [flip(offset)]), False)
    for size in (0, 15, 16, 40, 71):
        out.head(f"{size} bytes", "HeadSize Truncated", head[:size], None)
    for more in (b"\x00", whole[72:]):
        out.head(f"{len(more)} more bytes", "HeadSize Appended", head + more, None)
    salt = drawn("salt of malformed heads", 24)
    for offset, field, values in MALFORMED:
        for value in values:
            fixed = edited(reference.header(1, DATA), [put(offset, value)])
            sealed = reference.seal(ACME.key, ACME.tenant, ACME.key_id, fixed, salt, b"")
            out.head(f"committed to with {field} {value.hex()}", "MalformedHeader", sealed[:72], None)
