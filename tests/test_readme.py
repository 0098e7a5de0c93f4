"""Every block of the README runs, in order, as a reader runs it.

What is changed for the test: the port, which is a free one; the folder, which is a new one; AWS, which is moto's
server; and `python3 dev.py test`, which is this very run, is left out.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import BIN
from tests.tools import tool

ROOT = Path(__file__).parents[1]
PORT = "127.0.0.1:50051"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def with_commands(**environment: str) -> dict[str, str]:
    """The environment of a reader who has `keyvault` on the PATH."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment


class Reader:
    """Runs blocks in one folder, against the server that the first of them started."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self.environment = with_commands(KEYVAULT_ADDRESS=address)

    def run(self, language: str, block: str) -> str:
        program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run(
            [*program, block.replace(PORT, self._address)],
            cwd=self._folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def started(block: str, folder: Path, **environment: str) -> Iterator[str]:
    """Runs a block that ends in a server; yields the address that the server announces."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=os.environ
        | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "KEYVAULT_LISTEN": "127.0.0.1:0"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            ready = re.search(r"is ready on (\S+)", process.stdout.readline())
            assert ready
            yield ready[1]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("readme")
    with started(block_with("dev.py serve"), ROOT, KEYVAULT_DATA=str(folder / "data")) as address:
        yield Reader(folder, address)


def block_with(words: str) -> str:
    block: str
    (block,) = (block for _, block in BLOCKS if words in block)
    return block


def test_every_block_is_run_here() -> None:
    run = [
        "dev.py serve",
        "dev.py test",
        "generate-key prod/ >",
        "import asyncio",
        "grpcurl",
        "import-legacy",
        "--backend aws",
    ]
    assert [block for _, block in BLOCKS] == [block_with(words) for words in run]


def test_the_shell_session_runs(reader: Reader) -> None:
    lines = reader.run("sh", block_with("generate-key prod/ >")).splitlines()
    assert lines == [
        "prod/db-password is at revision 1",
        "hunter2prod/db-password is at revision 2",
        "prod/db-password is at revision 3",
        "prod/db-password is at revision 4",
    ]


def test_the_eight_lines_of_python_run(reader: Reader) -> None:
    block = block_with("import asyncio")
    assert len([line for line in block.splitlines() if line]) == 8
    assert reader.run("python", block) == "b's3cret'\n"


def test_the_grpcurl_session_runs(reader: Reader) -> None:
    grpcurl = tool("grpcurl", "bin/grpcurl")
    reader.environment["PATH"] = f"{grpcurl.parent}{os.pathsep}{reader.environment['PATH']}"
    told = reader.run("sh", block_with("grpcurl"))
    assert "keyvault.v1.KeyVault" in told
    assert "rpc Create" in told
    assert "}\none{" in told
    assert '"revision": "3"' in told


def test_the_old_record_is_imported(reader: Reader) -> None:
    assert reader.run("sh", block_with("import-legacy")) == "prod/old is at revision 1\n"
    assert reader.run("sh", "keyvault read prod/old --key old.key --address 127.0.0.1:50051") == "old secret"


def test_the_aws_session_runs_on_a_stand_in(tmp_path: Path, moto: str) -> None:
    endpoints = {"KEYVAULT_AWS_KMS_ENDPOINT": moto, "KEYVAULT_AWS_DYNAMODB_ENDPOINT": moto}
    with started(block_with("aws"), tmp_path, KEYVAULT_AWS_TABLE="readme", **endpoints) as address:
        shell = Reader(tmp_path, address)
        assert shell.run("sh", block_with("generate-key prod/ >")).endswith("is at revision 4\n")
