"""A copy of the checkout in which a mutant is tested, each run of tests in a process that is forked.

The rule of this file: a process that forks has imported what the tests import of others, which takes most of the time
of a short run, and nothing of ours, so that the forked one imports the mutant.
"""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.mutants.source import Mutant

UNIT, SLOW = "not process and not external and not slow", "(process or slow) and not external"
SECONDS = {UNIT: 120, SLOW: 420}
"""How long the near tests of a tier may take: several times what they need."""
_NOT_COPIED = shutil.ignore_patterns(
    ".*cache", ".git", ".venv", ".tools", ".hypothesis", "node_modules", "target", "dist", "data", "__pycache__"
)
_OURS = ("tests", "keyvault_api", "keyvault_server", "keyvault_client")
_SOURCES = ("", "protos/python", "server", "client")
_OF_OTHERS = (
    "pytest grpc.aio google.protobuf.json_format cryptography.cobblestone cryptography.x509 hypothesis.strategies"
    " pydantic_settings aioboto3 prometheus_client jwt cyclopts"
)


def import_what_tests_need() -> None:
    """Import the packages of others that take long; before the first fork."""
    for module in _OF_OTHERS.split():
        importlib.import_module(module)


class Checkout:
    """One copy; used by one process at a time."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(source, folder, ignore=_NOT_COPIED)

    def kills(self, mutant: Mutant, tests: Sequence[str], tiers: Sequence[str]) -> bool:
        """Return whether a test of these tiers fails with this mutant in place of its file."""
        file = self._folder / mutant.path
        original, times = file.read_bytes(), file.stat()
        file.write_bytes(mutant.text)
        try:
            return not all(self.passes(tests, tier) for tier in tiers)
        finally:
            file.write_bytes(original)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def passes(self, tests: Sequence[str], tier: str) -> bool:
        """Run these tests until the first failure. A run that hangs has failed, and is ended with all that it began."""
        run = os.fork()
        if not run:
            self._run(tests, tier)
        patience = time.monotonic() + SECONDS[tier]
        try:
            while time.monotonic() < patience:
                ended, status = os.waitpid(run, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status) in (0, 5)  # 5: this tier has none of them
                time.sleep(0.02)
            return False
        finally:
            _end_session(run)

    def _run(self, tests: Sequence[str], tier: str) -> NoReturn:
        """Become a run of pytest in this copy."""
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silence, descriptor)
        os.chdir(self._folder)
        sources = [str(self._folder / name) for name in _SOURCES]
        os.environ |= {"PYTHONPATH": os.pathsep.join(sources), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True  # two versions of a file may have the same size and second
        sys.path[:0] = sources
        for module in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
            del sys.modules[module]
        code = 3
        try:
            options = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
            code = importlib.import_module("pytest").main([*options, "-m", tier, *tests])
        finally:
            os._exit(code)


def _end_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # it was waited for
        os.waitpid(session, 0)
