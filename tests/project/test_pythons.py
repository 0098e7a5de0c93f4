"""One list of Pythons: what is claimed is what CI runs, what dev.py looks for and what the image ships."""

import re
import tomllib
from typing import Any

import yaml

import dev
from tests.support.repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLAIMED = [
    match[1]
    for classifier in PROJECT["classifiers"]
    if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
]


def test_the_oldest_claimed_python_is_the_oldest_that_installs() -> None:
    assert PROJECT["requires-python"] == f">={CLAIMED[0]}"
    assert ".".join(map(str, dev.OLDEST)) == CLAIMED[0]


def test_dev_looks_for_the_claimed_pythons_newest_first() -> None:
    assert list(dev.SUPPORTED) == CLAIMED[::-1]


def test_ci_runs_each_claimed_python() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["pythons"]
    assert job["strategy"]["matrix"]["python"] == CLAIMED
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/pythons ${{ matrix.python }}"]
    # Without an argument .ci/pythons takes the versions from the classifiers, by this pattern.
    pattern = r'.*"Programming Language :: Python :: \(3\.[0-9]*\)".*'
    assert pattern in (ROOT / ".ci/pythons").read_text()
    same = re.compile(pattern.replace(r"\(", "(").replace(r"\)", ")"))
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert [match[1] for line in lines if (match := same.fullmatch(line))] == CLAIMED


def test_the_image_has_a_claimed_python() -> None:
    bases = re.findall(r"^ARG BASE=python:(3\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(bases) == 1
    assert bases[0] in CLAIMED
