"""A secret from a person at a terminal: one line, not shown.

The rule of this file: what was pasted is taken whole or refused. A terminal hands over one line and truncates a long
one, and the shell would run the lines after it.
"""

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator

from keyvault_client.errors import InvalidRequest

MAX_LINE = 4_095
"""Bytes of a line that a terminal hands over; it drops the rest (termios(3), canonical mode)."""
PASTE_SECONDS = 0.1
"""Time in which the rest of a paste arrives."""


def ask(terminal: int, question: str) -> bytes:
    """Ask on standard error, and return the line that is typed, without its end. Raises InvalidRequest.

    1. Echo is off, and what was typed before the question is dropped.
    2. Read a line.
    3. Look for more of the same paste.
    4. Echo is as before, and more of the paste is dropped.
    """
    before = termios.tcgetattr(terminal)
    try:
        # 1.
        _set(terminal, before, termios.ECHO | termios.ECHONL, termios.TCSAFLUSH)
        _say(question)
        # 2.
        line = os.read(terminal, MAX_LINE + 1)
        # 3. Without ICANON a line that has no end yet can be seen, too.
        _set(terminal, before, termios.ECHO | termios.ECHONL | termios.ICANON, termios.TCSANOW)
        more = _pasted(terminal)
    finally:
        # 4.
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        _say("\n")
    if more.strip(b"\r\n\0\x04"):  # the end of input once more is \0 or ^D here
        raise InvalidRequest("more than one line was given: send the data through a file or a pipe")
    line = line.removesuffix(b"\n")
    if len(line) >= MAX_LINE:
        raise InvalidRequest(f"a terminal takes fewer than {MAX_LINE} bytes: send the data through a file or a pipe")
    return line


def is_interactive() -> bool:
    """Return whether a person can be asked: they see standard error, and type standard input."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def agrees(question: str) -> bool:
    """Ask a person, whom `is_interactive` found; return False for a no or the end of input, else True."""
    with interruptible():
        _say(question)
        answer = os.read(sys.stdin.fileno(), MAX_LINE)
    if not answer:
        _say("\n")
    return bool(answer) and not answer.strip().lower().startswith(b"n")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what waits for input. The handler of asyncio would only note it until the input has ended."""
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # neither ignored nor foreign
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)


def _set(terminal: int, attributes: list[int | list[bytes | int]], off: int, when: int) -> None:
    """Set a terminal's attributes with these local modes off."""
    changed = list(attributes)
    local = changed[3]
    assert isinstance(local, int)
    changed[3] = local & ~off
    termios.tcsetattr(terminal, when, changed)


def _pasted(terminal: int) -> bytes:
    readable, _, _ = select.select([terminal], [], [], PASTE_SECONDS)
    return os.read(terminal, MAX_LINE) if readable else b""


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
