"""The tests of each language pass, and in them every vector of the one file; tests/api has those of Python."""

from collections import Counter

import pytest

from tests.interop.programs import MARKS, Programs, run
from tests.vectors.layout import every_test, read

pytestmark = MARKS
RUNNERS = {
    "go": ["go", "test", "-count=1", "-v", "./..."],
    "java": ["mvn", "--quiet", "--batch-mode", "test", "-Dtest=Kve1Test"],
    "node": ["npm", "--silent", "run", "vectors"],
}


@pytest.mark.parametrize("language", RUNNERS)
def test_a_language_agrees_with_every_vector(language: str, programs: Programs) -> None:
    file = read("kve1.json")
    count = Counter(test["result"] for test in every_test(file))
    assert count.total() == file["numberOfTests"]
    told = run(programs.envelope_of(language), *RUNNERS[language])
    assert f"kve1.json: {count['valid']} valid, {count['invalid']} invalid, all agree\n" in told
