"""A command in a line for a shell, forked: `python -I -S asking.py FD PATH-OF-COMMAND ARGUMENT ...`.

FD is the socket of tests/support/forks.py. The command gets this process's streams, folder, environment and umask, and
this process ends as it does. What else a shell sets, such as a limit, does not reach it.

The rule of this file: it starts in an instant, so it imports nothing that it can do without.
"""

import json
import os
import socket
import sys


def main(descriptor: str, *command: str) -> None:
    """Have a command run and end as it ends."""
    streams = [number for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is not None]
    umask = os.umask(0o77)
    os.umask(umask)
    request = {
        "command": command,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "open": streams,
        "umask": umask,
        "terminal": False,
    }
    reported, report = os.pipe()
    socket.send_fds(socket.socket(fileno=int(descriptor)), [json.dumps(request).encode()], [*streams, report])
    os.close(report)
    with os.fdopen(reported) as lines:
        _, status = map(int, lines)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
