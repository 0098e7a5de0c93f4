"""Each mistake that docs/clients.md names is caught by vectors of each flag that it names.

A mistake is a change of the source of the reference implementation; the vectors then have to disagree with it.
"""

import inspect
from types import ModuleType
from typing import Any

import pytest

from keyvault_api.envelope import Kind
from tests.api.test_envelope import FILE, bytes_of, plaintext_of
from tests.support.repository import ROOT
from tests.vectors import reference
from tests.vectors.layout import Test, every_test

Change = dict[str, str]
"""Source text -> what stands there by mistake."""

LENGTHS = 'len(name).to_bytes(2, "big") + name'
REVISION = 'int.from_bytes(envelope[8:16], "big")'
IN_RANGE = "not 1 <= revision <= 2**63 - 1"
XOR = 'bytes(a ^ b for a, b in zip(base_nonce, index.to_bytes(12, "big"), strict=True))'
COMMITMENT = "if not hmac.compare_digest(made.commitment, message[24:56]):"
OPENING = 'return b"".join([aead.decrypt(nonce(made.base_nonce, i), chunk, None) for i, chunk in enumerate(chunks)])'
ONE_BY_ONE = """opened = b""
        for i, chunk in enumerate(chunks):
            opened += aead.decrypt(nonce(made.base_nonce, i), chunk, None)
        return opened"""
UNTAGGED = """from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        opened = b""
        for i, chunk in enumerate(chunks):
            counter = nonce(made.base_nonce, i) + bytes([0, 0, 0, 2])
            opened += Cipher(algorithms.AES(made.aes_key), modes.CTR(counter)).decryptor().update(chunk[:-16])
        return opened"""
ANY_LAST_CHUNK = {"if (len(envelope) - 72) % 16_400 < 16:": "if False:", " or (len(message) - 56) % 16_400 < 16": ""}
BY_HEAD = "return hmac.compare_digest(made.commitment, head[40:72])"
BY_OPENING = """try:
        open_(key, tenant, key_id, head)
    except (DoesNotOpen, Malformed):
        return False
    return True"""

MISTAKES: dict[str, list[Change]] = {
    "The derivation is another one": [
        {"t1 = hmac": "key = hmac.digest(salt, key, hashlib.sha512)\n    t1 = hmac"},
        {"hashlib.sha512": "hashlib.sha256"},
        {", None) for i, at": ", context) for i, at", ", None) for i, chunk": ", context) for i, chunk"},
        {'revision.to_bytes(8, "big")': 'revision.to_bytes(8, "little")', REVISION: REVISION.replace("big", "little")},
        {LENGTHS: LENGTHS.replace("big", "little")},
        {LENGTHS: LENGTHS.replace("2", "4")},
        {LENGTHS: "name"},
        {"for name in (tenant, key_id)": "for name in (key_id, tenant)"},
        {"return fixed + b": "return b"},
    ],
    "Names are changed on their way": [
        {"name.encode()": "name.lower().encode()"},
        {"name.encode()": 'name.strip("/.").encode()'},
    ],
    "A key goes through a number": [
        {"t1 = hmac": 'key = key.lstrip(b"\\0")\n    t1 = hmac'},
        {"t1 = hmac": 'key = b"\\0" * (key[0] >> 7) + key\n    t1 = hmac'},
    ],
    "A revision has 32 bits": [
        {REVISION: REVISION.replace("8:16", "12:16")},
        {REVISION: f"int(float({REVISION}))"},
    ],
    "Revision 0 or one of 2^63": [
        {IN_RANGE: "not 0 <= revision <= 2**63 - 1"},
        {IN_RANGE: "not 1 <= revision <= 2**64 - 1"},
        {'envelope[:5] != b"KVE\\x01\\x01"': 'envelope[:3] != b"KVE"'},
        {"kind not in (1, 2, 3) or ": ""},
        {' or envelope[6:8] != b"\\x00\\x00"': ""},
    ],
    "The chunk's number is added": [
        {XOR: '((int.from_bytes(base_nonce, "big") + index) % 2**96).to_bytes(12, "big")'},
        {XOR: "base_nonce"},
    ],
    "A plaintext of whole chunks": [{"range(0, len(plaintext) + 1,": "range(0, len(plaintext) or 1,"}],
    "A last chunk that is full": [
        ANY_LAST_CHUNK,
        ANY_LAST_CHUNK | {"range(56, len(message), 16_400)": "range(56, len(message) - 15, 16_400)"},
    ],
    "A TOMBSTONE or REKEY": [{"(kind == 2 and len(envelope) != 88) or (kind == 3 and len(envelope) != 120)": "False"}],
    "There is no limit": [{"88 <= len(envelope) <= 380_456": "88 <= len(envelope)"}],
    "The commitment is not compared": [{COMMITMENT: "if False:"}],
    "A part of the commitment": [
        {COMMITMENT: COMMITMENT.replace("commitment,", "commitment[:20],").replace("56", "44")}
    ],
    "Chunks before a damaged one": [
        {OPENING: ONE_BY_ONE, "raise DoesNotOpen from None": "return opened"},
        {OPENING: UNTAGGED},
    ],
    "Neither commitment nor tags": [{OPENING: UNTAGGED, COMMITMENT: "if False:"}],
    "Whose record it is": [{BY_HEAD: BY_OPENING}],
    "A head is not parsed": [{"    parse_head(head)\n": ""}],
}


def rows() -> list[tuple[str, list[str]]]:
    """The page's mistakes, each with its flags."""
    page = (ROOT / "docs" / "clients.md").read_text()
    _, _, table = page.partition("\n| mistake | caught by |\n|---|---|\n")
    cells = [line.strip("|").split("|") for line in table.partition("\n\n")[0].splitlines()]
    return [(mistake.strip(), flags.replace(",", " ").split()) for mistake, flags in cells]


def changes(mistake: str) -> list[Change]:
    (found,) = [made for beginning, made in MISTAKES.items() if mistake.startswith(beginning)]
    return found


def mistaken(change: Change) -> ModuleType:
    """The reference with this mistake in it."""
    source = inspect.getsource(reference)
    for right, wrong in change.items():
        assert right in source
        source = source.replace(right, wrong)
    made = ModuleType("tests.vectors.mistaken")
    exec(compile(source, "mistaken", "exec"), made.__dict__)
    return made


def agrees(implementation: Any, test: Test) -> bool:
    """Whether it does what a vector says, in opening and in sealing, or with a head alone."""
    names = bytes.fromhex(test["key"]), test["tenant"], test["keyId"]
    if "head" in test:
        return commits(implementation, bytes.fromhex(test["head"]), names) is test.get("commits")
    envelope = bytes_of(test)
    try:
        kind, revision = implementation.parse(envelope)
        if test.get("phase") == "parse":
            return False
        answers = kind in set(Kind) and Kind(kind).name, str(revision), commits(implementation, envelope[:72], names)
        if answers != (test["kind"], test["revision"], test["commits"]):
            return False
        opened = implementation.open_(*names, envelope)
    except implementation.Malformed:
        return bool(test.get("phase") == "parse")
    except implementation.DoesNotOpen:
        return bool(test.get("phase") == "open")
    if test["result"] == "invalid":
        return False
    sealed = implementation.seal(*names, implementation.header(revision, kind), envelope[16:40], opened)
    return bool(opened == plaintext_of(test) and sealed == envelope)


def commits(implementation: Any, head: bytes, names: tuple[bytes, str, str]) -> bool | None:
    """What it says of a head; None if that is malformed."""
    try:
        return bool(implementation.commits_to(head, *names))
    except implementation.Malformed:
        return None


@pytest.mark.slow
def test_the_reference_without_a_mistake_agrees_with_all() -> None:
    assert all(agrees(mistaken({}), test) for test in every_test(FILE))


@pytest.mark.parametrize(("mistake", "flags"), rows(), ids=[mistake[:40] for mistake, _ in rows()])
@pytest.mark.slow
def test_a_mistake_is_caught(mistake: str, flags: list[str]) -> None:
    for change in changes(mistake):
        implementation = mistaken(change)
        caught = {flag for test in every_test(FILE) if not agrees(implementation, test) for flag in test["flags"]}
        assert set(flags) <= caught, change


def test_every_flag_and_every_mistake_has_a_row() -> None:
    assert {flag for _, flags in rows() for flag in flags} == set(FILE["notes"])
    assert len(rows()) == len(MISTAKES)
