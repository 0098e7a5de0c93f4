"""A process that has imported a command and forks for each run of it: `python -m tests.support.forks FD COMMAND`.

A request on the socket FD is a JSON object and the descriptors of the run: its open streams, and a pipe on which its
process id and later its exit status are reported, -N for a signal N.

The rules of this file:

- It imports gRPC and never uses it: gRPC's threads would not be in a fork.
- A fork gets what a new process gets; what only a start reads is the same for all (tests/support/forked.py).
"""

import fcntl
import gc
import json
import os
import signal
import socket
import sys
import termios
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

MAINS = {"keyvault": "keyvault_client.cli", "keyvault-server": "keyvault_server.operations.cli"}
"""Where the `main` of each command is."""
APPS = {"keyvault": "keyvault_client.cli_app"}
"""Where the parts of a command are that its `main` imports when they are needed."""
KILLED_AT = "TEST_KILLED_AT"
"""Variable of a run: the number of the change of a name in a folder before which it is killed."""
_MESSAGE = 128 * 1024
"""Bytes of the longest request: arguments and environment."""
_STREAMS = 3


def _serve(connection: socket.socket) -> None:
    """Fork for each request; return in the process that is to be a command, exit when nobody can ask any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE, _STREAMS + 1)
        if not message:
            os._exit(0)  # each fork writes its own coverage, with that of the imports
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
        _become(json.loads(message), streams)
        return
    for descriptor in streams:
        os.close(descriptor)
    os.write(report, b"%d\n" % pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.write(report, b"%d\n" % status)
    finally:
        os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take over what a new process starts with."""
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background
    for number in range(_STREAMS):
        if number in request["open"]:
            os.dup2(streams[0], number)
            os.close(streams.pop(0))
        else:
            os.close(number)
    if request["umask"] is not None:
        os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    if KILLED_AT in os.environ:
        _kill_at(int(os.environ[KILLED_AT]))
    _open_streams(request["open"])


def _is_below(folder: Path, name: str) -> bool:
    return Path(folder, name).resolve().is_relative_to(folder)


def _kill_at(number: int) -> None:
    """Kill this process, as a crash does, before it links or renames the file of this number below its folder.

    Bytecode and what coverage writes are elsewhere.
    """
    steps = iter(range(1, number))

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in {"os.rename", "os.link"} or not _is_below(Path.cwd(), os.fsdecode(arguments[1])):
            return
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)


def _open_streams(numbers: list[int]) -> None:
    """Open them as Python does; those that are closed are None."""
    sys.stdin = open(0, closefd=False) if 0 in numbers else None  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False) if 1 in numbers else None  # noqa: SIM115
    sys.stderr = (
        open(2, "w", closefd=False, errors="backslashreplace", buffering=1) if 2 in numbers else None  # noqa: SIM115
    )


def _main(descriptor: int) -> NoReturn:
    """Import the command of sys.argv, as far as an import looks at it; then fork it."""
    main = import_module(MAINS[sys.argv[0]]).main
    if sys.argv[0] in APPS:
        import_module(APPS[sys.argv[0]]).import_commands()
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page that it shares
    _serve(socket.socket(fileno=descriptor))
    sys.exit(main())


if __name__ == "__main__":
    _, fileno, *sys.argv = sys.argv
    _main(int(fileno))
