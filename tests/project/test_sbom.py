"""The bill of materials of a release names what the server installs, and says the same each time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.process

PINS = (ROOT / "requirements/server.txt").read_text()


def written(path: Path, **environment: str) -> str:
    """Return what deploy/sbom.py writes."""
    command = [sys.executable, str(ROOT / "deploy/sbom.py"), str(path)]
    subprocess.run(command, env=os.environ | environment, check=True)
    return path.read_text()


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bill of this tree."""
    found: dict[str, Any] = json.loads(written(tmp_path_factory.mktemp("sbom") / "sbom.json"))
    return found


def test_each_pin_is_a_component(bill: dict[str, Any]) -> None:
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", PINS, re.MULTILINE)
    assert [(part["name"], part["version"]) for part in bill["components"]] == pinned
    assert len(pinned) == PINS.count("==") - PINS.count("== '")


def test_each_hash_of_a_pin_is_in_the_bill(bill: dict[str, Any]) -> None:
    digests = [entry["content"] for part in bill["components"] for entry in part["hashes"]]
    assert sorted(digests) == sorted(re.findall(r"sha256:([0-9a-f]{64})", PINS))
    assert all(part["hashes"] for part in bill["components"])


def test_references_are_unique_and_lead_to_components(bill: dict[str, Any]) -> None:
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(set(references)) == len(references)
    (ours,) = bill["dependencies"]
    assert ours["ref"] == bill["metadata"]["component"]["bom-ref"]
    assert set(ours["dependsOn"]) == set(references)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path / "a", SOURCE_DATE_EPOCH="0")
    assert written(tmp_path / "b", SOURCE_DATE_EPOCH="0") == first
    assert '"timestamp": "1970-01-01T00:00:00+00:00"' in first
