"""Programs that are not Python's: toolchains, and what `python3 dev.py tools` puts under `.tools/`.

A missing one skips the tests that need it, and is a failure in CI. A test that asks for one is marked `external`.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.repository import ROOT
from tests.support.tiers import need_external

TOOLS = ROOT / ".tools"
MISSING = "missing tool: "
"""Begins the reason of each skip for want of a tool; the end of the run counts them."""


def tool(name: str, path: str) -> Path:
    """Return the program at this path under .tools, or else on the PATH."""
    need_external(name)
    if (TOOLS / path).exists():
        return TOOLS / path
    found = shutil.which(name)
    if found is None:
        _missing(f"{name} (`python3 dev.py tools` gets it)")
    return Path(found)


def toolchain(*names: str) -> None:
    """Skip the test unless a language has what it needs on the PATH to be built and run."""
    for name in names:
        need_external(name)
        if not shutil.which(name):
            _missing(name)


def _missing(name: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{MISSING}{name}")
    pytest.skip(f"{MISSING}{name}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for want of which tools."""
    reasons = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    wanting = sorted(reason.partition(MISSING)[2].strip("()'\" ") for reason in reasons if MISSING in reason)
    if wanting:
        terminalreporter.section("not tested here")
        terminalreporter.write_line(f"{len(wanting)} tests were skipped for want of tools:")
        for tool in dict.fromkeys(wanting):
            terminalreporter.write_line(f"  {wanting.count(tool):4} {tool}")
