"""What a person gets wrong at a shell: one line that says what to do, an exit code that says what to do, no
traceback, no secret, and no key lost.
"""

import re
import shlex
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from keyvault_client import DataKey
from keyvault_client.cli import COMMANDS
from keyvault_client.cli_app import app
from tests.support.processes import BIN
from tests.support.shell import Shell, in_shell, one_line, without_room

SECRET = "hunter2"
DEEP = b"[" * 100_000


@pytest.fixture
def key(shell: Shell) -> Path:
    """A file with a key for "prod/"."""
    shell.ok("generate-key prod/", out="prod.key")
    return shell.directory / "prod.key"


@pytest.mark.process
@pytest.mark.slow
def test_data_given_as_an_argument_is_refused_and_not_repeated(shell: Shell, key: Path) -> None:
    message = shell.refused(f"create prod/x {SECRET} --key {key}", status=2)
    assert SECRET not in message
    assert "standard input" in message


@pytest.mark.process
@pytest.mark.parametrize("content", [b"", b"{}", DEEP, bytes(100_000)], ids=["empty", "other", "deep", "long"])
def test_a_file_that_is_not_a_key_is_refused_by_its_name(shell: Shell, content: bytes) -> None:
    (shell.directory / "notes").write_bytes(content)
    (shell.directory / "notes").chmod(0o600)
    assert "notes: not a data key" in shell.refused("read prod/x --key notes", status=2)


@pytest.mark.process
def test_a_key_file_without_end_is_refused(shell: Shell) -> None:
    assert "/dev/zero: not a data key" in shell.refused("read prod/x --key /dev/zero", status=2)


@pytest.mark.process
def test_an_old_record_of_any_depth_is_refused(shell: Shell) -> None:
    assert "not a legacy record" in shell.refused("import-legacy prod/x --key fresh.key", status=2, given=DEEP)


@pytest.mark.process
@pytest.mark.parametrize("revision", ["0", "9223372036854775808", "99999999999999999999999"])
def test_an_invalid_revision_is_refused(shell: Shell, key: Path, revision: str) -> None:
    shell.refused(f"seal prod/x --key {key} --revision {revision}", status=2, given=b"x")


@pytest.mark.process
@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e300"])
def test_an_invalid_timeout_is_refused(shell: Shell, key: Path, timeout: str) -> None:
    assert "timeout" in shell.refused(f"read prod/x --key {key} --timeout {timeout}", status=2)


@pytest.mark.process
def test_an_address_of_another_machine_names_the_flags(shell: Shell, key: Path) -> None:
    message = shell.refused(f"read prod/x --key {key} --address vault.example:1", status=2)
    assert "--tls" in message
    assert "--insecure" in message
    assert "host:port" in shell.refused(f"read prod/x --key {key} --address http://127.0.0.1:1", status=2)


@pytest.mark.process
def test_a_conflict_names_the_current_revision(shell: Shell, key: Path) -> None:
    shell.ok(f"create prod/conflict --key {key}", b"1")
    shell.ok(f"update prod/conflict --key {key}", b"2")
    assert "at revision 2" in shell.refused(f"update prod/conflict --key {key} --revision 1", 4, b"3")
    assert "at revision 2" in shell.refused(f"create prod/conflict --key {key}", 4, b"3")


@pytest.mark.process
def test_a_rotation_to_the_same_data_key_is_refused(shell: Shell, key: Path) -> None:
    shell.ok(f"create prod/same --key {key}", b"1")
    assert "same" in shell.refused(f"rotate-key prod/same --key {key} --new-key {key}", status=2)


@pytest.mark.process
@pytest.mark.slow
def test_a_failed_handshake_is_one_line_too(shell: Shell, key: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_talk_no_tls, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "the server does not speak TLS" in shell.refused(
            f"read prod/x --key {key} --tls --timeout 4 --address {address}", status=6
        )
        shell.environment["KEYVAULT_TLS"] = "true"
        assert "the server does not speak TLS" in shell.refused(
            f"read prod/x --key {key} --timeout 4 --address {address}", status=6
        )


def _talk_no_tls(server: socket.socket) -> None:
    try:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"I speak no TLS\n" * 10)
    except OSError:
        return  # the test has ended


@pytest.mark.process
@pytest.mark.parametrize("line", ["create prod/x --key prod.key", "seal prod/x --key prod.key --revision 1", "inspect"])
def test_a_closed_input_is_not_taken_for_an_empty_one(shell: Shell, key: Path, line: str) -> None:
    assert "standard input is closed" in one_line(in_shell(shell, f"keyvault {line} <&-"), 2)


@pytest.mark.process
@pytest.mark.parametrize("line", ["generate-key prod/", "read prod/out --key prod.key"])
def test_output_that_cannot_be_written_is_one_line(shell: Shell, key: Path, line: str) -> None:
    if "read" in line:
        shell.ok("create prod/out --key prod.key", b"x")
    assert "closed" in one_line(in_shell(shell, f"keyvault {line} >&-"), 2)
    assert "No space left" in one_line(in_shell(shell, f"keyvault {line} > /dev/full"), 1)
    assert "Broken pipe" in one_line(in_shell(shell, f"keyvault {line} | true; exit ${{PIPESTATUS[0]}}"), 1)


@pytest.mark.process
def test_a_report_that_cannot_be_written_is_one_line(shell: Shell, key: Path) -> None:
    assert "No space left" in one_line(
        in_shell(shell, "keyvault create prod/full --key prod.key --allow-empty </dev/null >/dev/full"), 1
    )


@pytest.mark.process
def test_a_refusal_never_gets_into_the_output(shell: Shell, key: Path) -> None:
    done = in_shell(shell, "keyvault read prod/absent --key prod.key 2>&-")
    assert (done.returncode, done.stdout) == (3, b"")


@pytest.mark.process
def test_an_interrupt_is_one_line(shell: Shell, key: Path) -> None:
    process = subprocess.Popen(
        [BIN / "keyvault", "create", "prod/interrupted", "--key", key],
        env=shell.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it is ignored in a background job
    )
    assert process.stdin is not None
    process.stdin.write(b"x" * 200_000)  # more than a pipe holds: it is being read when this returns
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (
        130,
        b"",
        b"keyvault: interrupted: a change that was sent may have taken effect\n",
    )


@pytest.mark.process
@pytest.mark.parametrize("line", ["generate-key prod/", "rewrap-key --key prod.key"])
def test_a_key_can_be_saved_and_never_over_another_one(shell: Shell, key: Path, line: str) -> None:
    kept = key.read_bytes()
    assert "already exists" in shell.refused(f"{line} --save prod.key", status=2)
    assert key.read_bytes() == kept
    assert shell.ok(f"{line} --save fresh.key") == b""
    assert (shell.directory / "fresh.key").stat().st_mode & 0o777 == 0o600
    assert DataKey.load(shell.directory / "fresh.key").scope == "prod/"


@pytest.mark.process
def test_a_key_that_finds_no_room_leaves_no_part_of_itself(shell: Shell) -> None:
    done = without_room(shell, "generate-key prod/ --save small.key")
    assert "small.key: " in one_line(done, 1)
    assert not (shell.directory / "small.key").exists()


@pytest.mark.medium
def test_every_command_and_parameter_is_explained() -> None:
    commands = [app[name] for name in app if not name.startswith("-")]
    assert len(commands) == len(COMMANDS)
    for command in commands:
        assert command.help, command.name
        for argument in command.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help or argument.children, (command.name, argument.name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_is_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(rf"`(?:[^`]*[ |])?keyvault ({name}\b[^`<>]*)[^`]*`", app[name].help)
    assert found, app[name].help
    for file in ("prod.key", "new.key", "old.key", ".env"):
        if f"--save {file}" not in found[1]:
            (tmp_path / file).touch()
    app.parse_args(shlex.split(found[1]), exit_on_error=False, print_error=False)
