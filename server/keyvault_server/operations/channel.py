"""The line between a parent and one of its workers: a pair of sockets, with a line of text for each message.

The rules of this file: sending never waits, since the other end may hang. The end of the line is the end of the other
process, whatever ended it.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from enum import StrEnum

_BLOCK = 4_096


class Report(StrEnum):
    """What a worker reports."""

    PREPARED = "prepared"
    """All is read and checked; it waits for LISTEN."""
    SERVING = "serving"
    READY = "ready"
    """Sent every second, or UNREADY is: the event loop turns, and the backends answered lately."""
    UNREADY = "unready"
    REFUSED = "refused"
    """With the sentence that says why it ends."""


class Order(StrEnum):
    """What a parent asks for."""

    LISTEN = "listen"
    """With the address."""
    STOP = "stop"
    HURRY = "hurry"
    """Wait no longer for the in-flight calls."""
    RELOAD = "reload"


class Channel:
    """One end of the line; receiving belongs to one event loop."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.setblocking(False)

    def send(self, word: Report | Order, text: str = "") -> None:
        """Send a message; drop it if the other end is gone, or has not read for very long."""
        with contextlib.suppress(OSError):
            self._end.send(f"{' '.join((word, *text.split()))}\n".encode())

    async def messages(self) -> AsyncIterator[tuple[str, str]]:
        """Yield each message of the other end, word and text, until that end is gone."""
        loop, rest = asyncio.get_running_loop(), b""
        while True:
            try:
                block = await loop.sock_recv(self._end, _BLOCK)
            except OSError:  # reset
                return
            if not block:
                return
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                word, _, text = line.decode(errors="replace").partition(" ")
                yield word, text

    def close(self) -> None:
        """Close this end."""
        self._end.close()
