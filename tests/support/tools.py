"""Programs that are not Python's: toolchains, and what `python3 dev.py tools` puts under `.tools/`.

A missing one skips the tests that need it, and is a failure in CI. A test that asks for one is marked `external`.
"""

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.repository import ROOT
from tests.support.tiers import need_external

TOOLS = ROOT / ".tools"
MISSING = "missing tool: "
"""Begins the reason of each skip for want of a tool; the last line of the run counts them."""


def tool(name: str, path: str) -> Path:
    """Return the program at this path under .tools, or else on the PATH."""
    need_external(name)
    if (TOOLS / path).exists():
        return TOOLS / path
    found = shutil.which(name)
    if found is None:
        missing(f"{name} (`python3 dev.py tools` gets it)")
    return Path(found)


def toolchain(*names: str) -> None:
    """Skip the test unless a language has what it needs on the PATH to be built and run."""
    for name in names:
        need_external(name)
        if not shutil.which(name):
            missing(name)


def missing(name: str) -> NoReturn:
    """Skip the test for want of this; fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{MISSING}{name}")
    pytest.skip(f"{MISSING}{name}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say how many tests were skipped for want of which tools: the last line of a run, after the list of them."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", ())] if reporter else []
    wanting = [reason.partition(MISSING)[2].strip("()'\" ") for reason in reasons if MISSING in reason]
    if wanting:
        names = ", ".join(sorted(set(wanting)))
        reporter.write_line(f"{len(wanting)} tests were skipped for want of tools: {names}")
