"""Wycheproof's vectors of the layer below KVE1, Cobblestone-256 with SHA-512, in every language.

They are another project's and not in this repository: WYCHEPROOF names a clone of github.com/C2SP/wycheproof. Without
it these tests skip, in CI too; its doc/c2sp_chunked_encryption.md says what the fields mean.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from tests.interop.programs import MARKS, run
from tests.support.repository import ROOT
from tests.support.tools import toolchain
from tests.vectors import reference

FOLDER = os.environ.get("WYCHEPROOF", "")
FILE = Path(FOLDER, "testvectors_v1", "c2sp_chunked_encryption_aes_256_gcm_test.json").absolute()
pytestmark = [*MARKS, pytest.mark.skipif(not FOLDER, reason="WYCHEPROOF names no clone of Wycheproof")]
RUNNERS = {
    "go": [["go", "test", "-count=1", "-v", "-run", "Wycheproof", "./kve1"]],
    "java": [["mvn", "--quiet", "--batch-mode", "test", "-Dtest=WycheproofTest"]],
    "node": [["npm", "ci", "--silent"], ["npm", "run", "--silent", "wycheproof"]],
}
TOOLCHAINS = {"go": ["go"], "java": ["java", "mvn"], "node": ["node", "npm"]}


def counts() -> dict[str, int]:
    results = [test["result"] for test in vectors()]
    return {result: results.count(result) for result in ("valid", "invalid")}


def vectors() -> list[dict[str, Any]]:
    file = json.loads(FILE.read_bytes())
    found = [test for group in file["testGroups"] for test in group["tests"]]
    assert len(found) == file["numberOfTests"]
    return found


@pytest.mark.parametrize("opener", ["cryptography", "reference"])
def test_python_agrees_with_every_vector(opener: str) -> None:
    for test in vectors():
        key, context = bytes.fromhex(test["key"]), bytes.fromhex(test["ctx"])
        message = zlib.decompress(bytes.fromhex(test["ct"]))
        try:
            if opener == "reference":
                opened = reference.cobblestone_open(key, context, message)
            else:
                decryptor = Cobblestone256Decryptor(key, context)
                opened = decryptor.update(message) + decryptor.finalize()
        except (InvalidTag, ValueError, reference.DoesNotOpen):
            assert test["result"] == "invalid", test["comment"]
            continue
        assert test["result"] == "valid", test["comment"]
        assert hashlib.sha512(opened).hexdigest() == test["msgSha512"], test["comment"]
        same = reference.cobblestone_seal(key, context, message[:24], opened) == message
        assert same, test["comment"]


@pytest.mark.parametrize("language", RUNNERS)
def test_an_example_agrees_with_every_vector_of_others(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain(*TOOLCHAINS[language])
    monkeypatch.setenv("WYCHEPROOF", str(Path(FOLDER).absolute()))
    *_, told = [run(ROOT / "examples" / language, *command) for command in RUNNERS[language]]
    assert f"wycheproof: {counts()['valid']} valid, {counts()['invalid']} invalid, all agree\n" in told
