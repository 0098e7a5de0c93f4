"""The tests of each language pass, and in them every vector of the one file; tests/api has those of Python."""

from collections import Counter
from pathlib import Path

import pytest

from tests.interop.programs import MARKS, Programs, run
from tests.support.repository import ROOT
from tests.support.tools import toolchain
from tests.vectors.layout import every_test, read

pytestmark = MARKS
RUNNERS = {
    "go": ["go", "test", "-count=1", "-v", "./..."],
    "java": ["mvn", "--quiet", "--batch-mode", "test"],
    "node": ["npm", "--silent", "test"],
}


def folder_of(language: str, programs: Programs) -> Path:
    """Return where the tests of a language's envelope run; those of Go's library are in test_go.py."""
    return ROOT / "sdk" / "go" / "kve1" if language == "go" else programs.folder_of(language)


@pytest.mark.parametrize("language", RUNNERS)
def test_a_language_agrees_with_every_vector(language: str, programs: Programs) -> None:
    if language == "go":
        toolchain("go")
    file = read("kve1.json")
    count = Counter(test["result"] for test in every_test(file))
    assert count.total() == file["numberOfTests"]
    told = run(folder_of(language, programs), *RUNNERS[language])
    assert f"kve1.json: {count['valid']} valid, {count['invalid']} invalid, all agree\n" in told
