"""A program that generated its own stubs from the published .proto can load ours in the same process."""

import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

THEIRS, OURS = "keyvault.v1.keyvault_pb2", "keyvault_api.v1.keyvault_pb2"
PROGRAM = """
import importlib, sys

first, second = (importlib.import_module(name) for name in sys.argv[1:])
for message in ("CreateRequest", "UpdateRequest", "ReadResponse"):
    one, other = getattr(first, message), getattr(second, message)
    filled = one()
    for field in filled.DESCRIPTOR.fields:
        if field.type == field.TYPE_BYTES:
            setattr(filled, field.name, field.name.encode())
        if field.type == field.TYPE_STRING:
            setattr(filled, field.name, field.name)
    data = filled.SerializeToString(deterministic=True)
    assert data, message
    assert other.FromString(data).SerializeToString(deterministic=True) == data, message
print(first.DESCRIPTOR.name, second.DESCRIPTOR.name)
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs as plain protoc makes them, in the package that the .proto names."""
    out = tmp_path_factory.mktemp("stubs")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = [f"-I{ROOT / 'protos'}", f"-I{well_known}", f"--python_out={out}", "keyvault/v1/keyvault.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    return out


@pytest.mark.process
@pytest.mark.parametrize("order", [(THEIRS, OURS), (OURS, THEIRS)], ids=["theirs first", "ours first"])
def test_a_programs_own_stubs_and_ours_load_together(generated: Path, order: tuple[str, str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(generated)}
    command = [sys.executable, "-c", PROGRAM, *order]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["keyvault/v1/keyvault.proto"] * 2
