"""tests/FAULTS.md and SECURITY.md name tests that exist."""

import re

import pytest

from tests.support.repository import ROOT

HELD = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", (ROOT / "tests" / "FAULTS.md").read_text(), re.MULTILINE)


def test_every_row_names_a_test() -> None:
    rows = re.findall(r"^\| (?:\d+)? ?\| (?!fault)", (ROOT / "tests" / "FAULTS.md").read_text(), re.MULTILINE)
    assert len(HELD) == len(rows) > 30


@pytest.mark.parametrize(("file", "test"), HELD, ids=str)
def test_a_named_test_exists(file: str, test: str) -> None:
    assert re.search(rf"^(?:async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


THREATS = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "test"), THREATS, ids=str)
def test_a_threat_is_held_by_a_test(file: str, test: str) -> None:
    assert re.search(rf"^(?:async )?def {test}\(", (ROOT / "tests" / "server" / file).read_text(), re.MULTILINE)


def test_each_threat_names_a_test() -> None:
    (table,) = re.findall(r"^\| attacker .*\n\| -.*\n((?:\|.*\n)+)", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert len(THREATS) == len(table.splitlines()) >= 20
