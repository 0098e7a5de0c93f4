"""The access log: one JSON line a call, on stderr with the rest of the log, never with a secret.

It bypasses `logging`, which costs a third of a Read: calls are gathered and written together, at most 50 ms later.
Calls that are only counted get one line a minute for each status and reason.

The rule of this file: no call waits for the reader of the log. A full pipe gets the lines later, or never.
"""

import asyncio
import select
import time
from collections import Counter, deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from typing import TextIO

FLUSH_SECONDS = 0.05
MAX_LINES = 10_000
"""Lines that are kept for a stream that accepts none; beyond that the oldest are lost."""
COUNT_SECONDS = 60.0
"""Longest time from a counted call to the line that has its number."""
CLOSE_SECONDS = 1.0
"""How long a block of lines may wait for the stream when the log is closed."""

_BLOCK = 4_096  # bytes: what a pipe that can be written to takes without a wait (PIPE_BUF)
_LINE = (
    '{"call": %s, "status": %s, "reason": %s, "name": %s, "caller": %s, "peer": %s, "request_id": %s,'
    ' "ms": %r, "time": %r}\n'
)
_COUNTED = '{"calls": %d, "status": %s, "reason": %s, "time": %r}\n'


Line = tuple[str, str, str, str, str, str, str, float, float]
"""The fields of `AccessLog.add`, then ms and the time."""
Counted = tuple[int, str, str, float]
"""How many calls, their status and reason, the time."""


class AccessLog:
    """Writes to one text stream; belongs to one event loop."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._lines: deque[Line | Counted] = deque(maxlen=MAX_LINES)
        self._next_flush: asyncio.TimerHandle | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._next_count: asyncio.TimerHandle | None = None

    def add(
        self, call: str, status: str, reason: str, name: str, caller: str, peer: str, request_id: str, seconds: float
    ) -> None:
        """Add a call that has just ended and took so many seconds.

        `call` is the method; `status` is OK, another gRPC status, or CANCELLED by the caller; `reason` is ErrorInfo's,
        empty if OK; `name` is the key_id or scope in the request, in plaintext, empty if it is not a valid one;
        `caller` is the caller's identity, empty where callers are not authenticated; `peer` is the caller's address;
        `request_id` is also in the caller's error. The line says ms, and when the call ended, in seconds since 1970.
        """
        self._append((call, status, reason, name, caller, peer, request_id, seconds * 1000, self._clock()))

    def count(self, status: str, reason: str) -> None:
        """Count a call that gets no line of its own."""
        self._counts[status, reason] += 1
        if self._next_count is None:
            self._next_count = asyncio.get_running_loop().call_later(COUNT_SECONDS, self.write_counts)

    def write_counts(self) -> None:
        """Add a line for each status and reason of the calls that were counted since the last time."""
        self._next_count = None
        for (status, reason), number in self._counts.items():
            self._append((number, status, reason, self._clock()))
        self._counts.clear()

    def _append(self, line: Line | Counted) -> None:
        self._lines.append(line)
        if self._next_flush is None:
            self._next_flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what the stream accepts without waiting; the rest is retried."""
        self._next_flush = None
        self._write(0)
        if self._lines:
            self._next_flush = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def close(self) -> None:
        """Write what is left. A stream that accepts no more loses lines, never a call."""
        if self._next_count is not None:
            self._next_count.cancel()
            self.write_counts()
        self._write(CLOSE_SECONDS)
        if self._next_flush is not None:
            self._next_flush.cancel()

    def _write(self, patience: float) -> None:
        while self._lines and accepts_more(self._stream, patience):
            try:
                self._stream.write(self._next_block())
                self._stream.flush()
            except OSError:
                self._lines.clear()

    def _next_block(self) -> str:
        """Format lines here, many in a row: next to each call it would take three times as long."""
        block = [_format(self._lines.popleft())]
        size = len(block[0])
        while self._lines:
            line = _format(self._lines[0])
            size += len(line)
            if size > _BLOCK:
                break
            block.append(line)
            self._lines.popleft()
        return "".join(block)


def _format(line: Line | Counted) -> str:
    """Return a line as JSON; json.dumps takes three times as long."""
    if len(line) == 4:
        number, status, reason, now = line
        return _COUNTED % (number, quoted(status), quoted(reason), now)
    return _LINE % (*map(quoted, line[:7]), *line[7:])


def accepts_more(stream: TextIO, patience: float = 0) -> bool:
    """Return whether a write of one block can begin within `patience` seconds."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # not a file descriptor that could block
        return True
    return bool(poll.poll(patience * 1000))
