"""Files of another group, for tests of who may read or write one."""

import os
from pathlib import Path

import pytest

FOREIGN_GROUP = 54_321
"""A group that no test runs in."""


def give_to_foreign_group(path: Path) -> None:
    """Make a file one of a group that is not ours, which only root can do."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to a foreign group")
    assert FOREIGN_GROUP not in (os.getegid(), *os.getgroups())
    os.chown(path, -1, FOREIGN_GROUP)
