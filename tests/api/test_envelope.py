"""keyvault_api.envelope against the vectors and against the reference.

`reference` was written from docs/envelope.md alone and shares no code with `keyvault_api.envelope`; both have to do
what kve1.json says of every test.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_api import envelope
from keyvault_api.envelope import EnvelopeDoesNotOpen, Kind, MalformedEnvelope
from tests.support.properties import examples
from tests.support.repository import DOCS
from tests.vectors import reference
from tests.vectors.layout import Test, edited, of_type, pattern, read

FILE = read("kve1.json")
ENVELOPES, HEADS = (list(of_type(FILE, kind)) for kind in ("EnvelopeTest", "HeadTest"))
SEALED = {test["tcId"]: bytes.fromhex(test["envelope"]) for test in ENVELOPES if "envelope" in test}
GROUPS = pytest.mark.parametrize(
    "group",
    [group for group in FILE["testGroups"] if group["type"] == "EnvelopeTest"],
    ids=lambda group: group["comment"],
)
NOT_UTF_8 = ("\ud800", "a\udfff", "\udcff", "\udc00\ud800")
"""Lone surrogates: an encoder that replaces them makes one name of many."""
KEY, TENANT, NAME = bytes(range(32)), "acme", "prod/db-password"


def bytes_of(test: Test) -> bytes:
    """The envelope of a test."""
    return edited(SEALED[test.get("base", test["tcId"])], test.get("edits", []))


def plaintext_of(test: Test) -> bytes:
    """The plaintext of a valid test."""
    if "plaintext" in test:
        return bytes.fromhex(test["plaintext"])
    plaintext = pattern(test["plaintextLength"])
    assert hashlib.sha256(plaintext).hexdigest() == test["plaintextSha256"]
    return plaintext


def answers_of_ours(test: Test, sealed: bytes) -> dict[str, Any]:
    """What keyvault_api.envelope says, in the fields of a test."""
    names = bytes.fromhex(test["key"]), test["tenant"], test["keyId"]
    try:
        header = envelope.parse(sealed)
    except MalformedEnvelope:
        with pytest.raises(MalformedEnvelope):
            envelope.open(*names, sealed)
        return {"result": "invalid", "phase": "parse"}
    answers: dict[str, object] = {"kind": header.kind.name, "revision": str(header.revision)}
    answers["commits"] = envelope.commits_to(sealed[:72], *names)
    try:
        return answers | {"result": "valid", "opened": envelope.open(*names, sealed)}
    except EnvelopeDoesNotOpen:
        return answers | {"result": "invalid", "phase": "open"}


def answers_of_the_reference(test: Test, sealed: bytes) -> dict[str, Any]:
    """What the reference says, in the fields of a test."""
    names = bytes.fromhex(test["key"]), test["tenant"], test["keyId"]
    try:
        kind, revision = reference.parse(sealed)
    except reference.Malformed:
        return {"result": "invalid", "phase": "parse"}
    answers: dict[str, Any] = {"kind": Kind(kind).name, "revision": str(revision)}
    answers["commits"] = reference.commits_to(sealed[:72], *names)
    try:
        return answers | {"result": "valid", "opened": reference.open_(*names, sealed)}
    except reference.DoesNotOpen:
        return answers | {"result": "invalid", "phase": "open"}


@GROUPS
@pytest.mark.parametrize("reader", [answers_of_ours, answers_of_the_reference])
def test_every_vector_does_what_it_says(group: dict[str, Any], reader: Any) -> None:
    for test in group["tests"]:
        answers = reader(test, bytes_of(test))
        opened = answers.pop("opened", None)
        expected = {field: test[field] for field in ("result", "phase", "kind", "revision", "commits") if field in test}
        assert answers == expected, f"test {test['tcId']}: {test['comment']}"
        if test["result"] == "valid":
            same = opened == plaintext_of(test)  # compared here: pytest would spell out the difference
            assert same, f"test {test['tcId']} opens to something else"


@pytest.mark.parametrize("commits_to", [envelope.commits_to, reference.commits_to], ids=["ours", "reference"])
def test_every_vector_of_a_head_does_what_it_says(commits_to: Any) -> None:
    answers = []
    for test in HEADS:
        arguments = bytes.fromhex(test["head"]), bytes.fromhex(test["key"]), test["tenant"], test["keyId"]
        try:
            answers.append(("valid", commits_to(*arguments)))
        except (MalformedEnvelope, reference.Malformed):
            answers.append(("invalid", None))
    assert answers == [(test["result"], test.get("commits")) for test in HEADS]


@pytest.mark.parametrize("name", NOT_UTF_8, ids=ascii)
def test_a_name_that_has_no_utf_8_is_the_callers_mistake(name: str) -> None:
    sealed = envelope.seal(KEY, TENANT, NAME, 1, b"x")
    calls: list[Callable[[str, str], object]] = [
        lambda tenant, key_id: envelope.seal(KEY, tenant, key_id, 1, b"x"),
        lambda tenant, key_id: envelope.open(KEY, tenant, key_id, sealed),
        lambda tenant, key_id: envelope.commits_to(sealed[:72], KEY, tenant, key_id),
    ]
    for names in ((name, NAME), (TENANT, name)):
        for call in calls:
            with pytest.raises(ValueError, match="has no UTF-8") as caught:
                call(*names)
            assert type(caught.value) is ValueError
            assert ascii(name) in str(caught.value)


def test_every_valid_vector_is_a_vector_of_sealing() -> None:
    for test in ENVELOPES:
        if test["result"] == "valid":
            sealed, plaintext = bytes_of(test), plaintext_of(test)
            names = bytes.fromhex(test["key"]), test["tenant"], test["keyId"]
            fixed = reference.header(int(test["revision"]), Kind[test["kind"]])
            ours = envelope.seal(*names, int(test["revision"]), plaintext, Kind[test["kind"]])
            assert len(ours) == len(sealed) == 88 + len(plaintext) + 16 * (len(plaintext) // 16_384)
            for made in (sealed, ours):
                same = reference.seal(*names, fixed, made[16:40], plaintext) == made
                assert same, f"test {test['tcId']}: {test['comment']}"


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 32_768, 380_000])
def test_the_plaintext_size_follows_from_the_envelopes(size: int) -> None:
    sealed = envelope.seal(KEY, TENANT, NAME, 1, bytes(size))
    assert envelope.plaintext_size(len(sealed)) == size


def test_the_worked_example_is_the_first_vector() -> None:
    first = ENVELOPES[0]
    page = "".join((DOCS / "envelope.md").read_text().split())
    assert f"envelope{first['envelope']}95bytes" in page
    assert envelope.open(KEY, TENANT, NAME, bytes_of(first)) == b"hunter2"
    made = reference.derive(KEY, bytes(range(0x40, 0x58)), reference.context(bytes_of(first)[:16], TENANT, NAME))
    for value in (made.aes_key, made.base_nonce, made.commitment, reference.nonce(made.base_nonce, 1)):
        assert value.hex() in page


@pytest.mark.slow
@examples(100)
@given(
    key=st.binary(min_size=32, max_size=32),
    tenant=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    key_id=st.from_regex(r"[A-Za-z0-9._~:@/+=-]{1,255}", fullmatch=True),
    revision=st.integers(1, envelope.MAX_REVISION),
    plaintext=st.one_of(
        st.binary(max_size=64), st.builds(pattern, st.integers(16_300, 16_500) | st.integers(0, 380_000))
    ),
)
def test_what_is_sealed_opens_here_and_in_the_reference(
    key: bytes, tenant: str, key_id: str, revision: int, plaintext: bytes
) -> None:
    sealed = envelope.seal(key, tenant, key_id, revision, plaintext)
    assert envelope.parse(sealed) == (Kind.DATA, revision)
    assert envelope.commits_to(sealed[:72], key, tenant, key_id)
    assert envelope.open(key, tenant, key_id, sealed) == plaintext
    assert reference.open_(key, tenant, key_id, sealed) == plaintext


@pytest.mark.slow
@examples(300)
@given(st.data())
def test_bytes_that_no_one_sealed_end_in_one_of_the_two_errors(data: st.DataObject) -> None:
    sealed = bytearray(envelope.seal(KEY, TENANT, NAME, 1, pattern(data.draw(st.sampled_from([0, 32, 16_384])))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sealed) - 1))
        sealed[at] ^= data.draw(st.integers(1, 255))
        del sealed[data.draw(st.integers(at + 1, len(sealed))) :]
    changed = bytes(sealed)
    try:
        opened = envelope.open(KEY, TENANT, NAME, changed)
    except (MalformedEnvelope, EnvelopeDoesNotOpen):
        return
    assert reference.open_(KEY, TENANT, NAME, changed) == opened  # the same byte may be changed and changed back


@pytest.mark.parametrize(
    ("revision", "size", "kind"),
    [
        (0, 0, Kind.DATA),
        (-1, 0, Kind.DATA),
        (2**63, 0, Kind.DATA),
        (1, 380_001, Kind.DATA),
        (1, 1, Kind.TOMBSTONE),
        (1, 16_384, Kind.TOMBSTONE),
        (1, 0, Kind.REKEY),
        (1, 31, Kind.REKEY),
        (1, 33, Kind.REKEY),
    ],
)
def test_seal_refuses_what_no_reader_accepts(revision: int, size: int, kind: Kind) -> None:
    with pytest.raises(ValueError):
        envelope.seal(KEY, TENANT, NAME, revision, bytes(size), kind)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_data_key_of_another_length_is_the_callers_mistake(size: int) -> None:
    sealed = envelope.seal(KEY, TENANT, NAME, 1, b"x")
    for call in (
        lambda key: envelope.seal(key, TENANT, NAME, 1, b"x"),
        lambda key: envelope.open(key, TENANT, NAME, sealed),
        lambda key: envelope.commits_to(sealed[:72], key, TENANT, NAME),
    ):
        with pytest.raises(ValueError, match="32 bytes") as caught:
            call(b"k" * size)
        assert not isinstance(caught.value, MalformedEnvelope)


def test_a_rightful_owner_cannot_make_an_envelope_over_the_limit() -> None:
    sealed = reference.seal(KEY, TENANT, NAME, reference.header(1, 1), bytes(24), pattern(380_001))
    with pytest.raises(MalformedEnvelope):
        envelope.open(KEY, TENANT, NAME, sealed)


@pytest.mark.parametrize("size", [0, 71, 73, 88])
def test_a_head_has_72_bytes(size: int) -> None:
    head = envelope.seal(KEY, TENANT, NAME, 1, b"")[:size].ljust(size, b"\x00")
    with pytest.raises(MalformedEnvelope):
        envelope.parse_head(head)
    with pytest.raises(MalformedEnvelope):
        envelope.commits_to(head, KEY, TENANT, NAME)


def test_no_two_envelopes_share_a_salt() -> None:
    sealed = [envelope.seal(KEY, TENANT, NAME, 1, b"the same") for _ in range(1_000)]
    assert len({made[16:40] for made in sealed}) == len(sealed)
    assert len({made[72:] for made in sealed}) == len(sealed)


def test_a_failure_shows_neither_its_reason_nor_a_secret() -> None:
    sealed = envelope.seal(KEY, TENANT, NAME, 1, b"hunter2")
    wrong = [
        (bytes(32), TENANT, NAME, sealed),
        (KEY, "other", NAME, sealed),
        (KEY, TENANT, "other", sealed),
        *(
            (KEY, TENANT, NAME, edited(sealed, [{"op": "xor", "offset": at, "value": 1}]))
            for at in (14, 16, 40, 72, 94)
        ),
    ]
    seen = set()
    for arguments in wrong:
        with pytest.raises(EnvelopeDoesNotOpen) as caught:
            envelope.open(*arguments)
        seen.add((str(caught.value), repr(caught.value), caught.value.__suppress_context__))
    assert seen == {("", "EnvelopeDoesNotOpen()", True)}


def test_a_malformed_envelope_is_not_repeated_in_the_error() -> None:
    for malformed in (b"hunter2", b"hunter2" * 20, edited(SEALED[1], [{"op": "set", "offset": 5, "hex": "77"}])):
        with pytest.raises(MalformedEnvelope) as caught:
            envelope.parse(malformed)
        assert "hunter2" not in repr(caught.value)
        assert malformed.hex() not in repr(caught.value)
