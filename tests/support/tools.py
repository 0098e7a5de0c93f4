"""Programs that are not Python's: toolchains, and what `python3 dev.py tools` puts under `.tools/`.

A missing one skips the tests that need it, and is a failure in CI.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.repository import ROOT

TOOLS = ROOT / ".tools"


def tool(name: str, path: str) -> Path:
    """The program at this path under .tools, or else on the PATH."""
    if (TOOLS / path).exists():
        return TOOLS / path
    found = shutil.which(name)
    if found is None:
        _missing(f"no {name}: `python3 dev.py tools` gets it")
    return Path(found)


def toolchain(*names: str) -> None:
    """What a language needs on the PATH to be built and run."""
    for name in names:
        if not shutil.which(name):
            _missing(f"no {name}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
