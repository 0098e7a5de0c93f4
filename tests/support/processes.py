"""Servers that are processes of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.forked import Forked, start_forked

BIN = Path(sys.executable).parent
STARTED = (BIN / "keyvault-server",)
"""The server's program, for a test that has to start it."""


@dataclass(frozen=True)
class ServerProcess:
    """A `keyvault-server` of its own."""

    process: "subprocess.Popen[str] | Forked"
    address: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def server_process(
    data: Path,
    listen: str = "127.0.0.1:0",
    program: Sequence[str | Path] = (),
    **environment: str,
) -> Iterator[ServerProcess]:
    """Fork a server, or start `program` as a user does; kill it at the end if it still runs."""
    log = data.parent / f"{data.name}.log"
    # A test's own import of the server sets it for every command but `serve`.
    ours = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    with log.open("ab") as stderr:
        command = [*(program or STARTED), "serve", "--data", data, "--listen", listen]
        process = _run(command, ours | environment, stderr, starts=bool(program))
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield ServerProcess(process, announced(process, log), log)
        finally:
            if process.poll() is None:
                process.kill()


def _run(
    command: Sequence[str | Path], environment: dict[str, str], stderr: IO[bytes], *, starts: bool
) -> "subprocess.Popen[str] | Forked":
    if starts:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
    return start_forked(command, environment, stderr)


def announced(process: "subprocess.Popen[str] | Forked", log: Path) -> str:
    """Return the address that a server announces; show its log if it ends before it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    ready = re.search(r"is ready on (\S+)", line)
    assert ready, f"the server did not start: {line}\n{log.read_text(errors='replace')}"
    return ready[1]
