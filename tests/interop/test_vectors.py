"""The one file of vectors, run by each language's own test; tests/protos runs it for Python, in this process."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.interop.clients import EXAMPLES
from tests.tools import toolchain
from tests.vectors.layout import every_test, read

RUNNERS = {
    "go": (["go"], ["go", "test", "-count=1", "-v", "./..."]),
    "java": (["java", "mvn"], ["mvn", "--quiet", "--batch-mode", "test"]),
    "node": (["node", "npm"], ["npm", "--silent", "test"]),
}


@pytest.mark.parametrize("language", RUNNERS)
def test_a_language_agrees_with_every_vector(language: str, request: pytest.FixtureRequest) -> None:
    programs, command = RUNNERS[language]
    toolchain(*programs)
    request.getfixturevalue(language)  # what it builds is tested here
    file = read("kve1.json")
    count = Counter(test["result"] for test in every_test(file))
    done = run(EXAMPLES / language, command)
    assert done.returncode == 0, done.stdout[-5000:]
    expected = f"kve1.json: {count['valid']} valid, {count['invalid']} invalid, all agree"
    assert count.total() == file["numberOfTests"]
    assert expected in done.stdout, done.stdout[-5000:]


def run(folder: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
