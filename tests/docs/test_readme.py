"""Every block of the README runs, in order, as a reader runs it.

What is changed for the test, in addition to what tests/support/pages.py says: AWS is moto's server, and
`python3 dev.py test`, which is this very run, is left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import Reader, blocks_of, started
from tests.support.repository import ROOT
from tests.support.tools import tool

BLOCKS = blocks_of("README.md")


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
        "dev-certs",
        "KEYVAULT_TLS_CERTIFICATE",
        "bob is denied",
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
    reader.add_to_path(tool("grpcurl", "bin/grpcurl"))
    told = reader.run("sh", block_with("grpcurl"))
    assert "keyvault.v1.KeyVault" in told
    assert "rpc Create" in told
    assert "}\none{" in told
    assert '"revision": "3"' in told


def test_the_old_record_is_imported(reader: Reader) -> None:
    assert reader.run("sh", block_with("import-legacy")) == "prod/old is at revision 1\n"
    assert reader.run("sh", "keyvault read prod/old --key old.key --address 127.0.0.1:50051") == "old secret"


def test_the_production_session_runs(tmp_path: Path) -> None:
    nobody = Reader(tmp_path, "127.0.0.1:1")
    assert nobody.run("sh", block_with("dev-certs")).splitlines()[-1].startswith("allowed: line 4: ")
    block = block_with("KEYVAULT_TLS_CERTIFICATE").replace("--listen 127.0.0.1:50051", "--listen 127.0.0.1:0")
    with started(block, tmp_path) as address:
        told = Reader(tmp_path, address).run("sh", block_with("bob is denied"))
    created, read_and_denied, verified, *_ = told.splitlines()
    assert created == "prod/db-password is at revision 1"
    assert read_and_denied == "hunter2bob is denied"
    assert verified.startswith("whole: ")
    phases = [json.loads(line)["phase"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert phases.count("intent") == 1
    assert phases.count("outcome") == 4


def test_the_aws_session_runs_on_a_stand_in(tmp_path: Path, moto: str) -> None:
    endpoints = {"KEYVAULT_AWS_KMS_ENDPOINT": moto, "KEYVAULT_AWS_DYNAMODB_ENDPOINT": moto}
    with started(block_with("aws"), tmp_path, KEYVAULT_AWS_TABLE="readme", **endpoints) as address:
        shell = Reader(tmp_path, address)
        assert shell.run("sh", block_with("generate-key prod/ >")).endswith("is at revision 4\n")
