"""A copy of the checkout in which a mutant is tested, each run of tests in a process that is forked.

The rule of this file: a process that forks has imported what the tests import of others, which takes most of the time
of a short run, and nothing of ours, so that the forked one imports the mutant.

A test that fails or hangs with a mutant has killed it only if it then passes without the mutant, in a third of the
time. So a busy machine, or a test that fails now and then, kills none.
"""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.mutants import executed
from tests.mutants.source import Mutant

UNIT, SLOW = "not process and not external and not slow", "(process or slow) and not external"
PATIENCE = 60.0
"""Seconds that a test may take, and five times what it took when it was measured. An import may take as many."""
_NO_TESTS = 5
"""Exit status of pytest."""
_TRIALS = 3
"""How many tests may accuse a mutant and then fail without it too, before it counts as a survivor."""
_NOT_COPIED = shutil.ignore_patterns(
    ".*cache", ".git", ".venv", ".tools", ".hypothesis", "node_modules", "target", "dist", "data", "__pycache__"
)
_OURS = ("tests", "keyvault_api", "keyvault_server", "keyvault_client")
_SOURCES = ("", "protos/python", "server", "client")
_OF_OTHERS = (
    "pytest grpc.aio google.protobuf.json_format cryptography.cobblestone cryptography.x509 hypothesis.strategies"
    " pydantic_settings aioboto3 prometheus_client jwt cyclopts coverage"
)


def import_what_tests_need() -> None:
    """Import the packages of others that take long; before the first fork."""
    for module in _OF_OTHERS.split():
        importlib.import_module(module)


@dataclass(frozen=True, slots=True)
class _End:
    """How a run of tests ended."""

    passed: bool
    test: str
    """The last one that began, "" if none did."""


class Checkout:
    """One copy; used by one process at a time."""

    def __init__(self, source: Path, folder: Path, patience: float = PATIENCE) -> None:
        self.folder, self._patience = folder, patience
        self._notes = folder.with_name(f"{folder.name}.notes")
        shutil.copytree(source, folder, ignore=_NOT_COPIED)

    def kills(self, mutant: Mutant, tests: Sequence[str], seconds: dict[str, float]) -> bool:
        """Return whether one of these tests, whose seconds are known, fails with the mutant in place of its file."""
        remaining = list(tests)
        for _ in range(_TRIALS):
            if not remaining:
                break
            with self._mutated(mutant):
                end = self._run(remaining, seconds)
            if end.passed:
                break
            accuser = end.test or remaining[0]
            if self._run([accuser], seconds, share=1 / 3).passed:
                return True
            remaining.remove(accuser)
        return False

    def measure(self, where: str, tier: str, into: Path) -> dict[str, float]:
        """Run all tests of a tier there, and measure what they execute. Return the seconds of those that pass."""
        run = os.fork()
        if not run:
            self._become_run([where], _Measured(self._notes, into), "-m", tier)
        try:
            _, status = os.waitpid(run, 0)
        finally:
            _end_session(run)
        if os.waitstatus_to_exitcode(status) not in (0, 1, _NO_TESTS):
            raise RuntimeError(f"pytest cannot run {where}")
        return {test: float(took) for took, test in (line.split(" ", 1) for line in self._noted())}

    @contextlib.contextmanager
    def _mutated(self, mutant: Mutant) -> Iterator[None]:
        file = self.folder / mutant.path
        original, times = file.read_bytes(), file.stat()
        file.write_bytes(mutant.text)
        try:
            yield
        finally:
            file.write_bytes(original)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _run(self, tests: Sequence[str], seconds: dict[str, float], share: float = 1) -> _End:
        """Run these tests until the first failure, or until one takes several times what it needs."""
        self._notes.unlink(missing_ok=True)
        run = os.fork()
        if not run:
            files = list(dict.fromkeys(map(executed.file_of, tests)))
            self._become_run(files, _Chosen(self._notes, frozenset(tests)), "-x")
        try:
            last, since = "", time.monotonic()
            while time.monotonic() < since + share * (self._patience + 5 * seconds.get(last, 0)):
                ended, status = os.waitpid(run, os.WNOHANG)
                noted = self._noted()
                if noted and noted[-1] != last:
                    last, since = noted[-1], time.monotonic()
                if ended:
                    return _End(os.waitstatus_to_exitcode(status) == 0, last)
                time.sleep(0.02)
            return _End(passed=False, test=last)
        finally:
            _end_session(run)

    def _noted(self) -> list[str]:
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    def _become_run(self, files: Sequence[str], plugin: Any, *options: str) -> NoReturn:
        """Become a run of pytest in this copy."""
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silence, descriptor)
        os.chdir(self.folder)
        sources = [str(self.folder / name) for name in _SOURCES]
        os.environ |= {"PYTHONPATH": os.pathsep.join(sources), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True  # two versions of a file may have the same size and second
        sys.path[:0] = sources
        for module in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
            del sys.modules[module]
        code = 3
        try:
            always = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
            with plugin:
                code = importlib.import_module("pytest").main([*always, *options, *files], [plugin])
        finally:
            os._exit(code)


class _Chosen:
    """A plugin that lets the chosen tests alone run, and notes each as it begins."""

    def __init__(self, notes: Path, tests: frozenset[str]) -> None:
        self._notes, self._tests = notes, tests

    def __enter__(self) -> None:
        self._file = self._notes.open("w", buffering=1)

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid in self._tests]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        print(nodeid, file=self._file)


class _Measured:
    """A plugin that measures what each test executes, and notes the seconds of each that passes."""

    def __init__(self, notes: Path, into: Path) -> None:
        self._notes, self._into = notes, into

    def __enter__(self) -> None:
        self._enter, self._end = executed.measure(self._into)
        self._file = self._notes.open("w", buffering=1)

    def __exit__(self, *error: object) -> None:
        self._end()
        self._file.close()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._enter(nodeid)
        self._began, self._failed = time.monotonic(), False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._failed |= not report.passed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if not self._failed:
            print(time.monotonic() - self._began, nodeid, file=self._file)


def _end_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # it was waited for
        os.waitpid(session, 0)
