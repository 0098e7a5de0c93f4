"""`keyvault run`: a program with secrets in its environment, in the place of the command."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import BIN
from tests.support.shell import Shell, in_shell

pytestmark = pytest.mark.process

INHERITED = """echo $$; cat /proc/self/limits; grep -E '^(Sig[BIC]|Umask|NoNewPrivs)' /proc/self/status
ls /proc/self/fd; echo "to standard error" >&2; exit 42"""
"""What a program sees of its start."""
FAILED_HANDSHAKE = """
import os, threading
from keyvault_client.terminal import environment_at_start, give_back_standard_error, quiet_grpc
before = dict(os.environ)
quiet_grpc()
import grpc
assert environment_at_start() == before
give_back_standard_error()
channel = grpc.secure_channel(os.environ["KEYVAULT_ADDRESS"], grpc.ssl_channel_credentials())
failed = threading.Event()
channel.subscribe(lambda state: state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and failed.set(), True)
assert failed.wait(20)
"""
"""What gRPC writes a line about, after a program has got standard error."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, address: str) -> Path:
    """A folder with the key of some records."""
    shell = Shell(tmp_path_factory.mktemp("run"), address)
    shell.ok("generate-key run/ --save run.key")
    for name, data in {"a": b"hunter2", "b": b"two\nlines\n", "nul": b"hunter2\0", "bytes": b"\xff"}.items():
        shell.ok(f"create run/{name} --key run.key", data)
    return shell.directory


@pytest.fixture
def shell(tmp_path: Path, stored: Path, address: str) -> Shell:
    shell = Shell(tmp_path, address)
    shell.environment.pop("GRPC_VERBOSITY", None)  # of the tests' own import of the server
    (tmp_path / "run.key").symlink_to(stored / "run.key")
    return shell


def test_a_program_gets_secrets_in_its_environment(shell: Shell) -> None:
    (shell.directory / "run.env").write_text("# comment\nB=run/b\n")
    shell.environment |= {"A": "of the shell"}
    line = "run --key run.key --env A=run/a --env-file run.env -- sh -c printenv${IFS}A;printenv${IFS}B"
    assert shell.ok(line) == b"hunter2\ntwo\nlines\n\n"


def test_a_key_from_a_pipe_is_for_all_variables(shell: Shell) -> None:
    """A shell makes one for `--key <(...)`, and it can be read once."""
    line = "run --key /dev/stdin --env A=run/a --env B=run/b -- sh -c printenv${IFS}A;printenv${IFS}B"
    assert shell.ok(line, (shell.directory / "run.key").read_bytes()) == b"hunter2\ntwo\nlines\n\n"


def test_a_program_starts_from_a_file_while_the_server_is_away(shell: Shell) -> None:
    line = "run --key run.key --env A=run/a --offline run.cache -- printenv A"
    assert shell.ok(line) == b"hunter2\n"
    assert b"hunter2" not in (shell.directory / "run.cache").read_bytes()
    away = line.replace("run ", "run --address 127.0.0.1:1 --timeout 0.5 ", 1)
    done = shell.run(away)
    assert (done.returncode, done.stdout) == (0, b"hunter2\n")
    assert done.stderr.startswith(b"refresh failed, the last values stay in use: run/a: cannot connect")
    (shell.directory / "run.cache").unlink()
    assert "A=run/a: cannot" in shell.refused(away, status=6)
    missing = shell.refused(line.replace("A=run/a", "A=run/a --env B=run/none"), status=3)
    assert "B=run/none: " in missing


def test_options_after_the_dashes_are_the_programs(shell: Shell) -> None:
    line = "run --key run.key --env A=run/a -- printf %s,%s,%s,%s,%s --help --env --key -- --version"
    assert shell.ok(line) == b"--help,--env,--key,--,--version"


def test_a_program_without_the_dashes_is_refused(shell: Shell) -> None:
    """An option of the program would otherwise be one of ours, and the program would start without it."""
    line = "run --key run.key --env A=run/a"
    assert "give -- before 'printenv'" in shell.refused(f"{line} printenv --timeout 3", status=2)
    assert "(options of the program follow --)" in shell.refused(f"{line} sh -c true", status=2)


def test_the_exit_code_is_the_programs(shell: Shell) -> None:
    assert shell.run("run --key run.key --env A=run/a -- sh -c exit${IFS}42").returncode == 42
    assert shell.run("run --key run.key --env A=run/a -- sh -c kill${IFS}$$").returncode == -15


@pytest.mark.slow
def test_the_program_is_started_as_a_shell_starts_it(shell: Shell) -> None:
    """It has the process, streams, limits, signals and no descriptor more."""
    run: list[str | Path] = [BIN / "keyvault", "run", "--key", "run.key", "--env", "A=run/a", "--"]
    _, plain = _inherited(["sh", "-c", INHERITED], shell)
    pid, run_by_us = _inherited([*run, "sh", "-c", INHERITED], shell)
    shown, reference = run_by_us.splitlines(), plain.splitlines()
    assert shown[0] == str(pid)
    assert shown[1:] == reference[1:]


def _inherited(command: list[str | Path], shell: Shell) -> tuple[int, str]:
    process = subprocess.Popen(
        command,
        cwd=shell.directory,
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_set_core_limit,  # noqa: PLW1509 - a limit of the child alone
        text=True,
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (42, "to standard error\n")
    return process.pid, out


def _set_core_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard if hard >= 0 and hard < 4096 else 4096, hard))


@pytest.mark.parametrize(
    ("assignment", "status", "sentence"),
    [
        ("B=run/absent", 3, "B=run/absent: "),
        ("B=prod/a", 2, "B=prod/a: the key's scope run/ does not cover prod/a"),
        ("B=run/nul", 1, "B=run/nul: the data has a NUL byte"),
        ("B=run/bytes", 1, "B=run/bytes: the data is not UTF-8"),
        ("B", 2, "--env 'B': expected NAME=RECORD"),
    ],
)
def test_a_name_that_fails_stops_it_before_the_start(shell: Shell, assignment: str, status: int, sentence: str) -> None:
    message = shell.refused(f"run --key run.key --env A=run/a --env {assignment} -- touch started", status)
    assert sentence in message
    assert "hunter2" not in message
    assert not (shell.directory / "started").exists()


def test_each_record_is_read_with_the_key_of_its_name(shell: Shell) -> None:
    (shell.directory / "keys").mkdir(0o700)
    shell.ok("generate-key run/own --save keys/own.key")
    shell.ok("create run/own --keys keys", b"3")
    (shell.directory / "keys" / "run.key").symlink_to((shell.directory / "run.key").resolve())
    shell.environment |= {"KEYVAULT_KEYS": "keys"}
    assert shell.ok("run --env A=run/a --env B=run/own -- printenv A B") == b"hunter2\n3\n"
    assert "no key for prod/x" in shell.refused("run --env A=run/a --env B=prod/x -- touch started", 2)
    assert not (shell.directory / "started").exists()


def test_no_server_stops_it_before_the_start(shell: Shell) -> None:
    line = "run --key run.key --env A=run/a --address 127.0.0.1:1 --timeout 0.5 -- touch started"
    shell.refused(line, status=6)
    assert not (shell.directory / "started").exists()


def test_a_program_that_cannot_be_run_is_one_line(shell: Shell) -> None:
    begin = "run --key run.key --env A=run/a"
    assert "give it after --" in shell.refused(begin, status=2)
    assert "program 'nonsense' not found" in shell.refused(f"{begin} -- nonsense --key x", status=127)
    assert "'./nonsense' not found" in shell.refused(f"{begin} -- ./nonsense", status=127)
    (shell.directory / "text").write_text("echo")
    assert "'./text' is not an executable file" in shell.refused(f"{begin} -- ./text", status=126)
    (shell.directory / "text").chmod(0o700)
    assert "text: cannot be run: Exec format error" in shell.refused(f"{begin} -- ./text", status=126)
    (shell.directory / "script").write_text("#!/nonsense\n")
    (shell.directory / "script").chmod(0o700)
    assert "script: cannot be run: No such file" in shell.refused(f"{begin} -- ./script", status=127)


def test_an_environment_that_is_too_large_is_one_line(shell: Shell) -> None:
    shell.ok("create run/large --key run.key", b"x" * 200_000)
    message = shell.refused("run --key run.key --env A=run/large -- true", status=126)
    assert "read large secrets into files" in message


def test_variables_that_lead_to_our_keys_stay_here(shell: Shell) -> None:
    shell.environment |= {"KEYVAULT_KEYS": "keys", "KEYVAULT_POLICY": "mine"}
    line = "--key run.key --env A=run/a"
    assert b"KEYVAULT_KEYS" not in shell.ok(f"run {line} -- env")
    assert {b"KEYVAULT_KEYS=keys", b"KEYVAULT_POLICY=mine"} <= set(
        shell.ok(f"run {line} --keep-credentials -- env").splitlines()
    )


def test_a_program_on_a_terminal_has_the_terminal(shell: Shell) -> None:
    with shell.at_terminal("run --key run.key --env A=run/a -- sh") as person:
        person.wait_for("$ ") if os.geteuid() else person.wait_for("# ")
        person.type(b"tty; echo got $A; exit 7\n")
        assert person.end() == 7
    assert "got hunter2" in person.shown
    assert "/dev/" in person.shown


def test_output_of_ours_comes_from_the_program_alone(shell: Shell) -> None:
    done = in_shell(shell, "keyvault run --key run.key --env A=run/a -- sh -c 'echo $A' 2>&-")
    assert (done.returncode, done.stdout) == (0, b"hunter2\n")


def test_grpc_writes_nothing_while_a_program_takes_over(shell: Shell) -> None:
    """A thread of gRPC's that runs into the execve() writes that it cannot start another one."""
    done = subprocess.run(
        [sys.executable, "-c", FAILED_HANDSHAKE], env=shell.environment, capture_output=True, timeout=30, check=True
    )
    assert done.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 9), (signal.SIGHUP, 8)])
def test_a_watched_program_is_restarted_on_a_change(shell: Shell, number: int, status: int) -> None:
    shell.run("create run/watched --key run.key", b"1")
    shell.ok("update run/watched --key run.key", b"1")
    script = "trap 'exit 9' TERM; trap 'exit 8' HUP; echo $$ $A; while :; do sleep 0.1; done"
    line = "run --key run.key --env A=run/watched --watch --refresh 0.3 -- sh -c"
    process = subprocess.Popen(
        [str(BIN / "keyvault"), *line.split(), script],
        cwd=shell.directory,
        env=shell.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        first, value = process.stdout.readline().split()
        assert value == "1"
        shell.ok("update run/watched --key run.key", b"2")
        second, value = process.stdout.readline().split()
        assert value == "2"
        assert not Path(f"/proc/{first}").exists()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (status, "keyvault: a secret has changed: restarting the program\n")
    assert not Path(f"/proc/{second}").exists()


def test_a_watched_program_that_ends_gives_its_exit_code(shell: Shell) -> None:
    line = "run --key run.key --env A=run/a --watch"
    assert shell.run(f"{line} -- sh -c exit${{IFS}}7").returncode == 7
    assert shell.run(f"{line} -- sh -c kill${{IFS}}-9${{IFS}}$$").returncode == 137
    assert "B=run/absent: no such record [RECORD_NOT_FOUND]" in shell.refused(
        f"{line} --env B=run/absent -- touch started", 3
    )
    assert not (shell.directory / "started").exists()


@pytest.mark.slow
def test_ctrl_c_reaches_a_watched_program_once(shell: Shell) -> None:
    script = "trap 'n=$((n+1)); echo caught $n' INT; echo ready; sleep 1; sleep 1; exit 5"
    with shell.at_terminal("run --key run.key --env A=run/a --watch -- sh -c", script) as person:
        person.wait_for("ready")
        person.type(b"\x03")
        assert person.end() == 5
    assert person.shown.count("caught") == 1
