"""The command `keyvault` in a folder, against one server, as a person at a shell runs it."""

import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.forked import run_forked, run_line
from tests.support.processes import BIN
from tests.support.terminal import Terminal, at_terminal


class Shell:
    """Runs the command in a folder, against one server."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.environment = os.environ | {"KEYVAULT_ADDRESS": address}

    def run(self, line: str, given: bytes = b"", out: str | None = None) -> "subprocess.CompletedProcess[bytes]":
        """Run a line of the command; its output goes to the file `out`, as under a umask of 077, or is captured."""
        with open(self.directory / out if out else os.devnull, "wb", opener=_private) as file:
            return run_forked(
                [BIN / "keyvault", *line.split()],
                folder=self.directory,
                environment=self.environment,
                given=given,
                stdout=file if out else None,
                timeout=30,
            )

    def ok(self, line: str, given: bytes = b"", out: str | None = None) -> bytes:
        done = self.run(line, given, out)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        return done.stdout or b""

    def at_terminal(self, line: str, *more: str) -> AbstractContextManager[Terminal]:
        """Run a line of the command on a terminal; further arguments may have blanks."""
        return at_terminal([BIN / "keyvault", *line.split(), *more], self.directory, self.environment)

    def refused(self, line: str, status: int = 1, given: bytes = b"") -> str:
        done = self.run(line, given)
        message = done.stderr.decode()
        assert (done.returncode, done.stdout, message.count("\n")) == (status, b"", 1), message
        assert message.startswith("keyvault: ")
        return message


def in_shell(shell: Shell, line: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line with bash, which can close a stream or redirect it."""
    return run_line(line, [BIN / "keyvault"], shell.directory, shell.environment)


def without_room(shell: Shell, line: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of the command, as on a full disk: no file that it writes gets a byte."""
    # The coverage of this one process could not be written either.
    return in_shell(shell, f"unset ${{!COVERAGE_*}}; ulimit -f 0; {BIN}/keyvault {line}")


def one_line(done: "subprocess.CompletedProcess[bytes]", status: int) -> str:
    """Return the one line that a command says, with this exit status, instead of doing it."""
    message = done.stderr.decode()
    assert (done.returncode, message.count("\n")) == (status, 1), message
    assert message.startswith("keyvault: ")
    return message


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
