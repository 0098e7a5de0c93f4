"""The tests of each example pass, and in them every vector of the one file; tests/api has those of Python."""

from collections import Counter

import pytest

from tests.interop.programs import MARKS, Programs
from tests.vectors.layout import every_test, read

pytestmark = MARKS


@pytest.mark.parametrize("language", ["go", "java", "node"])
def test_an_example_agrees_with_every_vector(programs: Programs, language: str) -> None:
    file = read("kve1.json")
    count = Counter(test["result"] for test in every_test(file))
    assert count.total() == file["numberOfTests"]
    line = f"kve1.json: {count['valid']} valid, {count['invalid']} invalid, all agree\n"
    assert line in programs.tests_of(language)
