"""The access log: one JSON line a call, on stderr with the rest of the log, never with a secret.

It bypasses `logging`, which costs a third of a Read: calls are gathered and written together, 50 ms later at most. The
rule of this file: nobody waits for whoever reads the log. A full pipe takes the lines later, or never.
"""

import asyncio
import json
import select
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

FLUSH_SECONDS = 0.05
MAX_LINES = 10_000
"""Lines that are kept for a stream that takes none; of more, the oldest are lost."""
CLOSE_SECONDS = 1.0
"""How long the stream may take for a block of lines at the end."""

_BLOCK = 4_096  # bytes: what a pipe that can be written to takes without a wait (PIPE_BUF)


class Line(NamedTuple):
    """One call."""

    call: str
    """The method."""
    status: str
    """OK, another gRPC status, or CANCELLED by the caller."""
    reason: str
    """ErrorInfo's reason; empty if OK."""
    name: str
    """The key_id or scope that was asked for, in clear; empty if what was sent is no such name."""
    caller: str
    """The caller's identity; empty where nobody is asked."""
    peer: str
    """The caller's address."""
    request_id: str
    """Also in the caller's error."""
    ms: float
    """How long the call took."""
    time: float
    """When it ended, in seconds since 1970."""


class AccessLog:
    """Writes to one text stream; belongs to one event loop."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._next_flush: asyncio.TimerHandle | None = None

    def add(
        self, call: str, status: str, reason: str, name: str, caller: str, peer: str, request_id: str, seconds: float
    ) -> None:
        """Notes a call that has just ended."""
        self._lines.append(Line(call, status, reason, name, caller, peer, request_id, seconds * 1000, self._clock()))
        if self._next_flush is None:
            self._next_flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes what the stream takes at once; the rest is tried again."""
        self._next_flush = None
        self._write(0)
        if self._lines:
            self._next_flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def close(self) -> None:
        """Writes what is left. A stream that takes no more loses lines, never a call."""
        self._write(CLOSE_SECONDS)
        if self._next_flush is not None:
            self._next_flush.cancel()

    def _write(self, patience: float) -> None:
        while self._lines and takes_more(self._stream, patience):
            try:
                self._stream.write(self._next_block())
                self._stream.flush()
            except OSError:
                self._lines.clear()

    def _next_block(self) -> str:
        block: list[str] = []
        size = 0
        while self._lines:
            line = json.dumps(self._lines[0]._asdict()) + "\n"
            size += len(line)
            if block and size > _BLOCK:
                break
            block.append(line)
            self._lines.popleft()
        return "".join(block)


def takes_more(stream: TextIO, patience: float = 0) -> bool:
    """True if a write of one block does not wait, or not longer than `patience` seconds until it begins."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # nothing that could wait is below it
        return True
    return bool(poll.poll(patience * 1000))
