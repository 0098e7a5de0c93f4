"""`buf breaking`, with the repository's buf.yaml, refuses what breaks a generated stub and lets the rest pass.

.ci/run holds the contract against every commit that touched it in this way.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api.test_contract import BUF
from tests.support.repository import ROOT

pytestmark = pytest.mark.external

PROTO = Path("protos/keyvault/v1/keyvault.proto")
BREAKS = {
    "a renamed field": ("FIELD_SAME_NAME", "string key_id = 1;", "string name = 1;"),
    "another number": ("FIELD_NO_DELETE", "bool include_deleted = 3;", "bool include_deleted = 5;"),
    "another type": ("FIELD_SAME_TYPE", "int64 known_revision = 2;", "uint64 known_revision = 2;"),
    "one become many": ("FIELD_SAME_CARDINALITY", "bytes new_wrapped_key = 4", "repeated bytes new_wrapped_key = 4"),
    "a field become optional": ("FIELD_SAME_CARDINALITY", "bool not_modified = 7;", "optional bool not_modified = 7;"),
    "a removed field": ("FIELD_NO_DELETE", "bool deleted = 6;", "reserved 6;"),
    "a removed method": ("RPC_NO_DELETE", "rpc GenerateKey(GenerateKeyRequest) returns (GenerateKeyResponse);", ""),
    "a renamed method": ("RPC_NO_DELETE", "rpc RewrapKey(", "rpc Rewrap("),
    "a renamed message": ("MESSAGE_NO_DELETE", "RewrapKeyRequest", "RewrapRequest"),
    "another request": ("RPC_SAME_REQUEST_TYPE", "rpc Update(UpdateRequest)", "rpc Update(CreateRequest)"),
    "another response": ("RPC_SAME_RESPONSE_TYPE", "returns (DeleteResponse)", "returns (UpdateResponse)"),
    "a stream": ("RPC_SAME_SERVER_STREAMING", "returns (RotateKeyResponse)", "returns (stream RotateKeyResponse)"),
    "a side effect": ("RPC_SAME_IDEMPOTENCY_LEVEL", "option idempotency_level = NO_SIDE_EFFECTS;", ""),
    "another package": ("FILE_SAME_PACKAGE", "package keyvault.v1;", "package keyvault.v2;"),
    "another Go package": ("FILE_SAME_GO_PACKAGE", "v1;keyvaultv1", "v1;vault"),
    "another Java package": ("FILE_SAME_JAVA_PACKAGE", "io.github.keyvaultgrpc.v1", "io.github.keyvaultgrpc.v2"),
    "one file in Java": ("FILE_SAME_JAVA_MULTIPLE_FILES", "option java_multiple_files = true;", ""),
}
PASSES = {
    "nothing": ("", ""),
    "a new field": ("bool not_modified = 7;", "bool not_modified = 7;\n string more = 8;"),
    "a new method": ("service KeyVault {", "service KeyVault {\n rpc Again(ReadRequest) returns (ReadResponse);"),
    "a new message": ("message ReadRequest {", "message More {}\n message ReadRequest {"),
    "another comment": ("// ReadRequest asks for a record.", "// ReadRequest names a record."),
}


def broken_rules(folder: Path, old: str, new: str) -> set[str]:
    """What `buf breaking` finds in the contract with this in place of that, held against the current one."""
    text = (ROOT / PROTO).read_text()
    assert old in text
    (folder / PROTO).parent.mkdir(parents=True)
    (folder / PROTO).write_text(text.replace(old, new) if old else text)
    shutil.copy(ROOT / "buf.yaml", folder)
    command: list[str | Path] = [BUF, "breaking", folder, "--against", ROOT, "--error-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = {str(json.loads(line)["type"]) for line in done.stdout.splitlines()}
    assert done.stderr == ""
    assert bool(done.returncode) is bool(found)
    return found


@pytest.mark.parametrize(("rule", "old", "new"), BREAKS.values(), ids=BREAKS)
def test_a_change_that_breaks_a_stub_is_refused(tmp_path: Path, rule: str, old: str, new: str) -> None:
    assert rule in broken_rules(tmp_path, old, new)


@pytest.mark.parametrize(("old", "new"), PASSES.values(), ids=PASSES)
def test_a_compatible_change_passes(tmp_path: Path, old: str, new: str) -> None:
    assert broken_rules(tmp_path, old, new) == set()
