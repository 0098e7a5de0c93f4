"""Names of tests are sentences that fit a line: at most 60 characters, what does not fit stands in the docstring."""

import re

from tests.support.repository import ROOT

LONG = re.compile(r"^\s*(?:async )?def (test_\w{56,})\(", re.MULTILINE)


def test_names_of_tests_have_at_most_60_characters() -> None:
    long = {path.name: LONG.findall(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(long) > 50
    assert not {file: names for file, names in long.items() if names}
    assert LONG.findall("async def test_" + 56 * "x" + "(") == ["test_" + 56 * "x"]
    assert not LONG.findall("def test_" + 55 * "x" + "(")
