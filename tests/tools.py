"""Programs that are not Python's, put under `.tools/` by `python3 dev.py tools`; a missing one skips, but not in CI."""

import os
import shutil
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / ".tools"


def tool(name: str, path: str) -> Path:
    """The program at this path under .tools, or else on the PATH."""
    if (TOOLS / path).exists():
        return TOOLS / path
    if found := shutil.which(name):
        return Path(found)
    return _missing(name)


def _missing(name: str) -> Path:
    reason = f"no {name}: `python3 dev.py tools` gets it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
