"""The blocks of docs/testing.md run: in Python, and under a pytest of their own that has our plugin."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.pages import Reader, texts_of

pytestmark = [pytest.mark.process, pytest.mark.slow]
TESTS, PROGRAM, FAULTS = texts_of("docs/testing.md", "python")

ISOLATED = """
import pytest

from keyvault_client import Busy


@pytest.mark.parametrize("_", range(2))
async def test_each_test_begins_empty(keyvault, keyvault_server, _):
    key = await keyvault.generate_key("prod/")
    await keyvault.create("prod/db", b"one", key=key)
    keyvault_server.refuse(Busy)
    keyvault_server.stop()
"""


def run_pytest(folder: Path, *options: str) -> str:
    """Run the tests in a folder with our plugin, by its entry point if it is installed."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    installed = any(point.name == "keyvault_client.pytest_plugin" for point in entry_points(group="pytest11"))
    done = subprocess.run(
        command if installed else [*command, "-p", "keyvault_client.pytest_plugin"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_a_user_pass(tmp_path: Path) -> None:
    """Two workers, each with its server and the tests of one file."""
    (tmp_path / "test_secrets.py").write_text(TESTS)
    (tmp_path / "test_isolated.py").write_text(ISOLATED)
    assert "6 passed" in run_pytest(tmp_path, "-n", "2", "--dist", "loadfile")


def test_the_programs_run(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "127.0.0.1:1")
    assert reader.run("python", PROGRAM) == "b's3cret'\n"
    shown = reader.run("python", FAULTS).splitlines()
    assert shown[0].startswith("the outcome of the change to revision 2 is unknown")
    assert shown[1:] == ["BACKEND_THROTTLED 60.0", "3", "1"]
