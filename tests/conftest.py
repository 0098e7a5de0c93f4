"""What every test shares: a clean environment and the plugins.

The rule of this file: the environment is cleaned before anything imports gRPC, which reads it once. So fixtures live in
tests/support and come as plugins, which pytest imports after this file.
"""

from typing import Any

import pytest

from tests.support import environment, properties

environment.clean()
properties.register()

pytest_plugins = (
    "tests.support.tiers",
    "tests.support.tools",
    "tests.support.fixtures",
    "tests.support.engines",
    "tests.interop.matrix",
)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand a worker what was removed from the environment before it was started."""
    node.workerinput["removed"] = environment.removed


def pytest_configure(config: pytest.Config) -> None:
    """Take over, in a worker, what the process that started it had removed."""
    environment.removed.update(getattr(config, "workerinput", {}).get("removed", {}))
