"""The access log: one JSON line a call, on stderr with the rest of the log, never with a secret.

It bypasses `logging`, which costs a third of a Read: calls are gathered and written together, 50 ms later at most.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import NamedTuple, TextIO

FLUSH_SECONDS = 0.05


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
        self._lines: list[Line] = []

    def add(
        self, call: str, status: str, reason: str, name: str, caller: str, peer: str, request_id: str, seconds: float
    ) -> None:
        """Notes a call that has just ended."""
        self._lines.append(Line(call, status, reason, name, caller, peer, request_id, seconds * 1000, self._clock()))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes what is gathered. A stream that takes no more loses lines, never a call."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._stream.write("".join(json.dumps(line._asdict()) + "\n" for line in lines))
            self._stream.flush()
        except OSError:
            return
