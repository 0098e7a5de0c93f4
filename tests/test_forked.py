"""A forked command is like a started one: its arguments, environment, folder and streams, and its end."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.forked import run_keyvault
from tests.support.processes import BIN
from tests.support.tiers import WrongTier

KEY = '{"tenant": "default", "scope": "a", "plaintextKey": "", "wrappedKey": ""}'


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--version", 0), ("read", 2), ("read a --key bad.key", 2), ("generate-key a --address 127.0.0.1:1", 1)],
)
def test_a_forked_command_is_like_a_started_one(tmp_path: Path, arguments: str, status: int) -> None:
    (tmp_path / "bad.key").write_text(KEY)
    command: list[str | Path] = [BIN / "keyvault", *arguments.split()]
    environment = os.environ | {"KEYVAULT_TIMEOUT": "1"}
    started = subprocess.run(
        command, cwd=tmp_path, env=environment, input=b"x", capture_output=True, timeout=30, check=False
    )
    forked = run_keyvault(command, folder=tmp_path, environment=environment, given=b"x", timeout=30)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode == status


@pytest.mark.process
def test_output_that_has_a_file_goes_there(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = run_keyvault([BIN / "keyvault", "--version"], environment=os.environ, given=b"", timeout=30, stdout=file)
    assert done.stdout is None
    assert (tmp_path / "out").read_text()[:1].isdigit()


@pytest.mark.process
def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_keyvault([BIN / "keyvault", "--version"], environment=os.environ, given=b"", timeout=0)


def test_a_test_without_a_marker_forks_no_command() -> None:
    with pytest.raises(WrongTier, match="mark it process"):
        run_keyvault([BIN / "keyvault", "--version"], environment={}, given=b"", timeout=1)
