"""One HTTP/1.1 connection of the load generator: requests ready as bytes, one in flight, for OpenBao.

The rule of this file: it reads what Go's server writes, replies with a length or in chunks, and no more.
"""

import asyncio
import time
from typing import Any

from benchmarks.http2 import Call, Done

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Http1Connection(asyncio.Protocol):
    """One connection; the status of a call is that of HTTP."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._unread = b""
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def __len__(self) -> int:
        """Return the number of calls in flight."""
        return self._call is not None

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self._transport = transport

    def call(self, request: bytes, done: Done, slot: int = 0) -> None:
        """Send a whole request; `done` is called when its reply came, or the connection broke."""
        call = Call(done, time.perf_counter(), slot)
        if self.closed or self._transport is None:
            asyncio.get_running_loop().call_soon(done, call)
            return
        assert self._call is None, "a connection has one call in flight"
        self._call = call
        self._transport.write(request)

    def close(self) -> None:
        """End the connection at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.closed = True
        self._end()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._unread += data
        if self._call is not None and is_whole(self._unread):
            self._call.status = int(self._unread[9:12])
            self._unread = b""
            self._end()

    def _end(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.seconds = time.perf_counter() - call.began
            call.done(call)


def is_whole(reply: bytes) -> bool:
    """Return whether the bytes are one whole reply."""
    end = reply.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = reply.find(b"Content-Length: ", 0, end)
    if at < 0:
        return reply.endswith(_LAST_CHUNK) or reply.startswith(b"HTTP/1.1 204")
    return len(reply) >= end + 4 + int(reply[at + 16 : reply.find(b"\r\n", at)])


def http1_request(method: str, address: str, path: str, token: str, body: bytes = b"") -> bytes:
    """Return the bytes of a request to OpenBao."""
    lines = (f"{method} {path} HTTP/1.1", f"Host: {address}", f"X-Vault-Token: {token}", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


async def connect_http1(address: str) -> Http1Connection:
    """Open a connection to host:port."""
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(Http1Connection, host, int(port))
    return connection
