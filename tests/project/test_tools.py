"""A machine without a toolchain runs the rest; in CI its absence is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.tools import tool, toolchain

pytestmark = pytest.mark.external  # asks for tools, as a test of that tier does


def test_a_missing_program_skips_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^missing tool: absent$"):
        toolchain("python3", "absent")
    with pytest.raises(pytest.skip.Exception, match=r"^missing tool: absent .*dev.py tools.*$"):
        tool("absent", "bin/absent")


def test_in_ci_it_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"^missing tool: absent$"):
        toolchain("absent")
    toolchain("python3")


@pytest.mark.process
@pytest.mark.slow
def test_the_last_line_of_a_run_counts_what_was_skipped(tmp_path: Path) -> None:
    """It comes after the list of skipped tests, where nobody misses it."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interop/test_vectors.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout
    *_, stats, last = run.stdout.splitlines()
    assert stats.startswith("3 skipped in ")
    assert last == "3 tests were skipped for want of tools: go, java, node"
