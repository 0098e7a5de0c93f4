"""docs/reference is what --help of the command shows, as a page and as a man page."""

import runpy

import pytest

from keyvault_client.cli import COMMANDS
from tests.support.repository import ROOT

GENERATOR = runpy.run_path(str(ROOT / "client" / "generate_reference.py"))


@pytest.mark.slow
def test_the_reference_is_what_the_generator_makes() -> None:
    for path, text in GENERATOR["generate"]().items():
        assert path.read_text() == text, "run python client/generate_reference.py"


def test_the_reference_has_every_command() -> None:
    page, manual = (GENERATOR[name].read_text().replace("\\-", "-").splitlines() for name in ("PAGE", "MANUAL"))
    for name in COMMANDS:
        assert f"## keyvault {name}" in page
        assert f".SH keyvault {name}" in manual
