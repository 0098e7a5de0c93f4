"""The commands `keyvault` and `keyvault-server` without their start: a process that has imported one forks each run.

To start Python and import a command takes five times as long as what most calls do then. A fork gets what a new
process gets: arguments, environment, folder and streams of its own; it runs the same `main` and ends as Python ends.

The rule of this file: tests of the start itself (memory, limits, early signals) start the command.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.support import asking
from tests.support.repository import ROOT

READ_AT_A_START = ("LD_", "PYTHON", "GRPC_", "MALLOC_", "COVERAGE_", "OPENSSL_", "LANG", "LC_")
"""Beginnings of variables that a process reads when it starts or imports: each value has a process of its own."""
_VERBOSITY = "GRPC_VERBOSITY"
_starting = threading.Lock()


def run_forked(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    timeout: float,
    given: bytes = b"",
    folder: Path | None = None,
    stdout: IO[bytes] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command, whose first word is its path, as subprocess.run does; capture what has no file.

    Raises TimeoutExpired.
    """
    with ThreadPoolExecutor(3) as threads:
        into, fed = os.pipe()
        printed, out = os.pipe()
        said, error = os.pipe()
        streams = (into, stdout.fileno() if stdout else out, error)
        try:
            process = Forked(command, environment, streams, folder)
        finally:
            for descriptor in (into, out, error):
                os.close(descriptor)
            threads.submit(_feed, fed, given)
            outputs = [threads.submit(_drain, descriptor) for descriptor in (printed, said)]
        with process:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        captured, line = (each.result() for each in outputs)
    return subprocess.CompletedProcess(process.args, status, None if stdout else captured, line)


def operate(
    arguments: Sequence[str | Path], environment: Mapping[str, str], folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `keyvault-server` with these variables in addition to this process's; its output is text."""
    command = [Path(sys.executable).with_name("keyvault-server"), *arguments]
    done = run_forked(command, environment=os.environ | environment, timeout=60, folder=folder)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def start_forked(command: Sequence[str | Path], environment: Mapping[str, str], stderr: IO[bytes]) -> "Forked":
    """Start a command as subprocess.Popen does, with a pipe for its output."""
    printed, out = os.pipe()
    try:
        with Path(os.devnull).open("rb") as nothing:
            return Forked(command, environment, (nothing.fileno(), out, stderr.fileno()), printed=printed)
    except BaseException:
        os.close(printed)
        raise
    finally:
        os.close(out)


class Forked:
    """A command that runs, with what the tests use of subprocess.Popen. Its end is reported by its parent."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
        folder: Path | None = None,
        *,
        printed: int | None = None,
        terminal: bool = False,
    ) -> None:
        """Fork it; `printed` is the end of a pipe that becomes `stdout`, a terminal in `streams` controls it."""
        self.args = [str(word) for word in command]
        sys.audit("subprocess.Popen", self.args[0], self.args, None, None)  # a test of the unit tier may not
        request = {
            "command": self.args,
            "environment": dict(environment),
            "folder": str(folder or Path.cwd()),
            "open": [0, 1, 2],
            "umask": None,
            "terminal": terminal,
        }
        with _starting:  # or two threads would each start a process that forks
            forks = _forks_of(self.args, environment)
        reported = forks.ask(request, streams)
        self._report = os.fdopen(reported, "rb", buffering=0)  # closed by __exit__
        self.pid = int(self._report.readline())
        self.returncode: int | None = None
        self.stdout = os.fdopen(printed, encoding="utf-8") if printed is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Wait for the end, as Popen does."""
        if self.stdout:
            self.stdout.close()
        self.wait()
        self._report.close()

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, -N for a signal N. Raises TimeoutExpired."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the command if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and we have not heard of it
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], timeout)[0]:
            self.returncode = int(self._report.readline())
        return self.returncode


def run_line(
    line: str, programs: Iterable[Path], folder: Path, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[bytes]":
    """Run a line with bash, which can close a stream or redirect it; these programs in it are forked.

    `keyvault-server serve` is started.
    """
    sockets = {program: _forks_of([str(program)], environment).socket.fileno() for program in programs}
    asked = "\n".join(
        f'{program.name}() {{ case "$1" in serve) "{program}" "$@" ;; '
        f'*) "{sys.executable}" -I -S "{asking.__file__}" {descriptor} "{program}" "$@" ;; esac; }}'
        for program, descriptor in sockets.items()
    )
    return subprocess.run(
        ["bash", "-c", f"{asked}\n{line}"],
        cwd=folder,
        env=environment,
        pass_fds=list(sockets.values()),
        capture_output=True,
        timeout=60,
        check=False,
    )


def _forks_of(command: Sequence[str], environment: Mapping[str, str]) -> "_Forks":
    """Return what forks this command in this process."""
    program, serves = Path(command[0]).name, command[1:2] == ["serve"]
    read = {name: value for name, value in environment.items() if name.startswith(READ_AT_A_START)}
    if program == "keyvault-server" and not serves:
        read.setdefault(_VERBOSITY, "ERROR")  # as its import does
    if program == "keyvault":
        read.setdefault(_VERBOSITY, "NONE")  # as its main() does before it imports gRPC
    return _forks((program, "serve") if serves else (program,), tuple(sorted(read.items())))


@cache
def _forks(words: tuple[str, ...], read: tuple[tuple[str, str], ...]) -> "_Forks":
    """Return the one of this process for what an import looks at; it ends with this process."""
    return _Forks(words, dict(read))


class _Forks:
    """The process that forks, seen from the tests."""

    def __init__(self, words: Sequence[str], read: dict[str, str]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        others = {name: value for name, value in os.environ.items() if not name.startswith(READ_AT_A_START)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks", str(theirs.fileno()), *words],
                cwd=ROOT,
                env=others | read,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._asking = threading.Lock()

    def ask(self, request: Mapping[str, object], streams: tuple[int, int, int]) -> int:
        """Ask for a run; return the descriptor from which its process id and then its exit status can be read."""
        reported, report = os.pipe()
        try:
            with self._asking:
                socket.send_fds(self.socket, [json.dumps(request).encode()], [*streams, report])
        except BaseException:
            os.close(reported)
            raise
        finally:
            os.close(report)
        return reported


def _feed(descriptor: int, given: bytes) -> None:
    """Write standard input, as far as it is read."""
    try:
        with open(descriptor, "wb") as file:
            file.write(given)
    except BrokenPipeError:
        pass


def _drain(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
