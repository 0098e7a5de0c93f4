"""Standard error as gRPC's core writes it, read line by line: what it says in no other way reaches us here.

The core writes to descriptor 2, whatever Python does with sys.stderr. While `core_log` runs, descriptor 2 is a pipe to
a small process, this file run as a program. It sends the core's notes (I, W) back to the server, and everything else,
such as the stack of an abort, to the real standard error. It is a process because a thread of ours ends with an abort.

The rules of this file: a write of the core never waits, so lines are lost once 64 KiB of them wait. Every line that is
not a note of the core is passed on. This file imports nothing of ours: its process must stay small.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

_NOTE = re.compile(rb"[IW]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.cc:\d+\] ")
_LONGEST = 4_096  # bytes of a line that are written in one piece (PIPE_BUF)
_LAST_SECONDS = 1.0


@contextlib.contextmanager
def core_log(take: Callable[[bytes], None]) -> Iterator[None]:
    """Call `take` on a thread of its own with each note of the core while the body runs. sys.stderr stays as it is."""
    standard_error, stderr = os.dup(2), sys.stderr
    readable, notes = os.pipe()
    lines, core = os.pipe()
    os.set_blocking(core, False)
    os.set_blocking(notes, False)
    # Its own session: Ctrl-C on a terminal is for the server; the process ends with the server's end of the pipe.
    command = (sys.executable, "-I", "-S", __file__, str(notes))
    process = subprocess.Popen(
        command,
        stdin=lines,
        stdout=subprocess.DEVNULL,
        stderr=standard_error,
        pass_fds=(notes,),
        start_new_session=True,
    )
    os.close(lines)
    os.close(notes)
    sys.stderr = os.fdopen(standard_error, "w", buffering=1, encoding=stderr.encoding, errors="backslashreplace")
    reader = threading.Thread(target=_read, args=(readable, take), daemon=True)
    reader.start()
    os.dup2(core, 2)
    os.close(core)
    try:
        yield
    finally:
        os.dup2(standard_error, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child of ours may have inherited the pipe
            process.wait(_LAST_SECONDS)
        process.kill()
        process.wait()
        reader.join()
        sys.stderr = stderr


def _read(notes: int, take: Callable[[bytes], None]) -> None:
    with os.fdopen(notes, "rb") as lines:
        for line in lines:
            take(line)


def _divide(lines: BinaryIO, notes: int, shown: bool) -> None:
    """Divide the lines until their last writer has gone; notes go to standard error as well if they are to be shown."""
    while line := lines.readline(_LONGEST):
        is_note = _NOTE.match(line)
        if is_note:
            with contextlib.suppress(OSError):  # full, or the server is gone
                os.write(notes, line)
        if shown or not is_note:
            os.write(2, line)


if __name__ == "__main__":
    _divide(sys.stdin.buffer, int(sys.argv[1]), shown="GRPC_VERBOSITY" in os.environ)  # noqa: TID251
