"""The mutation run itself: which mutants it makes, which it takes for killed, and what it excuses."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.mutants.__main__ import CORE, core, known, near_tests, sample_of
from tests.mutants.executed import Executed
from tests.mutants.source import mutants_of
from tests.support.repository import ROOT

TOY = '''
"""A docstring is left alone."""
import re

LIMIT: int = 3


class Door:
    def enter(self, age: int, *, member=False) -> bool:
        """Another docstring."""
        if not member and age < LIMIT:
            raise ValueError(f"{age + 1} is too young")
        self.last = age
        print("é", max(age, LIMIT))
        return member or age == 4
'''
EXPECTED = [
    ("", "LIMIT: int = 3", "LIMIT: int = 4"),
    (
        "Door.enter",
        "def enter(self, age: int, *, member=False) -> bool:",
        "def enter(self, age: int, *, member=True) -> bool:",
    ),
    ("Door.enter", "if not member and age < LIMIT:", "if member and age < LIMIT:"),
    ("Door.enter", "if not member and age < LIMIT:", "if (not member or age < LIMIT):"),
    ("Door.enter", "if not member and age < LIMIT:", "if not member and (age <= LIMIT):"),
    ("Door.enter", 'raise ValueError(f"{age + 1} is too young")', "pass"),
    ("Door.enter", "self.last = age", "pass"),
    ("Door.enter", 'print("é", max(age, LIMIT))', "pass"),
    ("Door.enter", 'print("é", max(age, LIMIT))', 'print("é", min(age, LIMIT))'),
    ("Door.enter", "return member or age == 4", "return None"),
    ("Door.enter", "return member or age == 4", "return (member and age == 4)"),
    ("Door.enter", "return member or age == 4", "return member or (age != 4)"),
    ("Door.enter", "return member or age == 4", "return member or age == 5"),
]
SOURCE = """
def count(n: int) -> int:
    while n > 0:
        n -= 1
    return n


def log() -> None:
    print(1)
"""
TESTS = """
from pathlib import Path
from keyvault_server import toy


def test_counting():
    assert toy.count(1) == 0


def test_logging():
    assert not Path("busy").exists()
    toy.log()
"""
JUDGE = """
from pathlib import Path
from tests.mutants.checkout import UNIT, Checkout, import_what_tests_need
from tests.mutants.executed import Executed
from tests.mutants.source import mutants_of

toy, copy, into = Path("TOY"), Path("COPY"), Path("INTO")
checkout = Checkout(toy, copy, patience=5)
executed = Executed.read(into, [copy], checkout.measure("tests", UNIT, into))
(copy / "busy").touch()
for mutant in mutants_of(toy, "server/keyvault_server/toy.py"):
    tests = executed.tests_for(mutant, ["tests"])
    print(checkout.kills(mutant, tests, executed.seconds), tests, mutant.after)
    assert (copy / mutant.path).read_text() == (toy / mutant.path).read_text()
"""


def test_a_mutant_has_one_fault_and_is_named_by_it(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    made = mutants_of(tmp_path, "toy.py")
    assert sorted(mutant.name[1:] for mutant in made) == sorted(EXPECTED)
    for mutant in made:
        differing = [
            pair for pair in zip(TOY.splitlines(), mutant.text.decode().splitlines(), strict=True) if len(set(pair)) > 1
        ]
        assert [(old.strip(), new.strip()) for old, new in differing] == [(mutant.before, mutant.after)]


@pytest.mark.slow
def test_every_mutant_of_the_core_is_python() -> None:
    mutants = core()
    assert len(mutants) > 1_500
    for mutant in mutants[::7]:
        ast.parse(mutant.text)


def test_every_file_of_the_core_and_its_near_tests_exist() -> None:
    for path in CORE:
        assert (ROOT / path).exists()
        assert all((ROOT / test).exists() for test in near_tests(path))


def test_every_known_survivor_says_why_and_is_of_the_core() -> None:
    listed = tomllib.loads((ROOT / "tests" / "mutants" / "survivors.toml").read_text())["survivor"]
    assert len(known()) == len(listed), "one is listed twice"
    for one in listed:
        assert set(one) == {"path", "function", "before", "after", "why"}
        assert one["path"].startswith(tuple(CORE))
        assert (ROOT / one["path"]).exists()


def test_an_unexecuted_line_has_the_tests_of_its_function(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SOURCE)
    counting, logging = "tests/test_toy.py::test_counting", "tests/test_toy.py::test_logging"
    lines = {("toy.py", 3): frozenset({counting}), ("toy.py", 9): frozenset({logging})}
    executed = Executed(lines, {counting: 1.0, logging: 1.0})
    tests = {mutant.before: executed.tests_for(mutant, ["tests"]) for mutant in mutants_of(tmp_path, "toy.py")}
    assert tests == {"while n > 0:": [counting], "n -= 1": [counting], "return n": [counting], "print(1)": [logging]}


@pytest.mark.process
@pytest.mark.slow
def test_a_mutant_is_killed_by_a_failing_test_alone(tmp_path: Path) -> None:
    """One that hangs is killed too; one whose test fails without it, as on a busy machine, is not."""
    toy, package = tmp_path / "toy", tmp_path / "toy" / "server" / "keyvault_server"
    for folder in (toy / "tests", package, tmp_path / "into"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "toy.py").write_text(SOURCE)
    (toy / "tests" / "test_toy.py").write_text(TESTS)
    script = JUDGE.replace("TOY", str(toy)).replace("COPY", str(tmp_path / "copy"))
    script = script.replace("INTO", str(tmp_path / "into"))
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    counting, logging = (f"['tests/test_toy.py::{test}']" for test in ("test_counting", "test_logging"))
    assert run.stdout.splitlines() == [
        f"True {counting} while (n >= 0):",
        f"True {counting} while n > 1:",
        f"True {counting} n += 1",
        f"True {counting} n -= 2",
        f"True {counting} return None",
        f"False {logging} pass",
        f"False {logging} print(2)",
    ]


@pytest.mark.medium
def test_a_sample_keeps_its_mutants_when_other_code_changes() -> None:
    """An earlier figure stays comparable: what was chosen stays chosen until its own code changes."""
    mutants = core(["client/keyvault_client"])
    sample = sample_of(mutants, 1, 100)
    assert len(sample) == 100
    changed = [mutant for mutant in mutants[::-1] if not mutant.path.endswith("listing.py")]
    assert [mutant.name for mutant in sample if mutant in changed] == [
        mutant.name for mutant in sample_of(changed, 1, 100) if mutant in sample
    ]
    assert {mutant.name for mutant in sample_of(mutants, 2, 100)} != {mutant.name for mutant in sample}
