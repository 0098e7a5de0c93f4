"""Servers that are processes of their own, started as a user starts them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class ServerProcess:
    """A `keyvault-server` of its own."""

    process: "subprocess.Popen[str]"
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
    program: Sequence[str | Path] = (BIN / "keyvault-server",),
    **environment: str,
) -> Iterator[ServerProcess]:
    """Start a server as a user does; kill it at the end if it still runs."""
    log = data.parent / f"{data.name}.log"
    # A test's own import of the server sets it for every command but `serve`.
    ours = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [*program, "serve", "--data", data, "--listen", listen],
            env=ours | environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield ServerProcess(process, announced(process, log), log)
        finally:
            if process.poll() is None:
                process.kill()


def announced(process: "subprocess.Popen[str]", log: Path) -> str:
    """Return the address that a server announces; show its log if it ends before it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    ready = re.search(r"is ready on (\S+)", line)
    assert ready, f"the server did not start: {line}\n{log.read_text(errors='replace')}"
    return ready[1]
