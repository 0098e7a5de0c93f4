"""One HTTP/2 connection of the load generator (RFC 9113): unary gRPC calls with as little work a call as Python allows.

grpcio's own client takes as much CPU a call as the server does, so that it, and not the server, would be measured.
Calls here are frames written by hand, and a reply is its status, its time and, where asked for, its message.

The rule of this file: it keeps to the server's windows and acknowledges what the server asks it to, as clients do.
"""

import asyncio
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.hpack import RequestHeaders, Statuses

OK = 0
BROKEN = -1
"""Status of a call whose connection or stream ended without one."""
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK = _END_STREAM = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_INITIAL_WINDOW_SIZE = 4
_FRAME = 16_384
_STREAM_WINDOW = 2**24
_CONNECTION_WINDOW = 2**30
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">HBBBI")
_MESSAGE = struct.Struct(">BI")

Done = Callable[["Call"], None]


@dataclass(slots=True, eq=False)
class Call:
    """One call, from its sending to its status."""

    done: Done
    began: float
    slot: int = 0
    """Which of the load's places the call has."""
    status: int = BROKEN
    seconds: float = 0.0
    message: bytearray | None = None
    """The reply's frames, if the call keeps them."""
    waiting: bytes = b""
    """What the server's windows do not let us send yet."""
    window: int = 0


class Connection(asyncio.Protocol):
    """One connection; all calls on it have the same headers."""

    def __init__(self, headers: RequestHeaders) -> None:
        self._headers = headers
        self._block = headers.first
        self._statuses = Statuses()
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._unread = b""
        self._out: list[bytes] = []
        self._flushing = False
        self._window, self._initial = 65_535, 65_535
        self._taken = 0
        self._blocked: deque[int] = deque()
        self._fragment = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def __len__(self) -> int:
        """Return the number of calls in flight."""
        return len(self._calls)

    @property
    def port(self) -> int:
        """Return the port of our end."""
        assert self._transport is not None
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        self._transport = transport
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _STREAM_WINDOW)
        self._out.append(_PREFACE + _frame(_SETTINGS, 0, 0, settings))
        self._out.append(_frame(_WINDOW, 0, 0, struct.pack(">I", _CONNECTION_WINDOW)))
        self._flush()

    def call(self, request: bytes, done: Done, slot: int = 0, *, keep: bool = False) -> None:
        """Send a call; `done` is called when its status came, or the connection broke."""
        call = Call(done, time.perf_counter(), slot, message=bytearray() if keep else None)
        if self.closed:
            self._loop.call_soon(done, call)
            return
        stream, self._next = self._next, self._next + 2
        self._calls[stream] = call
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, self._block))
        self._block = self._headers.then
        body = _MESSAGE.pack(0, len(request)) + request
        call.window = self._initial
        if len(body) <= _FRAME and len(body) <= self._window and not self._blocked:
            self._window -= len(body)
            self._out.append(_frame(_DATA, _END_STREAM, stream, body))
        else:
            call.waiting = body
            self._blocked.append(stream)
            self._send_waiting()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """End the connection at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.closed = True
        for stream in list(self._calls):
            self._end(stream, BROKEN)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        data = self._unread + data if self._unread else data
        at, end = 0, len(data)
        self._flushing = True  # replies that came together lead to calls that leave together
        while end - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if end - at - 9 < size:
                break
            self._take(kind, flags, stream & 0x7FFFFFFF, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._unread = data[at:]
        self._flush()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._take_data(stream, payload)
        elif kind in (_HEADERS, _CONTINUATION):
            self._take_headers(kind, flags, stream, payload)
        elif kind == _WINDOW:
            self._widen(stream, int.from_bytes(payload, "big") & 0x7FFFFFFF)
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST:
            self._end(stream, BROKEN)

    def _take_data(self, stream: int, payload: bytes) -> None:
        call = self._calls.get(stream)
        if call is not None and call.message is not None:
            call.message += payload
        self._taken += len(payload)
        if self._taken > _CONNECTION_WINDOW // 4:
            self._out.append(_frame(_WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0

    def _take_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert not flags & (_PADDED | _PRIORITY) or kind == _CONTINUATION, "no server that is measured sends these"
        self._fragment += payload
        if not flags & _END_HEADERS:
            return
        block, self._fragment = self._fragment, b""
        status = self._statuses.of(block)
        if status is not None:
            self._end(stream, status)

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _INITIAL_WINDOW_SIZE:
                for call in self._calls.values():
                    call.window += value - self._initial
                self._initial = value
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_waiting()

    def _widen(self, stream: int, more: int) -> None:
        if not stream:
            self._window += more
        elif stream in self._calls:
            self._calls[stream].window += more
        if self._blocked:
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what the windows allow of the calls that wait, the oldest first."""
        for stream in [self._blocked.popleft() for _ in range(len(self._blocked))]:
            call = self._calls.get(stream)
            while call and call.waiting and (size := min(_FRAME, len(call.waiting), self._window, call.window)) > 0:
                self._window -= size
                call.window -= size
                part, call.waiting = call.waiting[:size], call.waiting[size:]
                self._out.append(_frame(_DATA, 0 if call.waiting else _END_STREAM, stream, part))
            if call and call.waiting:
                self._blocked.append(stream)

    def _end(self, stream: int, status: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.status = status
            call.seconds = time.perf_counter() - call.began
            call.done(call)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


async def connect(address: str, headers: RequestHeaders, tls: ssl.SSLContext | None = None) -> Connection:
    """Open a connection to host:port; with `tls`, as HTTP/2 over TLS."""
    host, _, port = address.rpartition(":")
    name = "localhost" if tls is not None else None
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(headers), host, int(port), ssl=tls, server_hostname=name
    )
    return connection
