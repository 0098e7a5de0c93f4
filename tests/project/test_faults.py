"""tests/FAULTS.md names tests that exist."""

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
