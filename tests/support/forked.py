"""The commands `keyvault` and `keyvault-server` without their start: a process that has imported one forks each run.

To start Python and import a command takes five times as long as what most calls do then. A fork gets what a new
process gets: arguments, environment, folder and streams of its own; it runs the same `main` and ends as Python ends.

The rules of this file:

- Tests of the start itself (memory, limits, signals at the start, terminals, closed streams, shells) start the command.
- A process that forks has imported gRPC and never used it: gRPC's threads would not be in the fork.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

from tests.support.repository import ROOT

MAINS = {"keyvault": "keyvault_client.cli", "keyvault-server": "keyvault_server.operations.cli"}
"""Where the `main` of each command is."""
MESSAGE = 128 * 1024
"""Bytes of the longest request: arguments and environment."""
READ_AT_A_START = ("LD_", "PYTHON", "GRPC_", "MALLOC_", "COVERAGE_", "OPENSSL_")
"""Beginnings of variables that a process reads when it starts or imports: a fork does not see another value."""
VERBOSITY = "GRPC_VERBOSITY"
"""The one of them that has a process for each value, since the import of the server sets it for most commands."""


class NeedsStart(Exception):
    """A command is given what only a start reads."""


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

    Raises TimeoutExpired and NeedsStart.
    """
    with ThreadPoolExecutor(3) as threads:
        into, fed = os.pipe()
        printed, out = os.pipe()
        said, error = os.pipe()
        streams = (into, stdout.fileno() if stdout else out, error)
        try:
            process = Forked(command, environment, folder or Path.cwd(), streams)
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
    """Start a command as subprocess.Popen does, with a pipe for its output. Raises NeedsStart."""
    printed, out = os.pipe()
    try:
        with Path(os.devnull).open("rb") as nothing:
            return Forked(command, environment, Path.cwd(), (nothing.fileno(), out, stderr.fileno()), printed)
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
        folder: Path,
        streams: tuple[int, int, int],
        printed: int | None = None,
    ) -> None:
        self.args = [str(word) for word in command]
        sys.audit("subprocess.Popen", self.args[0], self.args, None, None)  # a test of the unit tier may not
        if needs_start(environment):
            raise NeedsStart(f"one of {READ_AT_A_START} is set")
        reported = _forks_of(self.args, environment.get(VERBOSITY)).ask(self.args, environment, folder, streams)
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
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], timeout)[0]:
            self.returncode = int(self._report.readline())
        return self.returncode


def needs_start(environment: Mapping[str, str]) -> bool:
    """Report whether a variable that only a start reads differs from this process's."""
    return any(
        name.startswith(READ_AT_A_START) and environment.get(name) != os.environ.get(name)
        for name in {*environment, *os.environ} - {VERBOSITY}
    )


def _forks_of(command: Sequence[str], verbosity: str | None) -> "_Forks":
    """Return what forks this command in this process."""
    program, serves = Path(command[0]).name, command[1:2] == ["serve"]
    if program == "keyvault-server" and not serves:
        return _forks((program,), verbosity or "ERROR")  # as its import has it
    return _forks((program, "serve") if serves else (program,), verbosity)


@cache
def _forks(words: tuple[str, ...], verbosity: str | None) -> "_Forks":
    """Return the one of this process for the words that an import looks at; it ends with this process."""
    return _Forks(words, verbosity)


class _Forks:
    """The process that forks, seen from the tests."""

    def __init__(self, words: Sequence[str], verbosity: str | None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: value for name, value in os.environ.items() if name != VERBOSITY}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *words],
                cwd=ROOT,
                env=environment | ({VERBOSITY: verbosity} if verbosity else {}),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._asking = threading.Lock()

    def ask(
        self, command: list[str], environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
    ) -> int:
        """Ask for a run; return the descriptor from which its process id and then its exit status can be read."""
        reported, report = os.pipe()
        message = json.dumps([command, dict(environment), str(folder)]).encode()
        try:
            with self._asking:
                socket.send_fds(self._socket, [message], [*streams, report])
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


def _serve(connection: socket.socket) -> None:
    """Fork for each request; return in the process that is to be a command, exit when nobody can ask any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 4)
        if not message:
            sys.exit()
        if os.fork() == 0:
            connection.close()
            _keep(message, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(message: bytes, descriptors: list[int]) -> None:
    """Fork once more, and return in the new process; wait for it, report how it ended, and end."""
    *streams, report = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(report)
        command, environment, folder = json.loads(message)
        _become(command, environment, folder, streams)
        return
    for descriptor in streams:
        os.close(descriptor)
    os.write(report, b"%d\n" % pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.write(report, b"%d\n" % status)
    finally:
        os._exit(0)


def _become(command: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """Take over what a new process starts with."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 # as Python opens them
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115


def _main(descriptor: int) -> NoReturn:
    """Import the command of sys.argv, as far as an import looks at it; then fork it."""
    main = import_module(MAINS[sys.argv[0]]).main
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page that it shares
    _serve(socket.socket(fileno=descriptor))
    sys.exit(main())


if __name__ == "__main__":
    _, fileno, *sys.argv = sys.argv
    _main(int(fileno))
