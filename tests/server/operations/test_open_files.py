"""A limit of open files that is too low is one line; one that may be raised is raised."""

import resource
import signal
import subprocess
from pathlib import Path

import pytest

from keyvault_server.operations.open_files import SERVER, needed_by
from keyvault_server.operations.settings import Settings
from tests.support.pages import with_commands
from tests.support.processes import BIN, server_process
from tests.support.refusals import refusal


def limited(files: int, command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", f"ulimit -n {files}; exec keyvault-server {command}"],
        cwd=folder,
        env=with_commands(KEYVAULT_LISTEN="127.0.0.1:0"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("files", [16, 24, SERVER - 1])
def test_a_limit_that_is_too_low_for_a_server_is_one_line(tmp_path: Path, files: int) -> None:
    """With 24 gRPC aborted with a stack, with 16 the advice was to look for a full disk."""
    line = refusal(limited(files, "serve --data data", tmp_path), 1)
    assert f"this process may open {files} files and connections, at least " in line
    assert "ulimit -Hn" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.slow
def test_a_limit_that_is_too_low_for_a_command_is_one_line(tmp_path: Path) -> None:
    assert "may open 16 files" in refusal(limited(16, "init --data data", tmp_path), 1)
    done = limited(64, "init --data data", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.slow
def test_a_server_raises_the_limit_that_it_may_raise(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = ("bash", "-c", 'ulimit -Sn 32; exec "$0" "$@"', BIN / "keyvault-server")
    with server_process(tmp_path / "data", program=program) as one:
        soft, _ = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
        assert soft == min(hard if hard != resource.RLIM_INFINITY else 65_536, 65_536)
        assert one.stop(signal.SIGTERM) == 0


def test_connections_to_aws_count() -> None:
    assert needed_by(Settings(backend="aws", aws_connections=100)) == needed_by(Settings()) + 200
