"""What every test shares: a clean environment, tiers that are held, and what the run says at its end.

The rule of this file: the environment is cleaned before anything imports gRPC, which reads it once. So fixtures live in
tests/support and come as plugins, which pytest imports after this file.
"""

from typing import Any

import pytest

from tests.support import environment, properties
from tests.support.tools import MISSING

environment.clean()
properties.register()

pytest_plugins = ("tests.support.tiers", "tests.support.fixtures", "tests.support.engines", "tests.interop.matrix")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a worker what was removed from the environment before it was started."""
    node.workerinput["removed"] = environment.removed


def pytest_configure(config: pytest.Config) -> None:
    """Take over, in a worker, what the process that started it had removed."""
    environment.removed.update(getattr(config, "workerinput", {}).get("removed", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for want of which tools."""
    reasons = [str(report.longrepr) for report in terminalreporter.getreports("skipped")]
    wanting = sorted(reason.partition(MISSING)[2].strip("()'\" ") for reason in reasons if MISSING in reason)
    if wanting:
        terminalreporter.section("not tested here")
        terminalreporter.write_line(f"{len(wanting)} tests were skipped for want of tools:")
        for tool in dict.fromkeys(wanting):
            terminalreporter.write_line(f"  {wanting.count(tool):4} {tool}")
