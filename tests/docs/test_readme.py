"""The README is one tour: every block runs, from top to bottom, in the shell that the page names.

What is changed for the test, in addition to what tests/support/tour.py says: AWS is moto's server, and
`python3 dev.py test`, which is this very run, is left out.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.tools import tool
from tests.support.tour import Tour, steps_of

pytestmark = [pytest.mark.process, pytest.mark.external, pytest.mark.slow, pytest.mark.timeout(400)]
STEPS = steps_of("README.md")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the page needs of a checkout, to keep the real one clean."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "dev.py").symlink_to(ROOT / "dev.py")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def tour(tmp_path: Path, checkout: Path) -> Tour:
    grpcurl = tool("grpcurl", "bin/grpcurl")
    tour = Tour("README.md", checkout, tmp_path, KEYVAULT_DATA=str(checkout / "data"))
    tour.add_to_path(grpcurl.parent)
    return tour


def test_the_tour_runs_from_top_to_bottom(tour: Tour, checkout: Path, moto: str) -> None:
    with tour:
        tour.serve("dev.py serve")
        tour.skip("dev.py test")
        tried = tour.run("generate-key prod/\n")
        keys = checkout / "tour/keys"
        assert tried.splitlines() == [
            f"saved the key for prod/ in {keys}/prod%2F.key",
            "prod/db-password is at revision 1",
            "hunter2prod/db-password is at revision 2",
            "records of prod/db-password: 0 have the old key, 1 a new key, 0 another key",
            f"new key: {keys}/prod%2Fdb-password.key",
            "prod/db-password is at revision 4",
        ]
        *_, listed, newest, oldest, restored, data = tour.run("keyvault history").splitlines()
        assert (listed, newest.split("  ")[0], oldest.split("  ")[0]) == ("prod/motd", "revision 2", "revision 1")
        assert (restored, data) == ("prod/motd is at revision 3", "one")
        started, edited, *differences = tour.run("keyvault run").splitlines()
        assert (started, edited) == ("the program got one", "prod/motd is at revision 4")
        assert {"-one", "+three"} <= set(differences)
        tour.save("import asyncio")
        assert tour.run("python api_token.py") == "b's3cret'\n"
        grpcurl_shows(tour.run("grpcurl"))
        assert tour.run("import-legacy") == "prod/old is at revision 1\n"
        assert tour.again(2, "keyvault read prod/old --key old.key") == "old secret"
        production_runs(tour, checkout / "tour")
        aws_runs(tour, moto)
        assert not tour.rest
    assert {path.name for path in checkout.iterdir()} == {"dev.py", ".venv", "data", "tour"}


def grpcurl_shows(shown: str) -> None:
    assert "keyvault.v1.KeyVault" in shown
    assert "rpc Create" in shown
    assert "}\none{" in shown
    assert '"revision": "3"' in shown


def production_runs(tour: Tour, folder: Path) -> None:
    assert tour.run("dev-certs").splitlines()[-1].startswith("allowed: line 4: ")
    tour.serve("KEYVAULT_TLS_CERTIFICATE")
    created, read_and_denied, verified, *_ = tour.run("bob is denied").splitlines()
    assert created == "prod/db-password is at revision 1"
    assert read_and_denied == "hunter2bob is denied: exit code 5"
    assert verified.startswith("whole: ")
    phases = [json.loads(line)["phase"] for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert phases.count("intent") == 1
    assert phases.count("outcome") == 4


def aws_runs(tour: Tour, moto: str) -> None:
    (tried,) = (step.text for step in STEPS if "generate-key prod/\n" in step.text)
    endpoints = f"KEYVAULT_AWS_KMS_ENDPOINT={moto} KEYVAULT_AWS_DYNAMODB_ENDPOINT={moto}"
    tour.serve("--backend aws", before=f"export KEYVAULT_AWS_TABLE=readme {endpoints}\n")
    commands = [line for line in tried.splitlines(keepends=True) if "keyvault " in line]
    assert tour.again(2, "rm keys/*\n" + "".join(commands)).endswith("is at revision 4\n")


def test_the_program_has_seven_lines() -> None:
    (program,) = (step.text for step in STEPS if step.file)
    assert len([line for line in program.splitlines() if line]) == 7


@pytest.mark.parametrize("file", ["tour/policy.toml", "data/records.sqlite3"])
def test_git_ignores_what_the_tour_writes(file: str) -> None:
    subprocess.run(["git", "check-ignore", "-q", file], cwd=ROOT, check=True)
