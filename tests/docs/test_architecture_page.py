"""docs/architecture.md names every package of the server, and no file that is absent; each package says what it is."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.repository import DOCS, ROOT

TEXT = (DOCS / "architecture.md").read_text()
SERVER = ROOT / "server" / "keyvault_server"
PACKAGES = sorted(path for path in SERVER.rglob("*") if path.is_dir() and path.name != "__pycache__")


def test_the_server_has_its_packages() -> None:
    assert len(PACKAGES) >= 9


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(SERVER).as_posix())
def test_every_package_is_named_and_says_what_it_is(package: Path) -> None:
    assert f"<b>{package.name}</b>" in TEXT
    assert ast.get_docstring(ast.parse((package / "__init__.py").read_text()))


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"[\w./]*\w+\.(?:py|proto|sh|md)\b", TEXT)) - {"__init__.py"}
    assert len(named) >= 6
    assert not {name for name in named if not any((folder / name).exists() for folder in (ROOT, DOCS, SERVER))}
