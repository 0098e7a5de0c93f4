"""Which near tests execute which lines, and how long each takes: measured in runs without a mutant.

The rule of this file: what it misses makes a mutant survive, never die. A process that a test kills, for one, loses
what it executed. Before Python 3.12 coverage also loses what a coroutine executes after something in it was cancelled:
so a statement that no test seems to execute has the tests of its function.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage, CoverageData

from tests.mutants.source import Mutant

_TEST, _START = "MUTANTS_TEST", "COVERAGE_PROCESS_START"
_RC = """
[run]
parallel = true
source_pkgs = keyvault_server, keyvault_client
context = ${{MUTANTS_TEST-}}
sigterm = true
disable_warnings = no-data-collected, module-not-imported, no-ctracer, module-not-measured
data_file = {folder}/data
"""


def measure(folder: Path) -> tuple[Callable[[str], object], Callable[[], None]]:
    """Begin in this process, and in those that it starts; return what names the current test, and what ends it."""
    rc = folder / f"rc{os.getpid()}"
    rc.write_text(_RC.format(folder=folder))
    coverage = Coverage(config_file=str(rc))
    coverage.start()
    os.environ[_START] = str(rc)

    def enter(test: str) -> None:
        os.environ[_TEST] = test  # for the processes that it starts
        coverage.switch_context(test)

    def end() -> None:
        coverage.stop()
        coverage.save()

    return enter, end


@dataclass(frozen=True, slots=True)
class Executed:
    """The lines that each test of a tier executes, and the seconds that it takes."""

    tests_of_line: dict[tuple[str, int], frozenset[str]]
    """By path below the checkout and line. The test "" is an import."""
    seconds: dict[str, float]
    """By the name of the test; those that fail without a mutant are not in here."""

    @classmethod
    def read(cls, folder: Path, roots: Iterable[Path], seconds: dict[str, float]) -> "Executed":
        """Read what was measured in this folder, in copies of the checkout at these roots."""
        found: dict[tuple[str, int], set[str]] = {}
        for file in folder.glob("data.*"):
            data = CoverageData(str(file))
            data.read()
            for root, name in ((root, name) for root in roots for name in data.measured_files()):
                if Path(name).is_relative_to(root):
                    path = str(Path(name).relative_to(root))
                    for line, tests in data.contexts_by_lineno(name).items():
                        found.setdefault((path, line), set()).update(tests)
        return cls({line: frozenset(tests) for line, tests in found.items()}, seconds)

    def tests_for(self, mutant: Mutant, near: Iterable[str]) -> list[str]:
        """Return the near tests that execute the mutated statement, those of the quickest file first."""
        seen = self._tests_of(mutant.path, *mutant.statement) or self._tests_of(mutant.path, *mutant.body)
        within = tuple(path if path.endswith(".py") else f"{path}/" for path in near)
        chosen = [
            test for test in self.seconds if test.startswith(within) and ("" in seen or test in seen)
        ]  # any test may notice what an import executes
        of_file: dict[str, float] = {}
        for test in chosen:
            of_file[file_of(test)] = of_file.get(file_of(test), 0) + self.seconds[test]
        return sorted(chosen, key=lambda test: (of_file[file_of(test)], file_of(test)))

    def _tests_of(self, path: str, first: int, last: int) -> frozenset[str]:
        lines = range(first, last + 1)
        return frozenset[str]().union(*(self.tests_of_line.get((path, line), ()) for line in lines))


def file_of(test: str) -> str:
    """Return the path of the file that has this test."""
    return test.partition("::")[0]
