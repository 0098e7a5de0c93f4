"""A machine without a toolchain runs the rest; in CI its absence is a failure."""

import pytest

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
