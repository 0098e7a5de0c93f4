"""The command `keyvault` in a folder, against one server, as a person at a shell runs it."""

import os
import subprocess
from pathlib import Path

from tests.support.processes import BIN


class Shell:
    """Runs the command in a directory, against one server."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.environment = os.environ | {"KEYVAULT_ADDRESS": address}

    def run(self, line: str, given: bytes = b"", out: str | None = None) -> "subprocess.CompletedProcess[bytes]":
        with (self.directory / out).open("wb") if out else open(os.devnull, "wb") as file:  # noqa: PTH123
            return subprocess.run(
                [BIN / "keyvault", *line.split()],
                cwd=self.directory,
                env=self.environment,
                input=given,
                stdout=file if out else subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=30,
                check=False,
            )

    def ok(self, line: str, given: bytes = b"", out: str | None = None) -> bytes:
        done = self.run(line, given, out)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout or b""

    def refused(self, line: str, status: int = 1, given: bytes = b"") -> str:
        done = self.run(line, given)
        message = done.stderr.decode()
        assert (done.returncode, done.stdout, message.count("\n")) == (status, b"", 1), message
        assert message.startswith("keyvault: ")
        return message
