"""The vector files are what the generator makes, fit their schemas, and are described next to them."""

from typing import Any

import jsonschema  # comes with moto's server extra, through openapi-spec-validator
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors import reference
from tests.vectors.generate import files
from tests.vectors.layout import HERE, edited, every_test, of_type, pattern, read

NAMES = ["kve1", "wrapped_key"]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(name: str) -> dict[str, Any]:
    return read(f"{name}.json")


@pytest.mark.medium
def test_the_committed_files_are_what_the_generator_makes() -> None:
    for path, text in files().items():
        same = text == (HERE / path).read_text()  # compared here: pytest would spell out a megabyte of difference
        assert same, f"{path} differs: run python -m tests.vectors.generate, and look at what changed"


@pytest.mark.slow
def test_a_file_fits_its_schema(name: str, file: dict[str, Any]) -> None:
    schema = read(file["schema"])
    jsonschema.Draft202012Validator.check_schema(schema)
    problems = [error.message[:200] for error in jsonschema.Draft202012Validator(schema).iter_errors(file)]
    assert not problems
    assert file["schema"] == f"{name}.schema.json"


@pytest.mark.parametrize(
    "change",
    [
        {"result": "acceptable"},
        {"result": "invalid"},
        {"phase": "open"},
        {"commits": False},
        {"revision": 1},
        {"base": 2, "edits": []},
        {"plaintextLength": 7},
        {"plaintext": "0"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_the_schema_refuses_a_contradictory_test(change: dict[str, object]) -> None:
    file = read("kve1.json")
    first = next(every_test(file))
    first.update(change)
    assert not jsonschema.Draft202012Validator(read("kve1.schema.json")).is_valid(file)


@pytest.mark.parametrize(
    "change", [{"result": "invalid"}, {"phase": "parse"}, {"commits": 1}, {"head": "0"}, {"envelope": ""}], ids=str
)
def test_the_schema_refuses_a_contradictory_head(change: dict[str, object]) -> None:
    file, schema = read("kve1.json"), jsonschema.Draft202012Validator(read("kve1.schema.json"))
    file["testGroups"] = [group for group in file["testGroups"] if group["type"] == "HeadTest"]
    assert schema.is_valid(file)
    next(of_type(file, "HeadTest")).update(change)
    assert not schema.is_valid(file)


def test_tests_are_numbered_from_1_without_a_gap(file: dict[str, Any]) -> None:
    numbers = [test["tcId"] for test in every_test(file)]
    assert numbers == list(range(1, file["numberOfTests"] + 1))


def test_a_base_has_an_envelope_itself() -> None:
    tests = {test["tcId"]: test for test in every_test(read("kve1.json"))}
    bases = {test["base"] for test in tests.values() if "base" in test}
    assert bases
    assert all("envelope" in tests[base] for base in bases)


def test_every_flag_is_noted_in_the_file_and_in_the_readme(file: dict[str, Any]) -> None:
    readme = (HERE / "README.md").read_text()
    used = {flag for test in every_test(file) for flag in test["flags"]}
    assert used == set(file["notes"])
    assert [flag for flag, note in file["notes"].items() if f"| {flag} | {note} |" not in readme] == []


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"op": "xor", "offset": 1, "value": 255}, "00fe02"),
        ({"op": "set", "offset": 1, "hex": "aabb"}, "00aabb"),
        ({"op": "truncate", "length": 2}, "0001"),
        ({"op": "truncate", "length": 0}, ""),
        ({"op": "append", "hex": "03"}, "00010203"),
        ({"op": "pad", "length": 5}, "0001020000"),
    ],
    ids=str,
)
def test_an_edit_does_what_the_document_says(edit: dict[str, Any], expected: str) -> None:
    assert edited(bytes([0, 1, 2]), [edit]).hex() == expected


def test_edits_of_chunks_keep_the_head_and_reorder_the_body() -> None:
    head, chunks = b"h" * 72, [b"a" * 16_400, b"b" * 16_400, b"c" * 20]
    changed = edited(head + b"".join(chunks), [{"op": "chunks", "order": [2, 0, 0]}])
    assert changed == head + chunks[2] + chunks[0] + chunks[0]


def test_the_pattern_of_long_plaintexts_is_the_offset_modulo_251() -> None:
    assert pattern(1_000) == bytes(i % 251 for i in range(1_000))


def test_the_salamanders_open_twice_without_the_commitment() -> None:
    tests = [test for test in every_test(read("kve1.json")) if "Salamander" in test["flags"]]
    envelopes = {test["tcId"]: bytes.fromhex(test["envelope"]) for test in tests if "envelope" in test}
    for test in tests:
        envelope = envelopes[test.get("base", test["tcId"])]
        context = reference.context(envelope[:16], test["tenant"], test["keyId"])
        derived = reference.derive(bytes.fromhex(test["key"]), envelope[16:40], context)
        AESGCM(derived.aes_key).decrypt(derived.base_nonce, envelope[72:], None)
    assert {test["result"] for test in tests} == {"valid", "invalid"}
