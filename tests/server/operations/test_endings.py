"""How the command ends whatever goes wrong: one line, and the traceback of a bug for those who ask for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault_server.backends.embedded.data_directory import UnusableData
from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.operations.composition import data_directory
from keyvault_server.operations.endings import bugs_logged, end_in_one_line
from keyvault_server.operations.settings import Settings
from tests.support.refusals import refusal

ARN = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
NOBODY = 54_321
"""A user id without an entry in the system's list of users, as OpenShift gives each pod one."""
_MAIN = "from keyvault_server.operations.cli import main; main()"


def fail_with_secret() -> None:
    raise RuntimeError("s3cret")


def interrupt() -> None:
    raise KeyboardInterrupt


def name_a_file_with_an_escape() -> None:
    raise FileNotFoundError(2, "No such file", "a\x1b[1mb\nwhole: all")


def ended(command: Callable[[], None], output: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        end_in_one_line(command)
    code = end.value.code
    assert isinstance(code, int)
    return code, output.readouterr().err


def test_an_unexpected_error_is_one_line_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = ended(fail_with_secret, capsys)
    assert (code, printed.count("\n")) == (1, 1)
    assert "s3cret" not in printed
    assert "unexpected RuntimeError in endings.py line " in printed
    assert "KEYVAULT_TRACEBACK=true" in printed


def test_a_traceback_is_printed_if_it_is_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVAULT_TRACEBACK", "true")
    code, printed = ended(fail_with_secret, capsys)
    assert code == 1
    assert "in fail_with_secret" in printed
    assert printed.splitlines()[-1].startswith("keyvault-server: unexpected RuntimeError")


def test_a_server_logs_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError), bugs_logged():
        fail_with_secret()
    (line,) = caplog.records
    assert line.exc_info is not None
    assert isinstance(line.exc_info[1], RuntimeError)


def test_a_refusal_is_not_logged_as_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    for refusal_ in (UnusableData("x"), BackendUnavailable(), FileNotFoundError()):
        with pytest.raises(type(refusal_)), bugs_logged():
            raise refusal_
    assert caplog.records == []


def test_an_interrupted_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(interrupt, capsys) == (130, "keyvault-server: interrupted\n")


def test_a_refusal_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = ended(name_a_file_with_an_escape, capsys)
    assert (code, printed) == (1, "keyvault-server: a\\x1b[1mb whole: all: No such file\n")


def test_a_home_that_does_not_exist_is_refused() -> None:
    """The standard library's RuntimeError came up instead."""
    with pytest.raises(UnusableData, match="KEYVAULT_DATA: ~nosuchuser/x: this user has no home directory"):
        data_directory(Settings(data=Path("~nosuchuser/x")))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with (
        pytest.raises(UnusableData, match=r"loop|lead back|levels"),
        data_directory(Settings(data=tmp_path / "a")).locked(),
    ):
        pass


def as_nobody(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user without a home and without an entry in the list of users.

    It stays root to the file system, where the interpreter may be in root's own folder.
    """
    clean = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-c", f"import os; os.setreuid({NOBODY}, -1); {_MAIN}", *arguments],
        cwd="/",
        env=clean | {"KEYVAULT_LISTEN": "127.0.0.1:0", "AWS_EC2_METADATA_DISABLED": "true"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as another user")
@pytest.mark.parametrize("command", ["serve", "init", "purge prod/a --yes --insecure-no-audit"])
def test_a_user_without_a_home_is_asked_for_a_directory(command: str) -> None:
    done = as_nobody(*command.split())
    assert "this user has no home directory: name another directory" in refusal(done, 1)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a command as another user")
@pytest.mark.parametrize("command", ["serve", "init", "purge prod/a --yes --insecure-no-audit"])
def test_a_user_without_a_home_needs_none_for_aws(command: str) -> None:
    """The data directory is not looked for; what is missing is AWS's own."""
    settings = {"KEYVAULT_BACKEND": "aws", "KEYVAULT_AWS_REGION": "eu-central-1"}
    done = as_nobody(*command.split(), KEYVAULT_AWS_MASTER_KEYS=json.dumps({"1": ARN}), **settings)
    line = refusal(done, 1, after_log=True)
    assert "unexpected" not in line
    assert "home" not in line
