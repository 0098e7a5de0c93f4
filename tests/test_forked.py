"""A forked command is like a started one: its arguments, environment, folder and streams, and its end."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.forked import operate, run_forked, run_line
from tests.support.processes import BIN, STARTED, server_process
from tests.support.tiers import WrongTier

KEY = '{"tenant": "default", "scope": "a", "plaintextKey": "", "wrappedKey": ""}'


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--version", 0), ("read", 2), ("read a --key bad.key", 2), ("generate-key a --address 127.0.0.1:1", 6)],
)
def test_a_forked_command_is_like_a_started_one(tmp_path: Path, arguments: str, status: int) -> None:
    (tmp_path / "bad.key").write_text(KEY)
    command: list[str | Path] = [BIN / "keyvault", *arguments.split()]
    environment = os.environ | {"KEYVAULT_TIMEOUT": "1"}
    started = subprocess.run(
        command, cwd=tmp_path, env=environment, input=b"x", capture_output=True, timeout=30, check=False
    )
    forked = run_forked(command, folder=tmp_path, environment=environment, given=b"x", timeout=30)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode == status


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"), [("--version", 0), ("nonsense", 2), ("check-config", 0), ("serve --data bad.key", 1)]
)
def test_a_forked_server_command_is_like_a_started_one(tmp_path: Path, arguments: str, status: int) -> None:
    (tmp_path / "bad.key").write_text(KEY)
    environment = {"KEYVAULT_LISTEN": "127.0.0.1:0"}
    command: list[str | Path] = [*STARTED, *arguments.split()]
    started = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False
    )
    forked = operate(arguments.split(), environment, tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode == status


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("program", [(), STARTED], ids=["forked", "started"])
def test_a_forked_server_is_signalled_like_a_started_one(tmp_path: Path, program: Sequence[str | Path]) -> None:
    with server_process(tmp_path / "data", program=program) as server:
        assert (server.process.poll(), server.process.returncode) == (None, None)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0)
        assert server.stop() == 0
    assert server.process.poll() == 0
    assert '"stopped"' in server.log.read_text()
    with server_process(tmp_path / "data", program=program) as killed:
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
        killed.process.terminate()  # of a process that has ended: nothing


@pytest.mark.process
def test_what_only_a_start_reads_reaches_a_fork(tmp_path: Path) -> None:
    other = tmp_path / "keyvault_client"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "cli.py").write_text('def main():\n    print("another")\n')
    (other / "cli_app.py").write_text("def import_commands():\n    pass\n")
    done = run_forked([BIN / "keyvault"], environment=os.environ | {"PYTHONPATH": str(tmp_path)}, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"another\n")


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("umask 027; cd folder; keyvault --version > version; exit $?", 0, ""),
        ("keyvault read <&- 2>&1 >&- | cat; exit ${PIPESTATUS[0]}", 2, ""),
        ("keyvault nonsense", 2, "keyvault: "),
    ],
)
def test_a_line_of_a_shell_reaches_a_fork(tmp_path: Path, line: str, status: int, said: str) -> None:
    (tmp_path / "folder").mkdir()
    forked = run_line(line, [BIN / "keyvault"], tmp_path, os.environ)
    started = run_line(line, [], tmp_path, os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode == status
    assert forked.stderr.decode().startswith(said)


@pytest.mark.process
def test_output_that_has_a_file_goes_there(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = run_forked([BIN / "keyvault", "--version"], environment=os.environ, given=b"", timeout=30, stdout=file)
    assert done.stdout is None
    assert (tmp_path / "out").read_text()[:1].isdigit()


@pytest.mark.process
def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked([BIN / "keyvault", "--version"], environment=os.environ, given=b"", timeout=0)


def test_a_test_without_a_marker_forks_no_command() -> None:
    with pytest.raises(WrongTier, match="mark it process"):
        run_forked([BIN / "keyvault", "--version"], environment={}, given=b"", timeout=1)
