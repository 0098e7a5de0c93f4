"""Wycheproof's vectors of the layer below KVE1, Cobblestone-256 with SHA-512, in every language.

They are another project's and not in this repository: Go's module mirror has them, and WYCHEPROOF may name a clone of
github.com/C2SP/wycheproof instead. Its doc/c2sp_chunked_encryption.md says what the fields mean.
"""

import hashlib
import json
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from tests.interop.programs import MARKS, Programs, run
from tests.support.environment import for_downloads
from tests.support.tools import missing, toolchain
from tests.vectors import reference

MODULE = "github.com/c2sp/wycheproof@v0.0.0-20260902155932-3fa63dd0344a"
SUM = "h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c="
"""Hash of the module's files, as Go writes it."""
FILE = Path("testvectors_v1", "c2sp_chunked_encryption_aes_256_gcm_test.json")
pytestmark = MARKS
COMMANDS = {
    "go": ("go", "test", "-count=1", "-v", "-run", "Wycheproof", "."),
    "java": ("mvn", "--quiet", "--batch-mode", "test", "-Dtest=WycheproofTest"),
    "node": ("npm", "run", "--silent", "wycheproof"),
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of Wycheproof."""
    if given := os.environ.get("WYCHEPROOF"):
        return Path(given).absolute()
    toolchain("go")
    nowhere = tmp_path_factory.mktemp("no-module")  # `go` would ask a go.mod above it otherwise
    command = ("go", "mod", "download", "-json", MODULE)
    done = subprocess.run(command, cwd=nowhere, env=for_downloads(), capture_output=True, text=True, check=False)
    if done.returncode:
        missing("Wycheproof's vectors, from Go's module mirror")
    found = json.loads(done.stdout)
    assert found["Sum"] == SUM
    return Path(found["Dir"])


def vectors(clone: Path) -> list[dict[str, Any]]:
    file = json.loads((clone / FILE).read_bytes())
    found = [test for group in file["testGroups"] for test in group["tests"]]
    assert len(found) == file["numberOfTests"] >= 35
    return found


@pytest.mark.parametrize("opener", ["cryptography", "reference"])
def test_python_agrees_with_every_vector(clone: Path, opener: str) -> None:
    for test in vectors(clone):
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


@pytest.mark.parametrize("language", COMMANDS)
def test_an_example_agrees_with_every_vector_of_others(
    programs: Programs, clone: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WYCHEPROOF", str(clone))
    results = [test["result"] for test in vectors(clone)]
    told = run(programs.envelope_of(language), *COMMANDS[language])
    valid, invalid = results.count("valid"), results.count("invalid")
    assert f"wycheproof: {valid} valid, {invalid} invalid, all agree\n" in told
