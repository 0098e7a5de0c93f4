"""A caller with bad manners: HTTP/2 frames (RFC 9113) by hand, for what no gRPC library would send."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
GOAWAY = 7
ENHANCE_YOUR_CALM = 11
"""Error code of a GOAWAY (RFC 9113, 7)."""
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Rude:
    """One connection; only `frames` reads what the server sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of this end."""
        host, port, *_ = self._writer.get_extra_info("sockname")
        return host, port

    def begin(self, *, window: int = 65_535) -> None:
        """Send the preface; `window` is how many bytes of a stream the server may send before it is allowed more."""
        self._send(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window), first=_PREFACE)

    def call(self, stream: int, method: str, message: bytes | None = None) -> None:
        """Begin a call on a stream (odd numbers, rising); without a message it never ends."""
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "a", "te": "trailers"}
        headers["content-type"] = "application/grpc"
        block = b"".join(_literal(name, value) for name, value in headers.items())
        self._send(_HEADERS, _END_HEADERS, stream, block)
        if message is not None:
            self._send(_DATA, _END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)

    def ping(self) -> None:
        """Send a PING, which the server acknowledges."""
        self._send(_PING, 0, 0, bytes(8))

    async def goaway(self) -> int:
        """Wait until the server asks to leave; return its error code, 0 if it is not our fault."""
        async for kind, _, payload in self.frames():
            if kind == GOAWAY:
                return int.from_bytes(payload[4:8], "big")
        raise AssertionError

    async def frames(self) -> AsyncIterator[tuple[int, int, bytes]]:
        """Yield type, stream and payload of each frame that the server sends."""
        while True:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            yield head[3], int.from_bytes(head[5:], "big"), payload

    async def answer(self, stream: int) -> bytes:
        """Return the first header block that the server sends on a stream."""
        async for kind, number, payload in self.frames():
            if (kind, number) == (_HEADERS, stream):
                return payload
        raise AssertionError("the connection ended")

    def _send(self, kind: int, flags: int, stream: int, payload: bytes, first: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self._writer.write(first + head + payload)


@asynccontextmanager
async def rude(address: str) -> AsyncIterator[Rude]:
    """Open a plaintext connection to host:port while the body runs."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Rude(reader, writer)
    finally:
        writer.close()


def _literal(name: str, value: str) -> bytes:
    """Return a header as HPACK (RFC 7541, 6.2.2) encodes it without an index."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
