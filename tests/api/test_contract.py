"""The contract and what is generated from it: no drift, no lint, floors that hold, secrets marked as such."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from packaging.requirements import Requirement
from packaging.version import Version

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1 import keyvault_pb2_grpc as grpc_stubs
from tests.support.repository import ROOT

STUBS = ROOT / "protos" / "python" / "keyvault_api" / "v1"
BUF = Path(sys.executable).parent / "buf"
METHODS = [
    "GenerateKey",
    "Create",
    "Read",
    "Update",
    "Delete",
    "RotateKey",
    "RewrapKey",
    "UnwrapKey",
    "BatchRead",
    "List",
    "ListRevisions",
    "WhoAmI",
]
SERVICE = pb.DESCRIPTOR.services_by_name["KeyVault"]


@pytest.mark.external
def test_the_committed_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "keyvault_api" / "v1").iterdir()}
    committed = {path.name: path.read_bytes() for path in STUBS.iterdir() if path.name.startswith("keyvault_pb2")}
    assert sorted(made) == sorted(committed)
    different = [name for name in made if made[name] != committed[name]]
    assert not different, "run python protos/generate.py"


@pytest.mark.external
@pytest.mark.parametrize("arguments", [["lint"], ["format", "--diff", "--exit-code"]], ids=" ".join)
def test_buf_has_nothing_to_say(arguments: list[str]) -> None:
    done = subprocess.run([BUF, *arguments], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("package", "stub", "pattern"),
    [
        ("protobuf", "keyvault_pb2.py", r"^# Protobuf Python Version: (\S+)$"),
        ("grpcio", "keyvault_pb2_grpc.py", r"^GRPC_GENERATED_VERSION = '(\S+)'$"),
    ],
)
def test_the_stubs_run_on_the_oldest_runtime_that_we_allow(package: str, stub: str, pattern: str) -> None:
    (generated,) = re.findall(pattern, (STUBS / stub).read_text(), re.MULTILINE)
    assert Version(generated) <= floor_of(package)


def floor_of(package: str) -> Version:
    """The lowest version of a dependency that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (required,) = [each for each in map(Requirement, project["dependencies"]) if each.name == package]
    (floor,) = [each.version for each in required.specifier if each.operator == ">="]
    return Version(floor)


def test_the_service_has_its_methods_and_all_are_unary() -> None:
    assert SERVICE.full_name == "keyvault.v1.KeyVault"
    assert [method.name for method in SERVICE.methods] == METHODS
    assert not any(method.client_streaming or method.server_streaming for method in SERVICE.methods)
    assert all(callable(getattr(grpc_stubs.KeyVaultServicer, name)) for name in METHODS)


def test_every_method_has_messages_of_its_own() -> None:
    for method in SERVICE.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
    assert len(pb.DESCRIPTOR.message_types_by_name) == 2 * len(METHODS)


def test_only_reading_is_without_side_effects() -> None:
    levels = {method.name: method.GetOptions().idempotency_level for method in SERVICE.methods}
    assert [name for name, level in levels.items() if level == 1] == [
        "Read",
        "BatchRead",
        "List",
        "ListRevisions",
        "WhoAmI",
    ]


def test_bytes_are_keys_and_envelopes_and_all_are_redacted() -> None:
    fields = [field for message in pb.DESCRIPTOR.message_types_by_name.values() for field in message.fields]
    secret = [field for field in fields if field.type == FieldDescriptor.TYPE_BYTES]
    names = {"plaintext_key", "wrapped_key", "new_wrapped_key", "authorization", "envelope"}
    assert {field.name for field in secret} == names
    assert [field.full_name for field in secret if not field.GetOptions().debug_redact] == []


def test_a_plaintext_key_is_in_two_answers_and_no_request() -> None:
    messages = pb.DESCRIPTOR.message_types_by_name.values()
    holders = {message.name for message in messages if "plaintext_key" in message.fields_by_name}
    assert holders == {"GenerateKeyResponse", "UnwrapKeyResponse"}


def test_revisions_are_signed_64_bit_integers() -> None:
    fields = [field for message in pb.DESCRIPTOR.message_types_by_name.values() for field in message.fields]
    revisions = [field for field in fields if field.name.endswith("revision")]
    assert revisions
    assert all(field.type == FieldDescriptor.TYPE_INT64 for field in revisions)
