"""Neither side leaves its memory on the disk when it is killed by a signal that writes a core file."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import BIN, STARTED, server_process
from tests.support.shell import Shell

pytestmark = pytest.mark.process


def allow_core_files() -> None:
    """Raise the limit as far as this user may, and let SIGQUIT end the process: a run in the background ignores it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def killed(process: "subprocess.Popen[bytes]") -> int:
    """Send SIGQUIT, wait, and return what the kernel says about the end."""
    process.send_signal(signal.SIGQUIT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -signal.SIGQUIT
    assert os.WTERMSIG(status) == signal.SIGQUIT
    return status


def started(line: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=allow_core_files,  # noqa: PLW1509 - a limit of the child alone
    )


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="no process may write core files here")
def test_a_process_writes_core_files_here(tmp_path: Path) -> None:
    """Else the tests below would show nothing."""
    with started([sys.executable, "-c", "print('ready', flush=True); input()"], tmp_path, dict(os.environ)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert os.WCOREDUMP(killed(process))


def test_the_command_leaves_no_core_file(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    with started(
        [BIN / "keyvault", "create", "prod/x", "--key", "prod.key"], shell.directory, shell.environment
    ) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(300_000))  # more than a pipe holds: it is being read when this returns
        process.stdin.flush()
        assert not os.WCOREDUMP(killed(process))


@pytest.mark.slow
def test_an_operators_command_leaves_no_core_file(tmp_path: Path) -> None:
    """It is held while it reads a key from a pipe."""
    os.mkfifo(tmp_path / "key", 0o600)
    line = ["audit", "public-key", "--key", "key"]
    opened_by_command = (tmp_path / "key").open
    with started([BIN / "keyvault-server", *line], tmp_path, dict(os.environ)) as process, opened_by_command("wb"):
        assert not os.WCOREDUMP(killed(process))


def test_a_server_leaves_no_core_file(tmp_path: Path) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_CORE), signal.getsignal(signal.SIGQUIT)
    allow_core_files()  # inherited
    try:
        with server_process(tmp_path / "data", program=STARTED) as server:
            server.process.send_signal(signal.SIGQUIT)
            _, status = os.waitpid(server.process.pid, 0)
            server.process.returncode = -signal.SIGQUIT
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
        signal.signal(signal.SIGQUIT, handler)
    assert os.WTERMSIG(status) == signal.SIGQUIT
    assert not os.WCOREDUMP(status)
