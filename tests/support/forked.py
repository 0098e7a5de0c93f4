"""The command `keyvault` without its start: a process that has imported it forks for each run.

To start Python and import the command takes five times as long as what most calls do then. A fork gets what a new
process gets: arguments, environment, folder and streams of its own; it runs the same `main` and ends as Python ends.

The rule of this file: tests of the start itself (memory, signals, terminals, closed streams, shells) start the command.
"""

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
from pathlib import Path
from typing import IO, NoReturn

from tests.support.repository import ROOT

MESSAGE = 128 * 1024
"""Bytes of the longest request: arguments and environment."""


def run_keyvault(
    command: Sequence[str | Path],
    *,
    given: bytes,
    environment: Mapping[str, str],
    timeout: float,
    folder: Path | None = None,
    stdout: IO[bytes] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command, whose first word is its path, as subprocess.run does; capture what has no file."""
    sys.audit("subprocess.Popen", str(command[0]), list(command), None, None)  # a test of the unit tier may not
    return _forks().run(
        [str(word) for word in command], given, dict(environment), timeout, folder or Path.cwd(), stdout
    )


@cache
def _forks() -> "_Forks":
    """Return the one of this process; it ends with this process."""
    return _Forks()


class _Forks:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._asking = threading.Lock()

    def run(
        self,
        command: list[str],
        given: bytes,
        environment: dict[str, str],
        timeout: float,
        folder: Path,
        stdout: IO[bytes] | None,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Ask for a run and wait for its end. Raises TimeoutExpired."""
        with ThreadPoolExecutor(3) as threads:
            into, fed = os.pipe()
            printed, out = os.pipe()
            said, error = os.pipe()
            reported, report = os.pipe()
            theirs = [into, stdout.fileno() if stdout else out, error, report]
            message = json.dumps([command, environment, str(folder)]).encode()
            with self._asking:
                socket.send_fds(self._socket, [message], theirs)
            for descriptor in (into, out, error, report):
                os.close(descriptor)
            threads.submit(_feed, fed, given)
            outputs = [threads.submit(_drain, descriptor) for descriptor in (printed, said)]
            status = _status(reported, command, timeout)
            captured, line = (each.result() for each in outputs)
        return subprocess.CompletedProcess(command, status, None if stdout else captured, line)


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


def _status(reported: int, command: list[str], timeout: float) -> int:
    """Return the exit status of a run, -N for a signal N; end it if it takes too long."""
    with open(reported, "rb") as report:
        pid = int(report.readline())
        if not select.select([report], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            report.readline()
            raise subprocess.TimeoutExpired(command, timeout)
        return int(report.readline())


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
    os.write(report, b"%d\n" % status)
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
    from keyvault_client.cli import main

    _serve(socket.socket(fileno=descriptor))
    sys.exit(main())  # type: ignore[func-returns-value]


if __name__ == "__main__":
    _main(int(sys.argv[1]))
