"""A caller with bad manners: HTTP/2 frames (RFC 9113) by hand, for what no gRPC library would send."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_DATA, _HEADERS, _SETTINGS, _PING, _CONTINUATION = 0, 1, 4, 6, 9
RST_STREAM, GOAWAY = 3, 7
_CANCEL = 8
ENHANCE_YOUR_CALM = 11
"""Error code of a GOAWAY or RST_STREAM (RFC 9113, 7)."""
INDEXED = b"\xbe"
"""The header that entered HPACK's table last (RFC 7541, 6.1)."""
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4
_EMPTY_SETTINGS = bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
_FRAME = 16_384
"""Maximum bytes of a frame, before a server allows more."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Rude:
    """One connection; only `frames` reads what the server sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.ends = False
        """Whether the frame that `frames` yielded last is the end of its call."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of this end."""
        host, port, *_ = self._writer.get_extra_info("sockname")
        return host, port

    def begin(self, *, window: int = 65_535) -> None:
        """Send the preface; `window` is how many bytes of a stream the server may send before it is allowed more."""
        self._send(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window), first=_PREFACE)

    def call(
        self,
        stream: int,
        method: str,
        message: bytes | None = None,
        token: str = "",
        encoding: str = "",
        more: bytes = b"",
    ) -> None:
        """Begin a call on a stream (odd numbers, rising); without a message it never ends.

        `encoding` is what the message is compressed with; `more` are further headers in HPACK.
        """
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "a", "te": "trailers"}
        headers["content-type"] = "application/grpc"
        if token:
            headers["authorization"] = f"Bearer {token}"
        if encoding:
            headers["grpc-encoding"] = encoding
        block = b"".join(literal(name, value) for name, value in headers.items())
        self._send(_HEADERS, _END_HEADERS, stream, block + more)
        if message is not None:
            data = struct.pack(">BI", bool(encoding), len(message)) + message
            for at in range(0, len(data), _FRAME):
                self._send(_DATA, _END_STREAM if at + _FRAME >= len(data) else 0, stream, data[at : at + _FRAME])

    def endless_headers(self, stream: int, block: bytes, *, first: bool) -> None:
        """Send a part of a header block, which goes on."""
        self._send(_HEADERS if first else _CONTINUATION, 0, stream, block)

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._send(RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))

    def settings(self, times: int) -> None:
        """Send settings that change nothing, so many times; the server acknowledges each."""
        self._writer.write(_EMPTY_SETTINGS * times)

    def part(self, stream: int, data: bytes) -> None:
        """Send a part of a call's message, which goes on."""
        self._send(_DATA, 0, stream, data)

    async def sent(self) -> None:
        """Wait until the operating system has taken what was sent."""
        await self._writer.drain()

    def abort(self) -> None:
        """End the connection at once, and drop what the server has not taken."""
        self._writer.transport.abort()

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
            self.ends = head[3] == _HEADERS and bool(head[4] & _END_STREAM)
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


def literal(name: str, value: str, *, indexed: bool = False) -> bytes:
    """Return a header as HPACK (RFC 7541, 6.2) encodes it; `indexed`: `INDEXED` stands for it from then on."""
    return (b"\x40" if indexed else b"\0") + _text(name) + _text(value)


def _text(text: str) -> bytes:
    """Return a string as HPACK (RFC 7541, 5.1 and 5.2) encodes it without Huffman's code."""
    data, rest = text.encode(), len(text.encode()) - 127
    if rest < 0:
        return bytes([len(data)]) + data
    length = bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + data
