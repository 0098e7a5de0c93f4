"""What is imported, and when: a program, and the command above all, must not wait for what it does not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import keyvault_client
from keyvault_client import DataKey
from keyvault_client.cli import COMMANDS

pytestmark = pytest.mark.process

SLOW = {
    "aioboto3",
    "cryptography.x509",
    "cyclopts",
    "email",
    "google.protobuf.descriptor_pb2",
    "google.protobuf.json_format",
    "google.rpc",
    "importlib.metadata",
    "keyvault_server",
    "rich",
    "tempfile",
    "urllib.request",
}
"""Modules that take long to import, and that most programs need late or never."""


def imported_by(code: str) -> set[str]:
    """The modules of a new process that has run this code."""
    code += "\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_an_import_of_the_library_alone_does_not_import_grpc() -> None:
    assert not imported_by("import keyvault_client") & {"grpc", "google.protobuf", "asyncio", *SLOW}


def test_the_names_of_the_library_need_nothing_slow() -> None:
    loaded = imported_by(f"from keyvault_client import {', '.join(keyvault_client.__all__)}")
    assert "grpc" in loaded
    assert not loaded & SLOW


def test_a_command_imports_no_other_command() -> None:
    modules = {f"keyvault_client.{function.partition(':')[0]}" for function in COMMANDS.values()}
    run = "import sys\nfrom keyvault_client.cli import main\nsys.argv = ['keyvault', 'whoami', '--address', '']\n"
    loaded = imported_by(f"{run}try: main()\nexcept SystemExit as end: assert end.code == 2")
    assert loaded & modules == {"keyvault_client.cli_keyless"}
    assert not loaded & {"keyvault_client.legacy", "keyvault_client.grpcurl", "google.protobuf.json_format"}


def test_a_plain_read_imports_no_parser(tmp_path: Path) -> None:
    DataKey("acme", "prod/", b"wrapped", bytes(32)).save(tmp_path / "key")
    words = ["keyvault", "read", "prod/db", "--key", str(tmp_path / "key"), "--address", "127.0.0.1:1", "--no-state"]
    run = f"import sys\nfrom keyvault_client.cli import main\nsys.argv = {[*words, '--timeout', '0.2']}\n"
    loaded = imported_by(f"{run}try: main()\nexcept SystemExit as end: assert end.code == 6")
    assert "keyvault_client.transport" in loaded
    assert not loaded & {*SLOW, "keyvault_client.vault", "attrs"}


def test_help_has_a_line_about_each_command() -> None:
    """The descriptions are in modules that are imported for that."""
    command = [sys.executable, "-m", "keyvault_client", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.strip("│ ").split(maxsplit=1) for line in done.stdout.splitlines()]
    explained = {words[0] for words in lines if len(words) == 2}
    assert COMMANDS.keys() <= explained


def test_without_the_extra_of_the_command_a_line_says_so() -> None:
    code = "import sys; sys.modules['cyclopts'] = None; sys.argv = ['keyvault', 'list']\n"
    code += "from keyvault_client.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "keyvault: the command needs cyclopts: pip install 'keyvault-grpc[cli]'\n"
